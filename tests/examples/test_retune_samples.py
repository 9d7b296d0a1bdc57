"""The samples that schedule `autoprune retune`: they parse, and what they call exists. Nothing is scheduled here."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from autoprune.cli.main import app
from autoprune.spec.load import load_partly

SAMPLES = Path(__file__).resolve().parents[2] / "examples" / "retune"
CRON = re.compile(r"^(\S+ \S+ \S+ \S+ \S+)$")


def takes(arguments: list[str]) -> None:
    """The command line is one that autoprune has; nothing is run."""
    assert arguments[0] == "autoprune"
    group: Any = typer.main.get_command(app)
    command = group.commands[arguments[1]]
    command.make_context(arguments[1], arguments[2:])


def after_cd(line: str) -> list[str]:
    words = shlex.split(line)
    assert words[:2] == ["cd", "/srv/charts"]
    return words[words.index("&&") + 1 :]


def test_the_line_for_cron() -> None:
    (line,) = [one for one in (SAMPLES / "crontab").read_text().splitlines() if re.match(r"[\d*]", one)]
    fields = line.split(maxsplit=5)
    assert CRON.match(" ".join(fields[:5]))
    takes(after_cd(fields[5]))


def test_the_job_for_kubernetes() -> None:
    job = yaml.safe_load((SAMPLES / "cronjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "CronJob")
    assert CRON.match(job["spec"]["schedule"])
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    takes(container["command"])
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


def test_the_dag_for_airflow() -> None:
    """Airflow is not installed with the tests: the file compiles, and its command is read off it."""
    tree = ast.parse((SAMPLES / "airflow_dag.py").read_text())
    named = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    takes(after_cd(named["COMMAND"]))


def test_the_study_of_the_outcomes_reads_well() -> None:
    assert load_partly(SAMPLES / "spec.yaml").problems == ()
    subprocess.run(["sh", "-n", str(SAMPLES / "three_outcomes.sh")], check=True, timeout=30)


@pytest.mark.parametrize("name", ["little", "more", "ruined"])
def test_what_it_printed_is_kept(name: str) -> None:
    printed = (SAMPLES.parents[1] / "benchmarks" / "results" / f"retune-{name}.txt").read_text()
    result = {"little": "recertified", "more": "promoted", "ruined": "kept"}[name]
    assert f"\n{result}: models:/reference@champion is version" in printed
