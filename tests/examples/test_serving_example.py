"""The serving example: a pipeline that is pruned without knowing of it, request by request."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

import autoprune

SCRIPT = Path(__file__).parents[2] / "examples" / "serving" / "answer.py"
PROMPTS = ["what color is the circle ?", "how many circles are there ?"]
POLICY = """\
schema: autoprune/policy/1
name: half
stages: [{at: llm:1/2, keep: 1/4, score: {llm_attention: {from: text}}}]
guard: [{when: {prompt: "^how many"}, use: none}]
"""


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location("serving_answer", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_example_answers_and_says_what_it_cost(
    example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    picture = Image.new("RGB", (96, 96), "white")
    ImageDraw.Draw(picture).ellipse((30, 30, 66, 66), fill="red")
    picture.save(tmp_path / "picture.png")
    (tmp_path / "policy.yaml").write_text(POLICY)
    assert example.main([str(tmp_path / "policy.yaml"), str(tmp_path / "picture.png"), *PROMPTS]) == 0
    first, second, status = capsys.readouterr().out.strip().splitlines()
    assert first.startswith(PROMPTS[0])
    assert "(0.62 of the visual positions)" in first
    assert "(1.00 of the visual positions)" in second
    found = json.loads(status)
    assert (found["policy"], found["models"], found["running"]) == ("half", 1, 0)
    assert found["served"]["prefills"] == 2
    assert found["served"]["guarded"] == {"prompt '^how many': none": 1}


def test_a_pipeline_says_under_a_handle_what_generate_says(example: Any, tmp_path: Path) -> None:
    picture = Image.new("RGB", (96, 96), "navy")
    (tmp_path / "policy.yaml").write_text(POLICY)
    pipe = example.serve(example.CHECKPOINT)
    content = [{"type": "image"}, {"type": "text", "text": PROMPTS[0]}]
    text = pipe.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = pipe.processor(images=[picture], text=[text], add_special_tokens=True, return_tensors="pt")
    with autoprune.load_policy(tmp_path / "policy.yaml").attach(pipe.model, prompt=""):
        made = pipe.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    expected = pipe.tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    with autoprune.PolicyHandle(tmp_path / "policy.yaml", refresh=None) as handle:
        handle.attach(pipe.model, tokenizer=pipe.tokenizer)
        found, budget = example.answer(pipe, picture, PROMPTS[0])
    assert found == expected
    assert budget < 1
