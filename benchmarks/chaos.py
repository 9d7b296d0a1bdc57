"""Kill drivers, workers, connections, servers and disks under real studies; count what is lost, twice, left or wrong.

    python -m benchmarks.chaos [--out FOLDER] [--work FOLDER] [--kills N] [--short]

Every study is the same small search on the reference model. It is hit several times by one kind of kill, started again
by the same command after each, and at its end held against one that nobody disturbed (`chaos_check.py`): the same
front, the same trials with the same numbers, every evaluation, run, version and alias there once, nothing still
running. What is finished is kept, and the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import chaos_world as world
from benchmarks.chaos_check import DUPLICATED, LOST, WRONG, ZOMBIE, look, wrong
from benchmarks.chaos_points import BY_NAME, STEPS, Side, arm, fill_disk, no_space
from benchmarks.chaos_servers import Door, mlflow_server, postgres_binaries, postgres_server
from benchmarks.output import RESULTS, duration, machine, table, write

SEED = 2719
MADE_BY = (
    "autoprune",
    "db",
    *(f"benchmarks/chaos{part}.py" for part in ("", "_check", "_points", "_servers", "_world")),
)
RESTARTS = 12
"""So often a study is started again before it counts as stuck."""
FAULTS = (LOST, DUPLICATED, ZOMBIE, WRONG, "unclear", "stuck")
UNCLEAR = "(traceback in "
"""What the command line says of what it did not foresee: a defect, not a message."""
LOADED = "references"
"""What a search shows once its workers have measured the baseline: one that dies before is an error of the machine."""
FILES = partial(arm, BY_NAME["files: policy saved"], "before", 1, no_space)
FROM_NOTHING = "from nothing"
SECONDS = {"step": 14.0, "driver": 14.0, "worker": 60.0, "database": 20.0, "mlflow": 25.0, "disk": 14.0, "alias": 6.0}
"""What a study of each kind takes on two quiet cores."""


@dataclass(frozen=True)
class Plan:
    """One study and what is done to it. `kind` is what counts are kept by."""

    name: str
    kind: str
    family: str
    kills: int
    step: str = ""
    side: Side = "before"
    target: str = ""


@dataclass
class Outcome:
    """What became of it. `starts`: how often the command ran; `hits`: how often it was hit."""

    plan: Plan
    hits: int = 0
    starts: int = 0
    seconds: float = 0.0
    faults: dict[str, list[str]] = field(default_factory=dict)


class World:
    """Everything the studies share: records, an empty registry, what an undisturbed study gives, servers on demand."""

    def __init__(self, work: Path, stack: ExitStack) -> None:
        self.work, self._stack = work, stack
        work.mkdir(parents=True, exist_ok=True)
        world.preload()
        self.records = world.make_records(work / "records")
        self.registry = world.make_registry(work)
        self._doors: dict[str, Door] = {}

    def spec(self, name: str, **more: Any) -> Path:
        return world.write_spec(self.work / name, self.records, **{"registry": self.registry, **more})

    def undisturbed(self) -> tuple[dict[str, Any], float]:
        """A whole study, and how long it took."""
        spec, began = self.spec("undisturbed"), time.monotonic()
        code = world.wait(world.fork(world.command("search", str(spec), "--json"), spec.parent / "log"))
        took = time.monotonic() - began
        found = world.answer(partial(look, spec), spec.parent)
        if code or any(found["faults"].values()) or not found["result"]["front"]["members"]:
            raise RuntimeError(f"the undisturbed study ended with {code}: {found['faults']}")
        return found, took

    def door(self, to: str) -> Door:
        """The door to a server that is started when it is first needed."""
        if to not in self._doors:
            server = {"postgres": postgres_server, "mlflow": mlflow_server}[to]
            folder = self.work / to
            shutil.rmtree(folder, ignore_errors=True)
            self._doors[to] = Door(self._stack.enter_context(server(folder)))
            self._stack.callback(self._doors[to].close)
        return self._doors[to]


# --------------------------------------------------------------------------------------------------------- what is done
# Each of these hits a study as planned; -> how often it was hit, how often the command was started.
def hit_steps(plan: Plan, shared: World, took: float, rng: random.Random) -> tuple[int, int]:
    """The driver dies at the step's first, second, … passing."""
    spec = shared.spec(plan.name)
    step = BY_NAME[plan.step]
    passings = [n if n < 3 else rng.randint(1, 4) for n in range(1, plan.kills + 1)]
    codes = [_run(spec, partial(arm, step, plan.side, nth)) for nth in passings]
    return codes.count(-signal.SIGKILL), plan.kills


def hit_driver(plan: Plan, shared: World, took: float, rng: random.Random) -> tuple[int, int]:
    """The driver dies at a random moment, in some studies while its databases are made."""
    spec, hits = shared.spec(plan.name, registry=None if plan.target == FROM_NOTHING else shared.registry), 0
    for _ in range(plan.kills):
        pid = world.fork(world.command("search", str(spec), "--json"), spec.parent / "log")
        if world.wait(pid, patience=rng.uniform(0, took)) is None:
            os.kill(pid, signal.SIGKILL)
            hits += world.wait(pid) == -signal.SIGKILL
    return hits, plan.kills


def hit_workers(plan: Plan, shared: World, took: float, rng: random.Random) -> tuple[int, int]:
    """Ray's workers die at random moments of one run, which must end well."""
    spec = shared.spec(plan.name, executor=world.RAY)
    pid, hits = world.fork(world.command("search", str(spec), "--json"), spec.parent / "log"), 0
    while world.wait(pid, patience=rng.uniform(0.2, 2.0)) is None:
        at_work = LOADED in (spec.parent / "log").read_text()
        workers = world.descendants(pid, "ray::Worker") if at_work else []
        if workers and hits < plan.kills:
            os.kill(rng.choice(workers), signal.SIGKILL)
            hits += 1
    return hits, 1


def hit_connection(plan: Plan, shared: World, took: float, rng: random.Random) -> tuple[int, int]:
    """The way to the server is shut at random moments, for a second or so, in one run."""
    door = shared.door(plan.target)
    if plan.target == "postgres":
        schema = plan.name.replace("-", "_")
        base = f"postgresql+psycopg://postgres@127.0.0.1:{door.port}/postgres"
        world.answer(partial(_make_schema, base, schema), shared.work)
        spec = shared.spec(plan.name, output=f", store: '{base}?options=-csearch_path%3D{schema}'")
    else:
        spec = shared.spec(plan.name, output=f", tracking_uri: 'http://127.0.0.1:{door.port}'")
    pid = world.fork(world.command("search", str(spec), "--json"), spec.parent / "log")
    return door.disturb(pid, plan.kills, took, rng.uniform(0.3, 2.0), rng), 1


def hit_disk(plan: Plan, shared: World, took: float, rng: random.Random) -> tuple[int, int]:
    """The file may grow a little more; then the disk is full until the next start."""
    spec, hits = shared.spec(plan.name), 0
    for _ in range(plan.kills):
        log = spec.parent / "log"
        before = log.read_text() if log.exists() else ""
        code = _run(spec, FILES if plan.target == "files" else partial(fill_disk, plan.target, rng.randint(0, 6)))
        hits += code != 0 or "is away" in log.read_text()[len(before) :]
    return hits, plan.kills


def _run(spec: Path, trap: Callable[[], None] | None = None) -> int:
    return world.wait(world.fork(world.command("search", str(spec), "--json", trap=trap), spec.parent / "log")) or 0


def _make_schema(url: str, schema: str) -> bool:
    from autoprune.store.engine import in_schema

    in_schema(url, schema)
    return True


HITS = {"step": hit_steps, "driver": hit_driver, "worker": hit_workers, "disk": hit_disk}
HITS |= {"database": hit_connection, "mlflow": hit_connection}


# ------------------------------------------------------------------------------------------------------------ the whole
def study(plan: Plan, shared: World, undisturbed: dict[str, Any], took: float) -> Outcome:
    """Hit one study as planned, let it come to its end, and look at what is there."""
    outcome, began = Outcome(plan), time.monotonic()
    spec = shared.work / plan.name / "spec.yaml"
    rng = random.Random(f"{SEED}/{plan.name}")
    outcome.hits, outcome.starts = HITS[plan.family](plan, shared, took, rng)
    last = 1
    for _ in range(RESTARTS):
        last = _run(spec)
        outcome.starts += 1
        if last == 0:
            break
    outcome.faults = {"stuck": [] if last == 0 else [f"exit code {last}"], "unclear": _unclear(spec.parent / "log")}
    found = world.answer(partial(look, spec), spec.parent)
    outcome.faults |= wrong(found, undisturbed)
    outcome.seconds = time.monotonic() - began
    if not any(outcome.faults.values()):
        shutil.rmtree(spec.parent)
    return outcome


def _unclear(log: Path) -> list[str]:
    return [line.strip() for line in log.read_text().splitlines() if UNCLEAR in line or line.startswith("Traceback")]


def plans(kills: int) -> list[Plan]:
    """About so many kills: half at named steps, a quarter of drivers at random, the rest of everything else."""
    made: list[Plan] = []
    each = max(1, round(kills / 2 / (2 * len(STEPS))))
    for number, step in enumerate(STEPS):
        for side in ("before", "after"):
            kind = f"driver {side} '{step.name}'"
            made.append(Plan(f"step-{number}-{side}", kind, "step", each, step.name, side))
    for number in range(max(1, round(kills / 4 / 5))):
        target = FROM_NOTHING if number % 3 == 0 else ""
        made.append(Plan(f"driver-{number}", "driver at random", "driver", 5, target=target))
    for number in range(max(1, kills // 50)):
        made.append(Plan(f"worker-{number}", "worker at random", "worker", 4))
        made.append(Plan(f"database-{number}", "database connection", "database", 3, target="postgres"))
        made.append(Plan(f"mlflow-{number}", "MLflow server away", "mlflow", 3, target="mlflow"))
    for number in range(max(1, kills // 100)):
        for place in ("autoprune.db", "optuna.db", "mlflow.db", "files"):
            made.append(Plan(f"disk-{place.split('.')[0]}-{number}", f"disk full ({place})", "disk", 2, target=place))
    return made


def short() -> list[Plan]:
    """A dozen kills, one of each sort that needs no server."""
    chosen = [(2, "after"), (5, "before"), (14, "after")]
    made = [Plan(f"step-{n}-{s}", f"driver {s} '{STEPS[n].name}'", "step", 2, STEPS[n].name, s) for n, s in chosen]
    made.append(Plan("driver-0", "driver at random", "driver", 4))
    full = ("autoprune.db", "optuna.db", "files")
    made += [Plan(f"disk-{f.split('.')[0]}-0", f"disk full ({f})", "disk", 1, target=f) for f in full]
    return made


def missing(plan: Plan) -> str | None:
    """What this machine lacks for a plan."""
    import importlib.util

    if plan.family == "worker" and importlib.util.find_spec("ray") is None:
        return "ray is not installed"
    if plan.target == "postgres" and postgres_binaries() is None:
        return "PostgreSQL is not installed"
    return None


def summary(outcomes: list[Outcome], skipped: dict[str, str]) -> dict[str, Any]:
    kinds: dict[str, dict[str, int]] = {}
    for outcome in outcomes:
        row = kinds.setdefault(outcome.plan.kind, dict.fromkeys(("studies", "kills", "starts", *FAULTS), 0))
        row["studies"] += 1
        row["kills"] += outcome.hits
        row["starts"] += outcome.starts
        for fault in FAULTS:
            row[fault] += len(outcome.faults.get(fault, ()))
    total = {key: sum(row[key] for row in kinds.values()) for key in ("studies", "kills", "starts", *FAULTS)}
    found = {o.plan.name: o.faults for o in outcomes if any(o.faults.values())}
    return {"total": total, "kinds": kinds, "faults": found, "skipped": skipped, "machine": machine(), "seed": SEED}


def main(arguments: list[str] | None = None) -> int:
    asked = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    asked.add_argument("--out", type=Path, default=RESULTS)
    asked.add_argument("--work", type=Path, default=Path("runs/chaos"), help="where studies and what is finished lie")
    asked.add_argument("--kills", type=int, default=220)
    asked.add_argument("--only", default="", help="kinds of plans by how their names begin, comma-separated")
    asked.add_argument("--short", action="store_true", help="a dozen kills that need no server")
    given = asked.parse_args(arguments)
    work = given.work.resolve()
    todo = short() if given.short else plans(given.kills)
    todo = [p for p in todo if p.name.startswith(tuple(given.only.split(",")))]
    done = _finished(work / "finished.jsonl", todo)
    left = [p for p in todo if p.name not in {o.plan.name for o in done}]
    skipped = {p.kind: why for p in left if (why := missing(p)) is not None}
    left = [p for p in left if p.kind not in skipped]
    expected = sum(SECONDS[p.family] * (1 + p.kills / 3) for p in left)
    kills = sum(p.kills for p in todo)
    print(
        f"{len(todo)} studies, up to {kills} kills; {len(done)} are finished; the rest takes about {duration(expected)}"
    )
    with ExitStack() as stack:
        if left:
            shared = World(work, stack)
            undisturbed, took = shared.undisturbed()
        for plan in left:
            outcome = study(plan, shared, undisturbed, took)
            with (work / "finished.jsonl").open("a") as out:
                out.write(json.dumps(asdict(outcome)) + "\n")
            done.append(outcome)
            faults = {kind: said for kind, said in outcome.faults.items() if said}
            print(
                f"{plan.name}: {outcome.hits} kills, {outcome.seconds:.0f} s; {faults or 'as undisturbed'}", flush=True
            )
    document = summary(done, skipped)
    header = ("kind of kill", "studies", "kills", "starts", *FAULTS)
    rows = [(kind, *row.values()) for kind, row in {**document["kinds"], "all": document["total"]}.items()]
    text = table(header, rows) + "".join(f"\nnot run: {kind} ({why})" for kind, why in skipped.items())
    write(given.out, "chaos", document, text, parts=MADE_BY)
    print(text)
    return int(any(document["total"][fault] for fault in FAULTS))


def _finished(path: Path, todo: list[Plan]) -> list[Outcome]:
    """What an earlier run of the same plans came to."""
    lines = path.read_text().splitlines() if path.is_file() else []
    found = [json.loads(line) for line in lines]
    done = {one["plan"]["name"]: Outcome(**{**one, "plan": Plan(**one["plan"])}) for one in found}
    return [done[p.name] for p in todo if p.name in done and done[p.name].plan == p]


if __name__ == "__main__":
    raise SystemExit(main())
