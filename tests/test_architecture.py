"""Rooms may import only rooms to their left; heavy libraries stay in theirs and out of the light commands."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "autoprune"
ORDER = [
    {"codes", "redact"},
    {"errors"},
    {"document", "outage"},
    {"policy", "ports"},
    {"spec"},
    {"models"},
    {"pruning"},
    {"calibration"},
    {"measures"},
    {"search"},
    {"executors", "store", "figures"},
    {"registry"},
    {"check", "schema"},
    {"api"},
    {"retune", "serving", "evaluation", "report"},
    {"cli"},
    {"__main__"},
]
RANK = {room: i for i, rooms in enumerate(ORDER) for room in rooms}
HOME = {
    "mlflow": {"registry", "serving"},
    "sqlalchemy": {"store"},
    "alembic": {"store"},
    "ray": {"executors"},
    "optuna": {"search"},
    "apscheduler": {"retune"},
    "rich": {"cli"},
    "typer": {"cli"},
}


def room_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path: Path) -> list[tuple[int, str]]:
    """Every module that a file imports, anywhere in it, with its line."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            if node.module == "autoprune":
                found += [(node.lineno, f"autoprune.{alias.name}") for alias in node.names]
            else:
                found.append((node.lineno, node.module))
    return found


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.name != "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_left(path: Path) -> None:
    room = room_of(path)
    assert room in RANK, f"{room} is not a room of docs/architecture.md"
    wrong = []
    for line, module in imports(path):
        parts = module.split(".")
        if parts[0] == "autoprune" and len(parts) > 1:
            other = parts[1]
            allowed = other == room or (other in RANK and RANK[other] <= RANK[room] and other != "__version__")
            same_rank_peer = other != room and RANK.get(other) == RANK[room] and {room, other} != {"policy", "ports"}
            if other.startswith("__"):
                continue
            if not allowed or same_rank_peer:
                wrong.append(f"{path.name}:{line} imports {module}")
        elif parts[0] in HOME and room not in HOME[parts[0]]:
            wrong.append(f"{path.name}:{line} imports {module}; only {sorted(HOME[parts[0]])} may")
    assert not wrong


def loaded_after(code: str) -> set[str]:
    """Top-level modules in sys.modules after running code in a fresh interpreter."""
    program = f"{code}\nimport sys; print(chr(10).join(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


HEAVY = {"torch", "ray", "mlflow", "optuna", "transformers", "sqlalchemy", "matplotlib"}
COMMAND = """\
import contextlib, io
from autoprune.cli.main import main
with contextlib.redirect_stdout(io.StringIO()):
    code = main({arguments})
"""


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["schema"], ["schema", "policy"], ["validate", "tests/data/full_spec.yaml"]],
    ids=lambda a: " ".join(a),
)
def test_light_commands_leave_heavy_libraries_alone(arguments: list[str]) -> None:
    code = COMMAND.format(arguments=arguments) + "assert code == 0, code"
    assert not loaded_after(code) & HEAVY


def test_loading_a_policy_in_production_is_light() -> None:
    code = "import autoprune; autoprune.load_policy('fastv')"
    assert not loaded_after(code) & {"optuna", "ray", "sqlalchemy", "mlflow", "typer", "rich", "matplotlib", "alembic"}
