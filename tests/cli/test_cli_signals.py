"""A search that is asked to stop says how to go on, whoever asks."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

WAITS = """
import sys, time
from autoprune import api

def search(*_, **__):
    print("searching", file=sys.stderr, flush=True)
    time.sleep(600)

api.search = search
from autoprune.cli.main import run
run(["search", "spec.yaml", "--json"])
"""


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_search_with_130_and_says_how_to_continue(asked: signal.Signals) -> None:
    pipe = subprocess.PIPE
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    with subprocess.Popen(
        [sys.executable, "-c", WAITS], stdout=pipe, stderr=pipe, text=True, preexec_fn=heed
    ) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline().strip() == "searching"
            process.send_signal(asked)
            out, _ = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 130
    (error,) = json.loads(out)["errors"]
    assert error["message"] == "interrupted; the same command continues where this one stopped"
