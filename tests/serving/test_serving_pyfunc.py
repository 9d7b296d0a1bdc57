"""MLflow's own `pyfunc.load_model` answers from image and prompt, and never unpickles."""

from __future__ import annotations

import base64
import io
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from front_support import published

from autoprune.errors import BadInput, PolicyMismatch
from autoprune.models import fingerprint
from autoprune.registry import aliases, names, policies
from autoprune.registry import client as mlflow_client
from autoprune.registry.flavor import CONFIG
from autoprune.serving.pyfunc import questions

pytestmark = pytest.mark.mlflow

CHECKPOINT = Path(__file__).resolve().parents[2] / "examples" / "reference_vlm" / "checkpoint"
PROMPT = "what color is the circle ?"


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URI of a registry whose `models:/pol@champion` was made for the reference model."""
    home = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{home / 'mlflow.db'}"
    whole = published()
    made_for = {"path": str(CHECKPOINT), "name": "reference", "revision": None}
    metadata = {**whole.metadata, "model": made_for, "environment": {"dtype": "float32"}}
    replace(whole, fingerprint=fingerprint(CHECKPOINT), metadata=metadata).save_pretrained(home / "policy")
    client = mlflow_client.connect(uri)
    experiment = client.create_experiment("e", artifact_location=(home / "art").as_uri())
    run_id = str(client.create_run(experiment).info.run_id)
    tags = {names.DIGEST_TAG: "a" * 64, names.STUDY_TAG: "s"}
    policies.register(uri, "pol", home / "policy", run_id=run_id, tags=tags)
    aliases.promote(uri, "pol", 1)
    return uri


@pytest.fixture(scope="module")
def picture() -> Any:
    from PIL import Image, ImageDraw

    made = Image.new("RGB", (96, 96), "white")
    ImageDraw.Draw(made).ellipse((20, 20, 60, 60), fill="red")
    return made


def _load(uri: str, **settings: Any) -> Any:
    import mlflow

    mlflow.set_tracking_uri(uri)
    try:
        return mlflow.pyfunc.load_model("models:/pol@champion", model_config=settings or None)
    finally:
        mlflow.set_tracking_uri(None)


def _bytes(picture: Any) -> bytes:
    written = io.BytesIO()
    picture.save(written, "PNG")
    return written.getvalue()


@pytest.fixture(scope="module")
def model(champion: str) -> Any:
    return _load(champion)


def test_it_answers_as_generation_with_the_policy_attached(model: Any, picture: Any) -> None:
    inside = model._model_impl
    network, speaker = inside._speaker.network, inside._speaker
    (said,) = model.predict({"image": picture, "prompt": PROMPT})
    assert said.strip()
    inputs = speaker.inputs([picture], PROMPT)
    again = network.generate(**inputs, max_new_tokens=64, do_sample=False)
    assert said == speaker.text(inputs, again), "greedy, pruned by the same policy"
    assert inside.policy.policy.name == "strong"


def test_every_way_to_give_an_image_is_the_same_question(model: Any, picture: Any, tmp_path: Path) -> None:
    import pandas

    raw = _bytes(picture)
    (tmp_path / "a.png").write_bytes(raw)
    data = f"data:image/png;base64,{base64.b64encode(raw).decode()}"
    ways = [raw, str(tmp_path / "a.png"), data, picture]
    rows = [{"image": way, "prompt": PROMPT} for way in ways]
    answers = model.predict(rows)
    assert len(set(answers)) == 1
    assert model.predict(pandas.DataFrame(rows[1:3])) == answers[:2]
    assert model.predict({"image": ways[:2], "prompt": [PROMPT] * 2}) == answers[:2]
    assert model.predict({"images": [raw], "prompt": PROMPT}) == answers[:1]


def test_the_answer_s_length_is_a_parameter(model: Any, picture: Any) -> None:
    (short,) = model.predict({"image": picture, "prompt": PROMPT}, params={"max_new_tokens": 1})
    (long,) = model.predict({"image": picture, "prompt": PROMPT}, params={"max_new_tokens": 8})
    assert long.startswith(short)
    with pytest.raises(BadInput, match="at least 1"):
        model.predict({"image": picture, "prompt": PROMPT}, params={"max_new_tokens": 0})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a picture", "predict takes"),
        ([{"image": b"no image", "prompt": "x"}], "question 0: the image cannot be read"),
        ([{"image": "/no/such.png", "prompt": "x"}], r"/no/such\.png cannot be read as an image: No such file"),
        ([{"image": "data:image/png;base64,@@", "prompt": "x"}], "not base64"),
        ([{"image": 3, "prompt": "x"}], "not int"),
        ([{"prompt": "x"}], "not NoneType"),
        ([{"image": b"", "prompt": " "}], "'prompt' must be text"),
        ([{"images": "a.png", "prompt": "x"}], "must be a list"),
        ({"image": ["a"], "prompt": ["x", "y"]}, "equally long"),
    ],
)
def test_what_is_no_question_is_said_by_its_number(model: Any, data: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        model.predict(data)


def test_model_policy_and_files_can_be_chosen_when_loading(champion: str, picture: Any, tmp_path: Path) -> None:
    gentler = _load(champion, budget=0.6, device="cpu", files=False)
    assert gentler._model_impl.policy.policy.name == "middle"
    with pytest.raises(BadInput, match="image files are not read here"):
        gentler.predict({"image": str(tmp_path / "a.png"), "prompt": PROMPT})
    assert gentler.predict({"image": _bytes(picture), "prompt": PROMPT})
    with pytest.raises(BadInput, match="no such model folder"):
        _load(champion, model=str(tmp_path / "none"))
    with pytest.raises(BadInput, match="device 'tpu' is not there"):
        _load(champion, device="tpu")


def test_another_architecture_is_refused(champion: str, tmp_path: Path) -> None:
    import tiny_families

    tiny_families.model("llava").save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text((CHECKPOINT / "processor_config.json").read_text())
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (CHECKPOINT / name).is_file():
            (tmp_path / name).write_text((CHECKPOINT / name).read_text())
    with pytest.raises(PolicyMismatch, match="another architecture"):
        _load(champion, model=str(tmp_path))


def test_nothing_is_unpickled_and_no_code_is_in_the_version(champion: str, tmp_path: Path, monkeypatch: Any) -> None:
    folder = policies.download("models:/pol@champion", champion, tmp_path / "d")
    there = {p.name for p in folder.iterdir()} - {"registered_model_meta"}  # MLflow leaves that where it loads
    assert there == {"MLmodel", "policy.yaml", "metadata.json", "front.json"}
    import yaml

    flavor = yaml.safe_load((folder / "MLmodel").read_text())["flavors"]["python_function"]
    assert flavor["loader_module"] == "autoprune.serving.pyfunc"
    assert set(flavor) <= {"loader_module", "python_version", "config"}
    assert flavor["config"] == CONFIG

    def refused(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refused)
    assert _load(champion)


def test_a_version_that_was_touched_is_not_served(champion: str, tmp_path: Path) -> None:
    import mlflow

    folder = policies.download("models:/pol@champion", champion, tmp_path / "d")
    content = json.loads((folder / "front.json").read_text())
    content["members"][3]["constraints"] = dict.fromkeys(content["members"][3]["constraints"], "certified")
    (folder / "front.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match="was changed after it was saved"):
        mlflow.pyfunc.load_model(str(folder))


def test_one_mapping_is_one_question() -> None:
    assert questions({"image": "a", "prompt": "b"}) == [{"image": "a", "prompt": "b"}]
    assert questions([]) == []
