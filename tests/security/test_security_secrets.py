"""Passwords and tokens of addresses stay where the user wrote them: no output, log or file of ours repeats them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoprune.errors import AutoPruneError, BadInput, Located
from autoprune.redact import plain, redacted

ROOT = Path(__file__).resolve().parents[2]
SECRET = "pl4nted-s3cret"
ADDRESSES = (
    f"postgresql+psycopg://tuner:{SECRET}@db.example:5432/x",
    f"postgresql://:{SECRET}@db.example/x",
    f"postgresql://tuner:{SECRET}/with/slashes@db.example/x",
    f"postgresql://db.example/x?user=tuner&password={SECRET}",
    f"host=db.example user=tuner password={SECRET} dbname=x",
    f"https://tuner:{SECRET}@mlflow.example/base",
    f"https://{SECRET}@mlflow.example",
    f"https://mlflow.example/?access_token={SECRET}&x=1",
    f"s3://bucket/x?X-Amz-Signature={SECRET}",
    "hf_" + "a1B2" * 8,
    f"postgresql://tuner:o'brien\"{SECRET}@db.example/x",
    f"postgresql://tuner:with space {SECRET}@db.example/x",
    f"postgresql://tuner:a@b{SECRET}@db.example/x",
    *(f"postgresql://tuner:{digits}{mark}{SECRET}@db.example/x" for digits in (1, 12345) for mark in "/?#"),
    f"https://tuner:12{SECRET}@mlflow.example",
    f"password='se {SECRET}' host=x",
    f"host=x password=o'{SECRET}",
    f'{{"password": "{SECRET}", "x": 1}}',
    f'{{\\"db_password\\": \\"{SECRET}\\"}}',
    f"{{'token': '{SECRET}'}}",
    f"PGPASSWORD={SECRET}",
    f"MLFLOW_TRACKING_TOKEN={SECRET}",
    f"GITHUB_TOKEN = {SECRET}",
    f"AWS_SECRET_ACCESS_KEY={SECRET}",
    f"api-key: {SECRET}",
    f"Authorization: Bearer {SECRET}",
    f"{{'authorization': 'Basic {SECRET}'}}",
    f"sent Bearer {SECRET}",
)
PLAIN = (
    "models:/llava@champion",
    "http://127.0.0.1:5000/models@champion",
    "sqlite:////tmp/a:b@c/x.db",
    "postgresql://tuner@db.example/x",
    "exact_match >= 0.97 * baseline",
    "mail somebody: a@b.example",
    "http://mlflow:5000 is away, ask ops@b.example",
    "postgresql://db:5432/x is away; driven by me@host",
    "tokens: 576, max_new_tokens=4, image_token: '<image>', per_token=0.5",
    "the token: none",
    "user or password is wrong",
    "records: ../secrets.jsonl: it leads out of the project",
)


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_is_secret_in_an_address_is_hidden(address: str) -> None:
    for text in (address, f"output: {{store: '{address}'}} # and more", f"it failed at {address} (no route)"):
        assert SECRET not in redacted(text)
        assert "a1B2" not in redacted(text)
        assert "***" in redacted(text)
        assert redacted(redacted(text)) == redacted(text)
    assert SECRET not in repr(plain({"a": [address, {"b": address}], "n": 1}))


def test_data_under_the_name_of_a_secret_is_hidden() -> None:
    data = {"password": SECRET, "hub_token": SECRET, "token": SECRET, "tokens": "576", "secret": 1}
    hidden = {"password": "***", "hub_token": "***", "token": "***", "tokens": "576", "secret": 1}
    assert plain({"a": [data]}) == {"a": [hidden]}


def test_a_saved_spec_can_still_be_read() -> None:
    import yaml

    text = f"output: {{store: 'postgresql://u:{SECRET}@h/x?password={SECRET}', tracking_uri: 'http://m:5000'}}"
    hidden = {"store": "postgresql://u:***@h/x?password=***", "tracking_uri": "http://m:5000"}
    assert yaml.safe_load(redacted(text)) == {"output": hidden}


@pytest.mark.parametrize("text", PLAIN)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert redacted(text) == text


def test_no_error_of_ours_holds_a_password() -> None:
    address = ADDRESSES[0]
    problem = Located("spec.yaml", 1, 1, "output.store", "bad-input", f"no {address}")
    for error in (AutoPruneError(address), BadInput(address), BadInput(problems=[problem])):
        assert SECRET not in str(error)
        assert SECRET not in repr(error)


SPEC = """\
schema: autoprune/spec/1
name: case
model: {{path: {model}}}
calibration: {{records: records.jsonl, images: images, search: 2, holdout: 2}}
search_space: {{stages: [{{at: llm:2, keep: {{float: [0.2, 0.9]}}, select: stride}}]}}
objectives: [minimize prefill_flops]
output: {output}
"""
STORE = f"postgresql+psycopg://tuner:{SECRET}@127.0.0.1:9/x"
TRACKING = f"http://tuner:{SECRET}@127.0.0.1:9"
COMMANDS = {
    "a store that is away": ("search", "{spec}", f"{{store: '{STORE}'}}"),
    "a store of another kind": ("search", "{spec}", f"{{store: 'mysql://tuner:{SECRET}@127.0.0.1/x'}}"),
    "a store that is no address": ("search", "{spec}", f"{{store: 'tuner:{SECRET}//x?password={SECRET}'}}"),
    "a registry that is away": ("search", "{spec}", f"{{tracking_uri: '{TRACKING}'}}"),
    "a misspelt key": ("validate", "{spec}", f"{{stoer: '{STORE}'}}"),
    "a wrong type": ("validate", "{spec}", f"{{store: ['{STORE}']}}"),
    "a doctor": ("doctor", "{spec}", f"{{store: '{STORE}', tracking_uri: '{TRACKING}'}}"),
    "a listing": ("studies", "--store", STORE),
    "a policy": ("policy", "show", "models:/x@champion", "--tracking-uri", TRACKING),
    "an option that does not exist": ("policy", "show", "fastv", f"--tracking={TRACKING}"),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["text", "json"])
def test_no_command_repeats_it(name: str, flags: tuple[str, ...], tmp_path: Path) -> None:
    """A fresh process, so that whatever a library prints or logs is seen as well; and its log files."""
    *command, last = COMMANDS[name]
    if "{spec}" in command:
        folder = tmp_path / "case"
        data = ROOT / "tests" / "data"
        subprocess.run(["cp", "-r", str(data / "images"), str(data / "records.jsonl"), str(_made(folder))], check=True)
        spec = folder / "spec.yaml"
        spec.write_text(SPEC.format(model=ROOT / "examples" / "reference_vlm" / "checkpoint", output=last))
        arguments = [one.format(spec=spec) for one in command]
    else:
        spec, arguments = None, [*command, last]
    environment = {**os.environ, "XDG_STATE_HOME": str(_made(tmp_path / "state")), "PGCONNECT_TIMEOUT": "2"}
    done = subprocess.run(
        [sys.executable, "-m", "autoprune", *arguments, *flags],
        capture_output=True,
        text=True,
        check=False,
        cwd=_made(tmp_path / "here"),
        env=environment,
    )
    assert done.returncode in (1, 2), done.stderr
    assert SECRET not in done.stdout
    assert SECRET not in done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path != spec]
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
