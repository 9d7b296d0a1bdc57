"""The small study that is killed, and the processes it runs in."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.output import MODEL, ROOT

SPEC = """\
schema: autoprune/spec/1
name: {name}
model: {{path: {model}}}
calibration: {{records: {records}, search: 12, holdout: 24, seed: 7}}
search_space: two_stage_mixed
objectives: [maximize exact_match, minimize prefill_flops]
constraints: [exact_match >= 0.3 * baseline]
search: {{trials: 6, seed: 3, executor: {executor}, synchronous: true}}
output: {{register: {name}, select: minimize prefill_flops{output}}}
"""
INLINE, RAY = "inline", "{ray: {workers: 2}}"


def make_records(folder: Path) -> Path:
    """36 pictures with a question each, by the example's own command."""
    if not (folder / "records.jsonl").is_file():
        command = [sys.executable, str(ROOT / "examples" / "reference_vlm" / "make_data.py"), "--out", str(folder)]
        more = ["--images", "36", "--questions-per-image", "1", "--pool", "search", "--seed", "5"]
        subprocess.run([*command, *more], check=True, stdout=subprocess.DEVNULL)
    return folder / "records.jsonl"


def write_spec(
    folder: Path, records: Path, executor: str = INLINE, output: str = "", registry: Path | None = None
) -> Path:
    """A study of its own in an empty folder. `registry`: a fresh MLflow database to begin with (making one takes
    seconds)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if registry is not None:
        (folder / ".autoprune").mkdir()
        shutil.copy(registry, folder / ".autoprune" / "mlflow.db")
    text = SPEC.format(name=folder.name, model=MODEL, records=records.resolve(), executor=executor, output=output)
    (folder / "spec.yaml").write_text(text)
    return folder / "spec.yaml"


def make_registry(folder: Path) -> Path:
    """An empty MLflow database."""
    from autoprune.registry.client import check_reachable

    path = folder / "mlflow.db"

    def make() -> bool:
        check_reachable(f"sqlite:///{path.resolve()}")
        return True

    if not path.is_file():
        answer(make, folder)
    return path


# ----------------------------------------------------------------------------------------------------------- processes
def preload() -> None:
    """Import what a search imports, once: children are forked from here, so that 200 of them cost no 200 imports.

    No model, engine or client is opened here, and no thread started: a child begins as a fresh process would.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["MLFLOW_TRACKING_URI"] = ""  # every study says itself where its registry is
    import transformers.models.llava.modeling_llava  # noqa: F401

    import autoprune.api.searching
    import autoprune.cli.main
    import autoprune.registry.policies
    import autoprune.registry.tracking
    import autoprune.search.driver
    import autoprune.store.store  # noqa: F401
    from autoprune.registry import client

    client.quiet()
    import matplotlib.figure  # noqa: F401
    import mlflow
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    import optuna  # noqa: F401
    import torch

    torch.set_num_threads(1)


def fork(work: Callable[[], int], log: Path) -> int:
    """Run `work` in a child and session of its own, its output added to `log`; -> the child's pid."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        with log.open("ab") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        code = work()
    except BaseException:  # noqa: BLE001  (a forked child must never return into its parent's code)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def command(*arguments: str, trap: Callable[[], None] | None = None) -> Callable[[], int]:
    """The work of a child that runs one command of AutoPrune's, something armed."""

    def work() -> int:
        from autoprune.cli.main import main

        signal.signal(signal.SIGINT, signal.default_int_handler)
        if trap is not None:
            trap()
        return main(list(arguments))

    return work


def wait(pid: int, patience: float | None = None) -> int | None:
    """A child's exit code (minus the signal that ended it); None if it still runs after `patience` seconds. Whatever
    it had started ends with it."""
    until = None if patience is None else time.monotonic() + patience
    while True:
        done, status = os.waitpid(pid, 0 if until is None else os.WNOHANG)
        if done:
            end_group(pid)
            return os.waitstatus_to_exitcode(status)
        if until is not None and time.monotonic() >= until:
            return None
        time.sleep(0.005)


def end_group(pid: int) -> None:
    """Kill what is left of a session that was started here."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def answer(work: Callable[[], Any], folder: Path) -> Any:
    """What `work` returns, run in a child: the parent opens no database and stays fit to fork."""
    path = folder / "answer.json"

    def write() -> int:
        path.write_text(json.dumps(work()))
        return 0

    code = wait(fork(write, folder / "check.log"))
    if code:
        raise RuntimeError(f"looking at {folder} failed: {(folder / 'check.log').read_text()[-2000:]}")
    return json.loads(path.read_text())


def descendants(pid: int, title: str) -> list[int]:
    """Processes below `pid` whose command line begins with `title` (Ray's workers name themselves)."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    below, found = {pid}, []
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
    for one in below:
        with suppress(OSError):
            if Path(f"/proc/{one}/cmdline").read_text().startswith(title):
                found.append(one)
    return found
