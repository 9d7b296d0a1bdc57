"""What a wheel carries: the content rooms resolve from it, in a bare environment, as they do from a checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from autoprune.policy import catalog

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("policies", "search_spaces", "objectives")
LIST = (
    "import json; from autoprune.policy import catalog; "
    f"print(json.dumps({{k: [[n, str(catalog.find(k, n))] for n in catalog.names(k)] for k in {KINDS!r}}}))"
)


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment that holds nothing but our wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    return python


def run(python: Path, code: str, cwd: Path) -> str:
    done = subprocess.run([str(python), "-I", "-c", code], capture_output=True, text=True, cwd=cwd, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_wheel_carries_the_content_rooms(bare_python: Path, tmp_path: Path) -> None:
    found = json.loads(run(bare_python, LIST, tmp_path))
    for kind in KINDS:
        assert [name for name, _ in found[kind]] == list(catalog.names(kind))
        for name, path in found[kind]:
            assert str(ROOT) not in path
            assert Path(path).read_text() == catalog.find(kind, name).read_text()


def test_a_wheel_carries_the_migrations(bare_python: Path, tmp_path: Path) -> None:
    code = "import autoprune, pathlib; print(pathlib.Path(autoprune.__file__).parent / 'db')"
    folder = Path(run(bare_python, code, tmp_path).strip())
    ours = sorted(p.name for p in (ROOT / "db" / "versions").glob("*.py"))
    assert ours
    assert sorted(p.name for p in (folder / "versions").glob("*.py")) == ours


def test_a_checkout_resolves_its_own_content() -> None:
    for kind in KINDS:
        for name in catalog.names(kind):
            assert catalog.find(kind, name).parent == ROOT / kind


def test_a_failed_installation_is_not_taken_for_a_good_one(tmp_path: Path) -> None:
    """The README's commands make the environment once; what went wrong there must be tried again."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho no such index\nexit 1\n")
    python.chmod(0o755)
    environment = {**os.environ, "AUTOPRUNE_VENV": str(tmp_path / "venv"), "EXTRAS": "dev", "PYTHON": sys.executable}
    done = subprocess.run(
        ["sh", "-c", ". .ci/venv.sh; echo went on"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "no such index" in done.stdout
    assert "went on" not in done.stdout
    assert not list((tmp_path / "venv").glob(".autoprune-*"))
