"""A search over two nodes on this machine, one of which is lost: `python two_nodes.py KIND FOLDER`, where it
writes `result.json`. A process of its own, because a process joins one Ray cluster."""

from __future__ import annotations

import json
import logging
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from executors_fakes import patient_ray, worker_spec
from search_support import FakeLog, run

from autoprune.executors import make_executor
from autoprune.ports import EvalRequest, Lost, Measurement, TrialRecord, WorkerSpec
from benchmarks.synthetic import SyntheticEvaluator, plan, problem

SMALL = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
SPACE, TRIALS, LOST_AFTER = "p_sigmoid", 16, 4


class Slow:
    """The formula, at the pace of an evaluation; notes what it was asked, and where."""

    def __init__(self, spec: WorkerSpec) -> None:
        import ray

        self.notes, self.inner = Path(spec.model_path), SyntheticEvaluator(problem(SPACE))
        self.node = ray.get_runtime_context().get_node_id()

    def evaluate(self, request: EvalRequest) -> Measurement:
        name = f"{self.node}-{uuid.uuid4().hex}"
        (self.notes / f"begins-{name}").touch()
        time.sleep(0.3)
        while (self.notes / f"doomed-{self.node}").exists():
            time.sleep(0.1)
        found = self.inner.evaluate(request)
        (self.notes / f"ends-{name}").touch()
        return found


def build(spec: WorkerSpec) -> Slow:
    return Slow(spec)


def noted(folder: Path, what: str) -> Counter[str]:
    """How many evaluations begin or end, by node."""
    return Counter(path.name.split("-")[1] for path in folder.glob(f"{what}-*"))


def head() -> Any:
    from ray.cluster_utils import Cluster

    return Cluster(initialize_head=True, head_node_args={**SMALL, "include_dashboard": False})


def patiently(start: Callable[[], Any]) -> Any:
    """Once more if need be: Ray's own limit for a node to start is 30 seconds."""
    for _ in range(3):
        try:
            return start()
        except Exception as error:  # noqa: BLE001 - Ray raises no narrower class
            last = error
    raise last


def main(kind: str, folder: Path) -> None:
    patient_ray()
    import ray

    cluster = patiently(head)
    other = patiently(lambda: cluster.add_node(**SMALL))
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    cluster.wait_for_nodes()
    executor = make_executor(kind, worker_spec(folder), workers=2, build="two_nodes:build")  # type: ignore[arg-type]
    there, deaths = other.node_id, list[str]()
    doom = folder / f"doomed-{there}"

    class Watched:
        """The executor, and what it answered."""

        capacity, submit, close = executor.capacity, executor.submit, executor.close

        def wait(self, timeout: float | None = None):
            outcomes = executor.wait(timeout)
            deaths.extend(o.message for o in outcomes if isinstance(o, Lost))
            return outcomes

    class Log(FakeLog):
        """Loses the other node in the middle of everything: when so many trials are settled, and it is at another."""

        gone = False

        def settle(self, record: TrialRecord) -> None:
            super().settle(record)
            if len(self.settled) > LOST_AFTER and not self.gone and self.at_another() and noted(folder, "ends")[there]:
                doom.touch()  # what is begun there will not end
                time.sleep(0.5)
                if self.at_another():
                    cluster.remove_node(other, allow_graceful=False)
                    Log.gone = True
                else:
                    doom.unlink()

        def at_another(self) -> bool:
            return noted(folder, "begins")[there] > noted(folder, "ends")[there]

    log = Log()
    try:
        front = run(plan(SPACE, TRIALS), Watched(), log)  # type: ignore[arg-type]
    finally:
        executor.close()
        ray.shutdown()
        cluster.shutdown()
    trials = [r for r in log.settled if r.origin == "trial"]
    fresh = [r for r in trials if r.state == "complete" and not r.cached]
    found = {
        "asked": TRIALS,
        "lost_node": Log.gone,
        "nodes_that_answered": len(noted(folder, "ends")),
        "complete": len(fresh),
        "digests": len({r.digest for r in fresh}),
        "states": Counter(r.state for r in trials),
        "proposals": sorted(r.sampler_number for r in trials) == list(range(len(trials))),
        "lineages": [r.lineage for r in trials if r.lineage],
        "deaths": len(deaths),
        "front": front.to_json()["trials"],
    }
    (folder / "result.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
