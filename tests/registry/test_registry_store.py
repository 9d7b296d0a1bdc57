"""The publisher against the real store: what the store queues is what the publisher understands."""

from __future__ import annotations

import pytest

from autoprune.ports import CalibrationSource
from autoprune.registry import client as mlflow_client
from autoprune.registry import names, policies
from autoprune.registry.tracking import MlflowPublisher
from autoprune.store import open_store

pytestmark = pytest.mark.mlflow


def test_a_stored_study_is_published_row_by_row(uri, refusing, study, outbox, saved_policy, tmp_path):
    calibration = CalibrationSource("r.jsonl", None, 4, 4, None, 0, digest="c" * 64)
    with open_store(f"sqlite:///{tmp_path}/autoprune.db") as store:
        log = store.create_study(
            study.study_id, name=study.name, digest="d", spec={}, resolved={}, calibration=calibration
        )
        for record in outbox.records:
            log.settle(record)
        log.save_front(outbox.rows[-1].payload)
        log.queue("publish", {"folder": str(saved_policy), "tags": {names.DIGEST_TAG: "d" * 64}})
        waiting = len(log.outbox())

        MlflowPublisher(log, refusing, study).flush()
        assert len(log.outbox()) == waiting
        assert log.outbox()[0].attempts == 1

        MlflowPublisher(log, uri, study).flush()
        assert log.outbox() == []
        assert [row.kind for row in log.outbox(published=True)] == ["study", *["trial"] * 6, "front", "publish"]
    assert policies.resolve("models:/demo-policy@candidate", uri).version == 1
    client = mlflow_client.connect(uri)
    runs = client.search_runs([client.get_experiment_by_name("demo").experiment_id])
    assert sum(names.TRIAL_TAG in run.data.tags for run in runs) == 5
