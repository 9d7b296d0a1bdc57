"""The same against a real tracking server over HTTP, going away and coming back."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoprune.registry import aliases, names, policies
from autoprune.registry import client as mlflow_client
from autoprune.registry.tracking import MlflowPublisher, check_reachable

pytestmark = [pytest.mark.mlflow, pytest.mark.full]


@contextlib.contextmanager
def _server(folder: Path, port: int) -> Iterator[str]:
    """A server on that port; ends (only) the process it started."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/srv.db", "--artifacts-destination", str(folder / "art")]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, cwd=folder, stdout=quiet, stderr=quiet)
    uri = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 180
        while mlflow_client.unreachable(uri) is not None:
            assert process.poll() is None, "the server ended by itself"
            assert time.monotonic() < deadline, "the server did not come up"
            time.sleep(0.5)
        yield uri
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_publishes_over_http_through_an_outage(study, outbox, saved_policy, refusing, tmp_path):
    port = int(refusing.rpartition(":")[2])
    outbox.add("publish", {"folder": str(saved_policy), "tags": {names.DIGEST_TAG: "d" * 64}})
    waiting, outbox.rows = outbox.rows[4:], outbox.rows[:4]
    publisher = MlflowPublisher(outbox, refusing, study)
    with _server(tmp_path, port) as uri:
        check_reachable(uri)
        publisher.flush()
        assert outbox.outbox() == []
    outbox.rows += waiting
    publisher.flush()
    assert outbox.outbox() == waiting
    with _server(tmp_path, port) as uri:
        publisher.flush()
        assert outbox.outbox() == []
        assert [p.version for p in publisher.published] == [1]
        aliases.promote(uri, "demo-policy", "candidate")
        folder = policies.download("models:/demo-policy@champion", uri, tmp_path / "back")
        assert (folder / "policy.yaml").read_text() == (saved_policy / "policy.yaml").read_text()
        client = mlflow_client.connect(uri)
        runs = client.search_runs([client.get_experiment_by_name("demo").experiment_id])
        trials = sorted(int(r.data.tags[names.TRIAL_TAG]) for r in runs if names.TRIAL_TAG in r.data.tags)
        assert trials == [0, 1, 2, 4, 5]
