"""What people and programs see: one clean JSON document, and what the holdout proves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest_cli import cli

from autoprune.cli import studies
from autoprune.errors import AutoPruneError, BadInput

NOISY = """
import logging, os, subprocess, sys, warnings
from autoprune import api
from autoprune.cli.main import main

def noisy(store=None):
    print("printed")
    os.write(1, b"written to the descriptor\\n")
    subprocess.run(["echo", "from another process"])
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, force=True)
    logging.info("logged")
    warnings.warn("warned")
    {ending}

api.studies = noisy
code = main(["studies", {flag}])
print("afterwards")
sys.exit(code)
"""
ENDINGS = [
    ("return []", 0),
    ("raise RuntimeError('a bug')", 1),
    ("from autoprune.errors import BadInput; raise BadInput('no')", 2),
    ("raise KeyboardInterrupt", 130),
]


def noisy(ending: str, flag: str) -> subprocess.CompletedProcess[str]:
    code = NOISY.format(ending=ending, flag=flag)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("ending", "exit_code"), ENDINGS, ids=[str(code) for _, code in ENDINGS])
def test_json_is_all_that_stands_on_stdout(ending: str, exit_code: int) -> None:
    done = noisy(ending, "'--json'")
    assert done.returncode == exit_code, done.stderr
    document, end, rest = done.stdout.rpartition("afterwards\n")  # stdout is given back
    assert (end, rest) == ("afterwards\n", "")
    found = json.loads(document)
    assert found == {"studies": []} if exit_code == 0 else found["errors"][0]["message"]
    for noise in ("printed", "written to the descriptor", "from another process", "logged", "warned"):
        assert noise in done.stderr


def test_without_json_nothing_is_redirected() -> None:
    done = noisy("return []", "")
    assert "printed" in done.stdout


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [(AutoPruneError("failed"), 1), (BadInput("wrong"), 2), (KeyboardInterrupt(), 130), (OSError("disk"), 1)],
)
def test_every_ending_has_its_code_and_document(
    error: BaseException, exit_code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from autoprune import api

    def broken(store: str | None = None) -> None:
        raise error

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(api, "studies", broken)
    done = cli("studies", "--json")
    assert done.code == exit_code
    assert done.json["ok"] is False
    assert set(done.json["errors"][0]) == {"file", "line", "column", "path", "code", "message"}
    assert cli("studies").out == ""


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def member(name: str, state: str, proven: float | None) -> dict[str, Any]:
    text = "exact_match >= 0.95 * baseline"
    return {
        "policy": name,
        "budget": 0.3,
        "search": {},
        "holdout": {"exact_match": estimate(0.9)},
        "constraints": {text: state},
        "certifiable": {text: proven},
        "selected": state == "certified",
        "published": None,
    }


def test_the_front_shows_the_bounds_that_hold_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    document = {
        "study": "s-1",
        "baseline": {"holdout": {"exact_match": estimate(0.95)}},
        "members": [
            member("one", "certified", 0.95831),
            member("two", "undecided", 0.93129),
            member("three", "violated", None),
            member("four", "certified", 0.95),
            member("five", "met", None),
        ],
        "trials": {"complete": 3, "failed": 0, "running": 0},
        "explanation": ["[/remark] is no markup"],
        "agreement": [
            {"measure": "nll", "accuracy": "exact_match", "rho": 0.875, "n": 7, "target": None},
            {"measure": "flat", "accuracy": "exact_match", "rho": None, "n": 7, "target": None},
            {"measure": "nll", "accuracy": "loyalty", "rho": None, "n": 3, "target": 0.1},
        ],
    }
    studies.show_front(document)
    said = capsys.readouterr().out
    text = "exact_match >= 0.95 * baseline"
    for name, verdict in [
        ("one", f"certified: {text} (even exact_match >= 0.9583 * baseline) "),
        ("two", f"undecided: {text} (could be certified: exact_match >= 0.9312 * baseline) "),
        ("three", f"violated: {text}  "),
        ("four", f"certified: {text}  "),
        ("five", f"met (one measurement): {text}  "),
    ]:
        (row,) = (line for line in said.splitlines() if f" {name} " in line)
        assert verdict in row
    assert "[/remark] is no markup" in said
    assert "looked at" not in said
    studies.show_front({**document, "holdout_uses": 2})
    assert "this holdout was looked at 2 times, over all studies" in capsys.readouterr().out
    assert "order of held-out exact_match (Spearman, n = 7): nll +0.88\n" in said
    assert "order of held-out loyalty at 0.1 (Spearman, n = 3): too few finalists\n" in said


def test_what_differs_is_shown_as_a_document_has_it(tmp_path: Path) -> None:
    head = "schema: autoprune/policy/1\nstages:\n  - {at: llm:2, keep: 1/3, "
    (tmp_path / "a.yaml").write_text(head + 'score: random}\nclaims: {old: true, say: "a\\nb"}\n')
    (tmp_path / "b.yaml").write_text(head + "score: {random: {seed: 3}}, merge: soft}\nclaims: {old: 'true'}\n")
    done = cli("policy", "diff", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml"))
    assert done.out.splitlines() == [
        "claims.old: true -> 'true'",
        'claims.say: "a\\nb" -> (absent)',
        "stages[0].score: random -> {random: {seed: 3}}",
        "stages[0].merge: (absent) -> soft",
    ]


def test_a_front_of_arms_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    document = {
        "study": "s-1",
        "baseline": {"holdout": {"exact_match": estimate(0.95)}},
        "members": [{**member("one", "certified", 0.9), "arm": "inside"}, member("two", "undecided", 0.9)],
        "trials": {"complete": 2, "failed": 0, "running": 0},
    }
    studies.show_front(document)
    assert "inside" in capsys.readouterr().out
    document["members"][0].pop("arm")
    studies.show_front(document)
    assert " arm " not in capsys.readouterr().out
