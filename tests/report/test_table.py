"""The table says what the summary says, no more and no less."""

from __future__ import annotations

from cafe.report.table import markdown_table, terminal_table

EXPECTED = """\
**digits, cafe:mini. Top-1 accuracy in per cent by shots (training images per class), \
mean ± standard deviation over 3 seeds**

| method | 0 | 1 | 4 |
|---|---:|---:|---:|
| zero-shot | 50.0 | – | – |
| clip-adapter | – | 60.5 ± 1.5 | 75.0 ± 2.0 |
| linear-probe | – | – | 70.0 ± 1.0 |
"""


def test_markdown_is_what_one_writes_by_hand(comparison):
    assert markdown_table(comparison.summary) == EXPECTED


def test_terminal_table_has_the_same_cells_in_aligned_columns(comparison):
    lines = terminal_table(comparison.summary).splitlines()
    assert lines[2:] == [
        "method           0           1           4",
        "------------  ----  ----------  ----------",
        "zero-shot     50.0           –           –",
        "clip-adapter     –  60.5 ± 1.5  75.0 ± 2.0",
        "linear-probe     –           –  70.0 ± 1.0",
    ]


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
