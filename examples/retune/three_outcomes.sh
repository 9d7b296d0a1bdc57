#!/bin/sh
# Search and serve a policy, then change its model three times: a little, more, and until nothing is left of it.
# Everything happens in the folder given (default: retune-demo). Needs autoprune[mlflow,examples].
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:-retune-demo}"
cd "${1:-retune-demo}"
cp "$HERE/spec.yaml" .
cp -r "$HERE/../reference_vlm/checkpoint" model
python "$HERE/../reference_vlm/make_data.py" --out calib --images 700 --questions-per-image 2 --pool search --seed 5
autoprune search spec.yaml
autoprune policy promote models:/reference@candidate

python "$HERE/change_model.py" --out model --steps 4 --rate 1e-5      # a little: re-certified
autoprune retune spec.yaml --once
python "$HERE/change_model.py" --out model --steps 40 --rate 7e-4     # more: searched, and promoted
autoprune retune spec.yaml --once
python "$HERE/change_model.py" --out model --ruin                     # ruined: refused, the champion is kept
autoprune retune spec.yaml --once || echo "exit code $?"
autoprune policy history reference
