"""``cafe compare`` with suites that vary a parameter, and its answer's paired tests."""

from __future__ import annotations


def test_values_set_the_grid_and_pairs_stand_in_the_answer(cafe, blobs):
    outcome = cafe("compare", "alpha", "--values", "0,0.5", "--shots", "2", "--seeds", "1,2", "--json")
    assert outcome.code == 0, outcome.err
    assert {row["x"] for row in outcome.json["rows"]} == {0.0, 0.5}
    (pair,) = outcome.json["pairs"]
    assert (pair["a_x"], pair["b_x"], pair["n_seeds"], len(pair["mcnemar"])) == (0.0, 0.5, 2, 2)
    assert 0 <= pair["p_value"] <= pair["p_holm"] <= 1
    assert outcome.json["published"] == [] and outcome.json["notes"] == []
    assert {grid["series"] for grid in outcome.json["seconds"]} == {row["series"] for row in outcome.json["rows"]}
    assert "time: " in outcome.err
    for entry in outcome.json["summary"]:
        low, high = entry["acc1_ci95"]
        assert low <= entry["acc1_mean"] <= high


def test_table_has_the_suites_own_columns_and_notes_are_said(cafe, blobs):
    outcome = cafe("compare", "base-to-new", "--shots", "2", "--seeds", "1")
    assert outcome.code == 0, outcome.err
    assert "base" in outcome.out and "harmonic mean" in outcome.out
    assert "cannot score classes that it has no image of" in outcome.err


def test_what_cannot_be_is_said(cafe, blobs):
    for words, said in (
        (("alpha", "--values", "0.2,x"), "--values takes numbers"),
        (("alpha", "--values", "2"), "from 0 to 1"),
        (("paper", "--include", "coup"), "did you mean 'coop'"),
        (("shift",), "at least two caches"),
    ):
        outcome = cafe("compare", *words, "--shots", "1", "--seeds", "1")
        assert outcome.code == 2
        assert said in outcome.err
        assert "Traceback" not in outcome.err
