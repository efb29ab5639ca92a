"""The figure shows every point of the summary, and nothing else."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from cafe.report.comparison import BY_SHOTS
from cafe.report.figure import DARK, LIGHT, draw, keep_apart, make_figure


def drawn(summary, layout=BY_SHOTS):
    return make_figure(summary, None, layout, LIGHT)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_png_of_the_size_asked_for(comparison):
    image = Image.open(io.BytesIO(draw(comparison.summary, dpi=50)))
    assert image.format == "PNG"
    assert image.height == pytest.approx(4.2 * 50, abs=1)


def test_themes_differ_in_paper(comparison):
    corner = {
        theme: Image.open(io.BytesIO(draw(comparison.summary, theme=theme, dpi=30))).convert("RGB").getpixel((0, 0))
        for theme in (LIGHT, DARK)
    }
    assert corner == {LIGHT: (255, 255, 255), DARK: (0x15, 0x19, 0x1E)}


def test_points_are_those_of_the_summary(comparison):
    (axes,) = drawn(comparison.summary).axes
    lines = {tuple(np.round(bar.lines[0].get_ydata().astype(float), 2)) for bar in axes.containers}
    assert lines == {(60.49, 75.0), (70.0,)}
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "4"]


def test_error_bars_are_the_standard_deviation(comparison):
    (axes,) = drawn(comparison.summary).axes
    ends = [segment[:, 1] for bar in axes.containers for segment in bar.lines[2][0].get_segments()]
    assert np.round(sorted(end[1] - end[0] for end in ends), 3).tolist() == [2.0, 3.02, 4.0]


def test_zero_shot_is_one_level_line_across(comparison):
    (axes,) = drawn(comparison.summary).axes
    level = [line for line in axes.lines if list(line.get_xdata()) == [0, 1] and list(line.get_ydata()) == [50.0, 50.0]]
    assert len(level) == 1
    assert "zero-shot (no shots)" in texts(axes)


def test_title_and_subtitle_name_dataset_encoder_and_seeds(comparison):
    (axes,) = drawn(comparison.summary).axes
    assert axes.get_title(loc="left") == "digits"
    assert any("cafe:mini" in text and "3 seeds" in text for text in texts(axes))


def test_shots_are_equally_far_apart_on_a_log2_axis(make_entry):
    (axes,) = drawn([make_entry("a", shots, 0.5, 0.1) for shots in (1, 2, 16)] + [make_entry("a", None, 0.6, 0.1)]).axes
    assert axes.get_xticks().tolist() == [0, 1, 4, 5]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "16", "all"]


def test_one_panel_for_each_dataset_and_oracle_is_explained(make_entry):
    summary = [make_entry("a", 1, 0.5, 0.1, dataset=name) for name in ("x", "y", "z", "w")]
    summary.append(make_entry("a", 1, 0.6, 0.1, dataset="x", oracle=True))
    figure = drawn(summary)
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()] == ["x", "y", "z", "w"]
    assert "oracle-test" in figure.get_supxlabel()


@pytest.mark.parametrize("summary", [[], "only-zero-shot", "gaps"])
def test_little_is_drawn_without_complaint(summary, make_entry, recwarn):
    entries = {
        "only-zero-shot": [make_entry("zero-shot", 0, 0.5, None, n=1)],
        "gaps": [make_entry("a", 1, None, None), make_entry("a", 2, 0.5, None, n=1)],
    }
    assert draw(entries.get(summary, []) if isinstance(summary, str) else summary, dpi=30).startswith(b"\x89PNG")
    assert [str(warning.message) for warning in recwarn] == []


def test_nothing_global_is_touched(comparison):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    draw(comparison.summary, dpi=30)
    assert dict(mpl.rcParams) == before


def test_svg_is_the_same_every_time(comparison):
    assert draw(comparison.summary, file_format="svg") == draw(comparison.summary, file_format="svg")


@pytest.mark.parametrize("seed", range(20))
def test_labels_keep_their_distance_and_order(seed):
    rng = np.random.default_rng(seed)
    heights = rng.uniform(0, 100, 8).tolist()
    placed = np.array(keep_apart(heights, 5.0, 0.0, 100.0))
    order = np.argsort(heights)
    assert np.all(np.diff(placed[order]) >= 5.0 - 1e-9)
    assert placed.min() >= 0.0 and placed.max() <= 100.0


def test_labels_with_room_stay_where_they_are():
    assert keep_apart([10.0, 80.0, 40.0], 5.0, 0.0, 100.0) == [10.0, 80.0, 40.0]


def test_labels_move_as_little_as_possible():
    # Three labels at 50 with a gap of 10: the least-squares answer is symmetric about 50.
    assert sorted(keep_apart([50.0, 50.0, 50.0], 10.0, 0.0, 100.0)) == [40.0, 50.0, 60.0]
