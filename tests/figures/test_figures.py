"""Figures by their structure: what is drawn, how often, and how it is labelled."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from autoprune import figures
from autoprune.figures.front import state
from autoprune.ports import TrialRecord

CONSTRAINT = "exact_match >= 0.95 * baseline"


def _member(fraction: float, accuracy: float, verdict: str, selected: bool = False) -> dict[str, Any]:
    return {
        "policy": {},
        "budget": fraction / 2,
        "search": {"prefill_flops": 4e9 * fraction},
        "holdout": {"exact_match": {"value": accuracy, "low": accuracy - 0.02, "high": accuracy + 0.01}},
        "constraints": {CONSTRAINT: verdict},
        "selected": selected,
        "published": None,
    }


@pytest.fixture
def front() -> dict[str, Any]:
    baseline = {
        "exact_match": {"value": 0.96, "low": 0.95, "high": 0.97},
        "prefill_flops": {"value": 4e9, "low": 4e9, "high": 4e9},
    }
    members = [
        _member(0.2, 0.80, "violated"),
        _member(0.4, 0.92, "undecided"),
        _member(0.5, 0.95, "certified", selected=True),
        _member(0.8, 0.96, "certified"),
    ]
    return {"study": "demo", "baseline": {"holdout": baseline}, "members": members}


def _trial(number: int, flops: float, accuracy: float, origin: Any = "trial", state: Any = "complete") -> TrialRecord:
    values = {"prefill_flops": flops, "exact_match": accuracy}
    return TrialRecord(number, origin, "t", state, None, None, "", values=values)


def _legend(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_front_shows_states_selection_baseline_bound_and_cloud(front, tmp_path):
    trials = [_trial(0, 4e9, 0.97, "baseline"), _trial(1, 2e9, 0.9), _trial(2, 1e9, 0.9, state="failed")]
    figure = figures.front_figure(front, trials=trials)
    (axes,) = figure.axes
    assert _legend(axes) == [
        "certified (2)",
        "undecided (1)",
        "violated (1)",
        "selected",
        "unpruned",
        CONSTRAINT,
        "trials, search split (1)",
    ]
    assert axes.get_xlabel() == "prefill FLOPs (fraction of the unpruned model's)"
    assert axes.get_ylabel() == "exact match on the holdout"
    drawn = {c.get_label(): c for c in axes.containers}
    xs, ys = drawn["certified (2)"].lines[0].get_data()
    assert list(xs) == [0.5, 0.8]
    assert list(ys) == [0.95, 0.96]
    (bars,) = drawn["certified (2)"].lines[2]
    assert bars.get_segments()[0][:, 1] == pytest.approx([0.93, 0.96]), "the interval is drawn as given"
    bound = next(line for line in axes.lines if line.get_label() == CONSTRAINT)
    assert bound.get_ydata()[0] == pytest.approx(0.95 * 0.96)
    ring = next(line for line in axes.lines if line.get_label() == "selected")
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (0.5, 0.95)
    assert axes.collections[-1].get_offsets().tolist() == [[0.5, 0.9]]
    shapes = {c.lines[0].get_marker() for c in axes.containers}
    assert len(shapes) == 4, "states differ by shape, not by colour alone"
    path = figures.save(figure, tmp_path / "new" / "front.png")
    assert path.stat().st_size > 10_000


def test_trials_far_below_the_front_do_not_squeeze_it(front):
    trials = [_trial(1, 2e9, 0.9), *(_trial(i, 1e9, 0.01) for i in range(2, 5))]
    (axes,) = figures.front_figure(front, trials=trials).axes
    assert axes.get_ylim()[0] > 0.4
    assert "… below the axis (3)" in _legend(axes)


def test_front_axes_can_be_chosen(front):
    (axes,) = figures.front_figure(front, x="budget", title="").axes
    assert axes.get_xlabel() == "budget"
    certified = next(c for c in axes.containers if c.get_label().startswith("certified"))
    assert list(certified.lines[0].get_xdata()) == [0.25, 0.4]
    for member in front["members"]:
        del member["search"]["prefill_flops"]
    assert figures.front_figure(front).axes[0].get_xlabel() == "budget", "the only cost that all members have"


def test_front_without_interval_ends_or_lower_bound(front):
    for member in front["members"]:
        member["holdout"]["exact_match"] = {"value": 0.9, "low": None, "high": None}
        member["constraints"] = {"prefill_flops <= 0.5 * baseline": "certified"}
    (axes,) = figures.front_figure(front).axes
    assert axes.get_ylabel() == "exact match on the holdout"
    assert not any("<=" in label for label in _legend(axes))


def test_a_front_with_nothing_to_compare_says_so(front):
    front["baseline"]["holdout"] = {}
    with pytest.raises(ValueError, match="name one as y"):
        figures.front_figure(front)
    del front["members"][0]["budget"]
    with pytest.raises(ValueError, match="none of the costs"):
        figures.front_figure(front)


def test_the_worst_constraint_is_the_member_s_state():
    assert state({"constraints": {"a": "certified", "b": "undecided", "c": "violated"}}) == "violated"
    assert state({"constraints": {"a": "certified", "b": "undecided"}}) == "undecided"
    assert state({"constraints": {}}) == "certified"


def test_schedule_draws_one_staircase_per_policy(tmp_path):
    lengths = {"fastv": [36, 36, 18, 18], "ours": [20, 20, 10, 6]}
    figure = figures.schedule_figure(lengths, tokens=36)
    (axes,) = figure.axes
    assert [list(p.get_data().values) for p in axes.patches] == list(lengths.values())
    assert _legend(axes) == ["unpruned (N = 36)", "fastv (budget 0.75)", "ours (budget 0.39)"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0", "1", "2", "3"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("decoder layer", "visual tokens")
    assert figures.save(figure, tmp_path / "s.svg").read_text().startswith("<?xml")


def test_one_schedule_needs_no_legend_and_many_layers_fewer_ticks():
    (axes,) = figures.schedule_figure([576] * 60).axes
    assert axes.get_legend() is None
    assert len(axes.get_xticks()) <= 16
    for nothing in ({}, [], {"a": []}):
        with pytest.raises(ValueError, match="at least one"):
            figures.schedule_figure(nothing)


def test_more_policies_than_colours_stay_apart():
    (axes,) = figures.schedule_figure({f"p{i}": [10 - i] for i in range(9)}).axes
    looks = {(p.get_edgecolor(), p.get_linestyle()) for p in axes.patches}
    assert len(looks) == 9


def test_hypervolume_is_a_step_curve_with_its_last_gain_marked():
    (axes,) = figures.hypervolume_figure([(1, 0.1), (2, 0.3), (3, 0.3)]).axes
    line = axes.lines[0]
    assert line.get_drawstyle() == "steps-post"
    assert line.get_xydata().tolist() == [[1, 0.1], [2, 0.3], [3, 0.3]]
    assert [t.get_text() for t in axes.texts] == ["0.3 after 2"]
    assert axes.get_ylim()[0] == 0
    figures.hypervolume_figure([(1, 0.0)])
    with pytest.raises(ValueError, match="at least one point"):
        figures.hypervolume_figure([])


def test_kept_tokens_dims_what_was_dropped_and_only_that():
    image = np.full((31, 40, 3), 100, dtype=np.uint8)  # sides that are no multiple of the grid
    image[..., 0] = 200
    mask = np.zeros(12, dtype=bool)
    mask[[0, 11]] = True
    figure = figures.kept_tokens_figure(image, (3, 4), {"projector": mask, "llm:2": np.ones(12, bool)}, title="q")
    untouched, stage, full = (axes.images[0].get_array() for axes in figure.axes)
    assert np.array_equal(untouched, image / 255)
    assert np.array_equal(full, untouched)
    assert np.array_equal(stage[:10, :10], untouched[:10, :10])
    assert np.array_equal(stage[-10:, -10:], untouched[-10:, -10:])
    assert (stage[:10, 11:] > 0.8).all()
    assert [a.get_title() for a in figure.axes] == [
        "image\n12 tokens",
        "projector\n2 kept (17%)",
        "llm:2\n12 kept (100%)",
    ]
    assert len(figure.axes[1].lines) == 2 + 3, "the patches' borders"


def test_kept_tokens_takes_pil_images_and_many_stages(tmp_path):
    from PIL import Image

    image = Image.new("L", (24, 12), 128)
    masks = {f"llm:{i}": [True] * 8 for i in range(5)}
    figure = figures.kept_tokens_figure(image, (2, 4), masks)
    assert len(figure.axes) == 8
    assert [a.axison for a in figure.axes] == [True] * 6 + [False] * 2
    assert figures.save(figure, tmp_path / "kept.png").stat().st_size > 5_000


def test_kept_tokens_refuses_masks_and_images_of_another_shape():
    image = np.zeros((8, 8, 3))
    with pytest.raises(ValueError, match="'s' has 3 entries for a grid of 2 x 2"):
        figures.kept_tokens_figure(image, (2, 2), {"s": [True] * 3})
    with pytest.raises(ValueError, match="at least one row"):
        figures.kept_tokens_figure(image, (0, 2), {"s": []})
    with pytest.raises(ValueError, match="height x width x 3"):
        figures.kept_tokens_figure(np.zeros((8, 8)), (2, 2), {})


def test_importing_figures_leaves_matplotlib_and_pyplot_alone():
    code = (
        "import sys, autoprune.figures as f; assert 'matplotlib' not in sys.modules; f.hypervolume_figure([(1, 1.0)]);"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
