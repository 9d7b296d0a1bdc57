"""The commented spec that `autoprune init` writes. A test validates it key by key against the models."""

TEMPLATE = """\
# An AutoPrune study. `autoprune validate spec.yaml` checks it, `autoprune search spec.yaml` runs it.
schema: autoprune/spec/1
name: my-study                            # studies and .autoprune/ are named after it

model:
  path: llava-hf/llava-1.5-7b-hf          # a hub id, or a folder relative to this file
  revision: main                          # pin a commit: another model is another study
  dtype: bfloat16                         # float32 | bfloat16 | float16
  device: cuda                            # cpu | cuda | cuda:1 | mps
  attn_implementation: sdpa               # sdpa | eager | flash_attention_2
  trust_remote_code: false                # true runs code from the model's repository
  batch_size: 16                          # questions per forward pass while measuring

calibration:
  records: calib/records.jsonl            # a line: {"images": ["a.png"], "prompt": "…", "answer": "…", "type": "…"}
  images: calib                           # the folder the image paths are relative to (default: the records' folder)
  search: 384                             # records the search measures on
  holdout: auto                           # records that certify; auto = as many as the constraints need
  stratify_by: type                       # every split gets its share of each value
  seed: 7

search_space: two_stage_mixed             # a name in search_spaces/, a path, or written out here
objectives: accuracy_flops                # a name in objectives/, or a list:
# objectives: [maximize exact_match, minimize prefill_flops]
constraints:                              # MEASURE >= x | x * baseline | baseline - x % | baseline - x points
  - exact_match >= 0.97 * baseline

search:
  strategy: auto                          # autoprune strategies lists them
  trials: 64                              # completed distinct evaluations; raise it to continue a study
  time: 3h                                # wall-clock limit
  executor: auto                          # auto | inline | ray | ray-tune | {ray: {workers: 4, gpus_per_worker: 1}}
  seed: 0

certify: {confidence: 0.95}
output:
  register: my-study                      # registered name in MLflow; leave out to publish nothing
  select: minimize prefill_flops          # which of the certified policies is published
"""
