"""Relative paths stay in their project, links followed; what a person writes absolute may lead anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.document.paths import followed, is_file, leaves, own_file, project
from autoprune.errors import Mistake


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A spec's folder inside a project, with something outside of it."""
    folder = tmp_path / "project" / "studies" / "one"
    folder.mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    return folder


def refused(text: str, folder: Path) -> str:
    with pytest.raises(Mistake) as caught:
        followed(text, folder)
    return caught.value.code


@pytest.mark.parametrize("mark", [".git", "pyproject.toml"])
def test_the_project_is_the_nearest_marked_folder_and_dots_stay_in_it(spec: Path, mark: str) -> None:
    assert project(spec) == spec  # without a mark: the spec's own folder
    assert refused("../two/x", spec) == "path-leaves-folder"
    (spec.parents[1] / mark).mkdir()
    assert project(spec) == spec.parents[1]
    assert followed("../two/x", spec) == spec / "../two/x"
    assert refused("../../../outside/secret", spec) == "path-leaves-folder"


def test_state_that_a_search_leaves_behind_changes_nothing(spec: Path) -> None:
    (spec.parents[1] / ".git").mkdir()
    (spec / ".autoprune").mkdir()
    assert followed("../two/x", spec) == spec / "../two/x"


def test_what_is_absolute_is_meant(spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "outside" / "secret"
    assert followed(str(secret), spec) == secret
    monkeypatch.setenv("HOME", str(tmp_path))
    assert followed("~/outside/secret", spec) == secret


def test_links_are_followed_before_they_are_judged(spec: Path, tmp_path: Path) -> None:
    (spec / "out").symlink_to(tmp_path / "outside")
    (spec / "loop").symlink_to(spec / "loop")
    (spec / "own").mkdir()
    (spec / "in").symlink_to(spec / "own")
    assert refused("out/secret", spec) == "path-leaves-folder"
    assert followed("in", spec) == spec / "in"
    assert refused("loop/x", spec) == "not-a-path"


@pytest.mark.parametrize("text", ["a\0b", "a" * 300, "~nobody-has-this-name/x"])
def test_what_no_path_can_be_is_said(spec: Path, text: str) -> None:
    assert refused(text, spec) == "not-a-path"
    assert not is_file(spec / text)


def test_names_in_records_stay_in_the_project_and_links_do_not_matter(spec: Path, tmp_path: Path) -> None:
    (spec / "linked.png").symlink_to(tmp_path / "outside" / "secret")
    assert not leaves("linked.png", spec)  # as in the hub's cache, where every file is a link
    assert not leaves("a/../b.png", spec)
    assert not leaves(str(tmp_path / "outside" / "secret"), spec)
    assert leaves("../../../outside/secret", spec)


def test_files_of_a_folder_from_elsewhere_are_plain(spec: Path, tmp_path: Path) -> None:
    (spec / "plain").write_text("x")
    (spec / "linked").symlink_to(tmp_path / "outside" / "secret")
    (spec / "folder").mkdir()
    assert own_file(spec, "plain") == spec / "plain"
    assert own_file(spec, "absent") == spec / "absent"
    for name in ("linked", "folder"):
        with pytest.raises(Mistake, match="not a plain file"):
            own_file(spec, name)
