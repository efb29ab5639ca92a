"""The table says what the summary says, no more and no less."""

from __future__ import annotations

from cafe.report.comparison import ReportLayout
from cafe.report.tables import markdown_table, published_table, terminal_table

EXPECTED = """\
**digits, cafe:mini. Top-1 accuracy in per cent by shots (training images per class), \
mean ± standard deviation over 3 seeds**

| method | 0 | 1 | 4 | chosen on |
|---|---:|---:|---:|---|
| zero-shot | 50.0 | (50.0) | (50.0) | nothing |
| clip-adapter | – | 60.5 ± 1.5 | 75.0 ± 2.0 | nothing (1), validation (4) |
| linear-probe | – | – | 70.0 ± 1.0 | validation |

( ) uses no shots: the same in every column, and compared with the others there.
"""


def test_markdown_is_what_one_writes_by_hand(comparison):
    assert markdown_table(comparison.summary) == EXPECTED


def test_terminal_table_has_the_same_cells_in_aligned_columns(comparison):
    lines = terminal_table(comparison.summary).splitlines()
    assert lines[2:7] == [
        "method           0           1           4  chosen on",
        "------------  ----  ----------  ----------  ---------------------------",
        "zero-shot     50.0      (50.0)      (50.0)  nothing",
        "clip-adapter     –  60.5 ± 1.5  75.0 ± 2.0  nothing (1), validation (4)",
        "linear-probe     –           –  70.0 ± 1.0  validation",
    ]


def test_zero_shot_is_marked_in_the_columns_where_it_is_the_best(make_entry):
    zero = make_entry("zero-shot", 0, 0.9, None, n=1, standing_by_shots=[[1, "best"], [4, "below"]])
    others = [make_entry("a", 1, 0.5, 0.02, standing="below"), make_entry("a", 4, 0.95, 0.02, standing="best")]
    table = markdown_table([zero, *others])
    assert "| zero-shot | 90.0 | (90.0)° | (90.0) |" in table and "| 50.0 ± 2.0 | 95.0 ± 2.0° |" in table
    assert "( ) uses no shots" in table


def test_balanced_accuracy_stands_beneath_where_it_differs(make_entry):
    def recall(value):
        return {"mean_per_class_recall_mean": value, "mean_per_class_recall_std": 0.01}

    equal, other = make_entry("a", 1, 0.5, 0.01, **recall(0.5)), make_entry("b", 1, 0.6, 0.01, **recall(0.4))
    assert "Mean per-class recall" not in markdown_table([equal])
    for text in (markdown_table([equal, other]), terminal_table([equal, other])):
        assert "Mean per-class recall in per cent" in text and "40.0 ± 1.0" in text
        assert text.index("Top-1") < text.index("Mean per-class")
    assert "Mean per-class" not in markdown_table([equal, other], layout=ReportLayout(metrics=("silhouette",)))


def test_every_table_says_what_was_chosen_on(make_entry, make_published):
    entries = [make_entry("a", 1, 0.5, 0.1, chosen_on="the batch"), make_entry("b", 1, 0.5, 0.1, chosen_on="TEST")]
    for layout in (ReportLayout(), ReportLayout(table="datasets")):
        lines = markdown_table(entries, layout=layout).splitlines()
        assert [line for line in lines if line.endswith("| the batch |")]
        assert [line for line in lines if line.endswith("| TEST |")]
        assert lines[2].endswith("| chosen on |")
    _, head, body, _ = published_table([make_published(chosen_on="validation")])
    assert (head[-1], body[0][-1]) == ("here chosen on", "validation")


def test_a_number_that_could_not_be_computed_is_a_gap(make_entry):
    summary = [make_entry("a", 1, float("nan"), None), make_entry("a", 2, None, None), make_entry("b", 1, 0.5, 0.0)]
    assert "| a | – |" in markdown_table(summary)


def test_oracle_rows_are_marked_and_explained(make_entry):
    summary = [make_entry("tip-adapter", 1, 0.5, 0.1), make_entry("tip-adapter", 1, 0.6, 0.1, oracle=True)]
    for text in (markdown_table(summary), terminal_table(summary)):
        assert "tip-adapter †" in text
        assert "oracle-test" in text
    assert "†" not in markdown_table(summary[:1])


def test_all_training_images_stand_behind_every_number(make_entry):
    summary = [make_entry("a", None, 0.9, 0.1), make_entry("a", 16, 0.8, 0.1)]
    assert "| method | 16 | all |" in markdown_table(summary)


def test_one_table_for_each_dataset_and_encoder(make_entry):
    summary = [make_entry("a", 1, 0.5, 0.1), make_entry("a", 1, 0.6, 0.1, dataset="caltech101")]
    text = markdown_table(summary)
    assert text.count("| method |") == 2
    assert text.index("digits") < text.index("caltech101")


def test_one_seed_has_no_spread(make_entry):
    text = markdown_table([make_entry("a", 1, 0.5, 0.0, n=1)])
    assert "| a | 50.0 |" in text
    assert "1 seed" in text


def test_names_cannot_break_the_markdown(make_entry):
    text = markdown_table([make_entry("a|b<i>", 1, 0.5, 0.1)])
    assert "| a\\|b\\<i> | 50.0 ± 10.0 |" in text


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

    values = ReportLayout(axis="x", axis_label="alpha")
    settings = [marked(4, 0.7, x=0.2), marked(4, 0.6, "below", x=0.4)]
    assert note(values, *settings).startswith("° best of all values with the same number of shots, or not")
    frozen = make_entry("zero-shot", 0, 0.9, None, n=1, standing=None, x=None, part=None)
    assert "and zero-shot, which is not marked, or not" in note(values, *settings, frozen)

    parts = ReportLayout(axis="part", axis_label="classes tested")
    assert note(parts, marked(4, 0.7, part="new")).startswith("° best of its column, or not")
    several = note(parts, marked(1, 0.5, part="new"), marked(4, 0.7, part="new"))
    assert several.startswith("° best of its column with the same number of shots, or not")
    datasets = ReportLayout(table="datasets")
    assert note(datasets, marked(1, 0.5), marked(4, 0.7)).startswith(
        "° best of its column with the same number of shots"
    )
    assert note(ReportLayout(), marked(1, 0.5), marked(4, 0.7)).startswith("° best of its column, or not")


def test_only_accuracy_is_marked(make_entry):
    entry = make_entry("a", 4, 0.75, 0.02, standing="best", ece_mean=0.05, ece_std=0.01)
    assert "°" not in markdown_table([entry], "ece")


def test_parts_and_values_make_columns(make_entry):
    parts = [make_entry("a", 4, 0.7, 0.1, x=None, part=part) for part in ("base", "new")]
    parts.append(make_entry("b", 4, None, None, x=None, part="new"))
    table = markdown_table(parts, layout=ReportLayout(axis="part", axis_label="classes tested"))
    assert "| method | base | new |" in table and "| b | – | – |" in table
    values = [make_entry("a", shots, 0.7, 0.1, x=x, part=None) for shots in (1, 4) for x in (0.2, 0.0)]
    values.append(make_entry("zero-shot", 0, 0.5, None, n=1, x=None, part=None))
    table = markdown_table(values, layout=ReportLayout(axis="x", axis_label="alpha"))
    assert "| method | none | 0 | 0.2 |" in table
    assert "| a, 1-shot |" in table and "| zero-shot | 50.0 | – | – |" in table


def test_other_backbones_have_no_difference_and_give_way_to_the_same_one(make_published):
    other = make_published(backbone="ViT-B/16", difference=None, published=59.4)
    _, _, body, notes = published_table([other])
    assert body[0][5] == "–" and "here RN50" in body[0][6]
    assert any("chosen on the test set" in note for note in notes)
    _, _, body, _ = published_table([other, make_published()])
    assert [row[5] for row in body] == ["-0.96"]
