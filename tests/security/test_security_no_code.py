"""Nothing in the package can run what it reads: no pickle, no eval, no archives, no module named by a document."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([*(ROOT / "autoprune").rglob("*.py"), *(ROOT / "db").rglob("*.py")])
MODULES = {
    *("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "code", "codeop", "runpy"),
    *("zipfile", "tarfile"),  # nothing is unpacked, so no name in an archive can lead anywhere
}
CALLS = {"eval", "exec", "compile", "__import__"}
METHODS = {
    *("torch.load", "np.load", "numpy.load", "pyyaml.load", "yaml.load", "pyyaml.unsafe_load", "pyyaml.full_load"),
    *("os.system", "os.popen"),
}
# Modules imported by a name that is not written out: the package's own folders of parts, and what a caller in Python,
# never a document, names.
BY_NAME = {
    "__init__.py",
    "api/__init__.py",
    "calibration/sources.py",
    "executors/build.py",
    "measures/registry.py",
    "models/family.py",
    "pruning/parts.py",
    "search/strategy.py",
}


def called(tree: ast.AST) -> Iterator[tuple[int, str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func), node


def runs_data(source: str) -> list[str]:
    """What in a file could run what it reads."""
    tree = ast.parse(source)
    wrong = []
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        wrong += [f"{node.lineno}: import {n}" for n in names if n.partition(".")[0] in MODULES]  # type: ignore[attr-defined]
    for line, name, call in called(tree):
        if name in CALLS or name in METHODS:
            wrong.append(f"{line}: {name}")
        if name == "subprocess.run" and any(k.arg == "shell" for k in call.keywords):
            wrong.append(f"{line}: a shell")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_imports_or_calls_what_runs_data(path: Path) -> None:
    assert not runs_data(path.read_text())


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "def f():\n    import tarfile",
        "eval('1')",
        "x = torch.load(p)",
        "pyyaml.load(t, L)",
        "subprocess.run('ls', shell=True)",
        "os.system('ls')",
    ],
)
def test_such_code_would_be_seen(source: str) -> None:
    assert len(runs_data(source)) == 1


def test_modules_are_named_by_the_package_alone() -> None:
    found = set()
    for path in FILES:
        for _, name, call in called(ast.parse(path.read_text())):
            if name.endswith("import_module") and not isinstance(call.args[0], ast.Constant):
                found.add(str(path.relative_to(ROOT / "autoprune")))
    assert found <= BY_NAME, "a module's name must not come from a document: say here where it comes from"


def test_weights_are_only_read_as_safetensors() -> None:
    """Every `from_pretrained` of a model says so, and none decides by itself about code from elsewhere."""
    models = 0
    for path in FILES:
        for line, name, call in called(ast.parse(path.read_text())):
            if not re.fullmatch(r"Auto\w+\.from_pretrained", name):
                continue
            given = {k.arg: ast.unparse(k.value) for k in call.keywords}
            spread = None in given  # **options, which the same function makes
            assert spread or "trust_remote_code" in given or "Config" in name, f"{path}:{line}"
            if "Model" in name:
                models += 1
                assert given["use_safetensors"] == "True", f"{path}:{line}"
    assert models


LOOPBACK = {"127.0.0.1", "localhost", "::1"}
SERVERS = (
    re.compile(r"--host[\"',= ]+([\w.:\-]+)"),
    re.compile(r"listen_addresses=([\w.:*\-]*)"),
    re.compile(r"\.bind\(\(\"([^\"]*)\""),
    re.compile(r"(?:HTTPServer|TCPServer)\(\(\"([^\"]*)\""),
    re.compile(r"dashboard_host[\"'=: ]+([\w.:\-]+)"),
    re.compile(r"--node-ip-address[\"',= ]+([\w.:\-]+)"),
)
STARTS = re.compile(r"\"mlflow\",\s*(?:\"models\",\s*\"serve\"|\"server\")|mlflow (?:server|models serve)\b")


def started() -> Iterator[tuple[Path, str]]:
    for folder in ("autoprune", "tests", "examples", "benchmarks", ".ci", "docs"):
        for path in sorted((ROOT / folder).rglob("*")):
            text_file = path.suffix in (".py", ".sh", ".yaml", ".md", ".toml", "")
            if path.is_file() and text_file and path != Path(__file__) and "__pycache__" not in path.parts:
                yield path, path.read_text(errors="ignore")


def test_servers_that_we_start_answer_this_machine_only() -> None:
    found = 0
    for path, text in started():
        assert "0.0.0.0" not in text, path
        for pattern in SERVERS:
            for host in pattern.findall(text):
                found += 1
                assert host in LOOPBACK, f"{path}: {host!r}"
    assert found


def test_every_mlflow_server_is_told_where_to_listen() -> None:
    for path, text in started():
        for start in STARTS.finditer(text):
            assert "--host" in text[start.start() : start.start() + 300], f"{path}: {start[0]}"
