"""Marks, intervals, paired tests, published figures and notes reach the reader."""

from __future__ import annotations

from cafe.report.files import table_text
from cafe.report.layout import Layout
from cafe.report.page import page
from cafe.report.published import published_grid
from cafe.report.table import markdown_table


def pair(**more):
    base = {"dataset": "digits", "encoder": "cafe:mini", "shots": 4, "part": None, "a": "zero-shot", "a_x": None}
    found = {"b": "clip-adapter", "b_x": None, "difference": -0.25, "ci95": [-0.3, -0.2], "p_value": 1e-4}
    return {**base, **found, "p_holm": 3e-4, "n_seeds": 3, "n_test": 546, "mcnemar": [], **more}


def published(**more):
    base = {"dataset": "dtd", "series": "clip-adapter", "method": "clip-adapter", "shots": 16, "part": None}
    source = {"table": "log", "source": "exp.log", "protocol": "one template", "chosen_on_test": True}
    values = {"label": "CLIP-Adapter", "published": 65.96, "here": 65.0, "difference": -0.96}
    return {**base, **source, **values, "backbone": "RN50", "backbone_here": "RN50", **more}


def test_best_of_a_column_and_what_is_level_with_it_are_marked(make_entry):
    summary = [
        make_entry("a", 4, 0.75, 0.02, standing="best"),
        make_entry("b", 4, 0.74, 0.02, standing="level"),
        make_entry("c", 4, 0.50, 0.02, standing="below"),
    ]
    table = markdown_table(summary)
    assert "| a | 75.0 ± 2.0° |" in table and "| b | 74.0 ± 2.0° |" in table and "| c | 50.0 ± 2.0 |" in table
    assert "Holm-corrected" in table
    assert "°" not in markdown_table(summary[2:])


def test_the_mark_says_among_what_a_point_is_the_best(make_entry):
    """Where columns are values or parts, the best of one number of shots is not the best of its column."""

    def note(layout, *entries):
        (line,) = [line for line in markdown_table(entries, layout=layout).splitlines() if line.startswith("° ")]
        return line

    def marked(shots, mean, standing="best", **more):
        return make_entry("a", shots, mean, 0.02, standing=standing, **{"x": None, "part": None, **more})

    values = Layout(axis="x", axis_label="alpha")
    settings = [marked(4, 0.7, x=0.2), marked(4, 0.6, "below", x=0.4)]
    assert note(values, *settings).startswith("° best of all values with the same number of shots, or not")
    frozen = make_entry("zero-shot", 0, 0.9, None, n=1, standing=None, x=None, part=None)
    assert "and zero-shot, which is not marked, or not" in note(values, *settings, frozen)

    parts = Layout(axis="part", axis_label="classes tested")
    assert note(parts, marked(4, 0.7, part="new")).startswith("° best of its column, or not")
    several = note(parts, marked(1, 0.5, part="new"), marked(4, 0.7, part="new"))
    assert several.startswith("° best of its column with the same number of shots, or not")
    datasets = Layout(table="datasets")
    assert note(datasets, marked(1, 0.5), marked(4, 0.7)).startswith(
        "° best of its column with the same number of shots"
    )
    assert note(Layout(), marked(1, 0.5), marked(4, 0.7)).startswith("° best of its column, or not")


def test_only_accuracy_is_marked(make_entry):
    entry = make_entry("a", 4, 0.75, 0.02, standing="best", ece_mean=0.05, ece_std=0.01)
    assert "°" not in markdown_table([entry], "ece")


def test_parts_and_values_make_columns(make_entry):
    parts = [make_entry("a", 4, 0.7, 0.1, x=None, part=part) for part in ("base", "new")]
    parts.append(make_entry("b", 4, None, None, x=None, part="new"))
    table = markdown_table(parts, layout=Layout(axis="part", axis_label="classes tested"))
    assert "| method | base | new |" in table and "| b | – | – |" in table
    values = [make_entry("a", shots, 0.7, 0.1, x=x, part=None) for shots in (1, 4) for x in (0.2, 0.0)]
    values.append(make_entry("zero-shot", 0, 0.5, None, n=1, x=None, part=None))
    table = markdown_table(values, layout=Layout(axis="x", axis_label="alpha"))
    assert "| method | none | 0 | 0.2 |" in table
    assert "| a, 1-shot |" in table and "| zero-shot | 50.0 | – | – |" in table


def test_page_and_table_hold_pairs_published_figures_and_notes(comparison):
    comparison.pairs, comparison.published = [pair()], [published()]
    comparison.notes = ["linear-probe: it cannot score classes that it has no image of"]
    html, table = page(comparison), table_text(comparison)
    for words in ("-25.00", "-30.00 to -20.00", "0.0003", "65.96", "-0.96", "exp.log", "cannot score"):
        assert words in html, words
    for words in ("65.96", "-0.96", "exp.log", "cannot score"):
        assert words in table, words


def test_other_backbones_have_no_difference_and_give_way_to_the_same_one():
    other = published(backbone="ViT-B/16", difference=None, published=59.4)
    _, body, notes = published_grid([other])
    assert body[0][5] == "–" and "here RN50" in body[0][6]
    assert any("chosen on the test set" in note for note in notes)
    _, body, _ = published_grid([other, published()])
    assert [row[5] for row in body] == ["-0.96"]
