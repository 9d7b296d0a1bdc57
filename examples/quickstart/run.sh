#!/bin/sh
# One command from a bare checkout to a certified, registered policy: installs into .venv, makes the calibration
# questions, searches, and answers one question with the policy that won.
set -eu
cd "$(dirname "$0")/../.."
EXTRAS=ray,mlflow,examples
. .ci/venv.sh
if [ ! -f examples/quickstart/calib/records.jsonl ]; then
    "$VENV/bin/python" examples/reference_vlm/make_data.py --out examples/quickstart/calib \
        --images 720 --questions-per-image 2 --pool search --seed 12
fi
"$VENV/bin/autoprune" search examples/quickstart/spec.yaml "$@"
cd examples/quickstart
"../../$VENV/bin/autoprune" front quickstart
"../../$VENV/bin/autoprune" run models:/quickstart@candidate --image calib/images/000001.png \
    --prompt "what is the number?"
