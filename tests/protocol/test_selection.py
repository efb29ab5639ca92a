"""Selection: sees training and validation rows only, ties fall to the milder setting, falls back aloud."""

import inspect

import numpy as np
import pytest

from cafe import CLIPAdapter, LinearProbe, TipAdapter, ZeroShot
from cafe.errors import InputError
from cafe.methods import fit_many, make_method, method_names
from cafe.protocol import selection
from cafe.protocol.selection import (
    ERRORS,
    NO_EVIDENCE,
    PUBLISHED_START,
    NothingToChooseByError,
    RowsScore,
    Scoring,
    choose,
    cross_validation,
    fall_back,
    few_shot_val,
    mildest,
    published_start,
    resolve_policy,
)


def problem(per_class=6, seed=0):
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(3, 8))
    y = np.arange(3 * per_class) % 3
    return text[y] + rng.normal(size=(len(y), 8)), y, text


def test_no_function_here_takes_a_test_array():
    for name, function in inspect.getmembers(selection, inspect.isfunction):
        if function.__module__ == selection.__name__:
            assert not [
                p for p in inspect.signature(function).parameters if "test" in p or p in ("task", "features")
            ], name


def test_test_rows_cannot_change_what_is_chosen(monkeypatch):
    """Poison the test split: honest policies choose the same, and the oracle does not."""
    from cafe.features import Features, Split
    from cafe.fitting import fit_method

    rng = np.random.default_rng(1)
    text = rng.normal(size=(1, 3, 8)).astype(np.float32)

    def split(n, name, shift):
        y = np.arange(n) % 3
        X = (text[0][(y + shift) % 3] + 0.8 * rng.normal(size=(n, 8))).astype(np.float32)
        return Split(X, y, np.array([f"{name}{i}" for i in range(n)]))

    train, val = split(60, "train", 1), split(30, "val", 1)
    tests = [split(60, "test", 0), split(60, "test", 1)]

    def chosen(test, policy):
        features = Features({"train": train, "val": val, "test": test}, ("a", "b", "c"), text)
        row = fit_method(features, "tip-adapter", {"alpha": "auto", "beta": "auto"}, shots=8, selection=policy).row
        return row["selection"]["chosen"], row["oracle"]

    for policy in ("few-shot-val", "cross-validation"):
        assert chosen(tests[0], policy) == chosen(tests[1], policy)
        assert chosen(tests[0], policy)[1] is False
    assert chosen(tests[0], "oracle-test")[0] != chosen(tests[1], "oracle-test")[0]
    assert chosen(tests[0], "oracle-test")[1] is True


def test_nothing_automatic_is_fixed():
    estimator, chosen = choose(CLIPAdapter(alpha=0.3), "cross-validation", None)
    assert (estimator.alpha, chosen.policy, chosen.candidates) == (0.3, "fixed", 0)


def test_fixed_refuses_automatic_parameters():
    with pytest.raises(InputError, match="alpha of CLIPAdapter is 'auto'"):
        choose(CLIPAdapter(alpha="auto"), "fixed", None)


def test_a_ratio_that_the_variant_has_not_is_not_chosen():
    assert CLIPAdapter(variant="image", alpha="auto", beta="auto").automatic() == ["alpha"]
    assert CLIPAdapter(variant="both", alpha="auto", beta="auto").automatic() == ["alpha", "beta"]


def test_the_best_wins_and_ties_fall_to_the_milder():
    tip = TipAdapter(alpha="auto", beta=1.0)
    assert choose(tip, "few-shot-val", lambda cs: [0.5 for _ in cs])[0].alpha == 1.17
    assert choose(tip, "few-shot-val", lambda cs: [float(c.alpha >= 3.0) for c in cs])[0].alpha == 3.0
    assert choose(tip, "few-shot-val", lambda cs: [float(c.alpha == 50.0) for c in cs])[0].alpha == 50.0


@pytest.mark.parametrize("name", [n for n in method_names() if make_method(n).grid])
def test_every_search_that_learns_nothing_ends_at_the_published_start(name):
    plain = make_method(name)
    automatic = plain.set_params(**dict.fromkeys(plain.grid, "auto"))
    start = published_start(automatic)
    chosen, _ = choose(automatic, "few-shot-val", lambda candidates: [0.7] * len(candidates))
    assert {key: getattr(chosen, key) for key in start} == pytest.approx(start)


def test_with_fewer_than_four_rows_a_class_the_published_start_stays_and_the_row_says_so():
    tip = TipAdapter(alpha="auto", beta=1.0)
    for rows_a_class, alpha, on in ((3, 1.17, "nothing"), (4, 20.0, "validation")):
        scoring = Scoring(lambda cs: [0.5 + 0.4 * (c.alpha == 20.0) for c in cs], 30, rows_a_class)
        chosen, selection = choose(tip, "few-shot-val", scoring)
        assert (chosen.alpha, selection.chosen_on, selection.rows_a_class) == (alpha, on, rows_a_class)
        assert selection.rule == ("most accurate" if rows_a_class == 4 else PUBLISHED_START)


def test_one_class_that_lacks_a_validation_row_does_not_switch_the_search_off():
    """Flowers at 16 shots has 407 validation rows for 102 classes: one stands in the test split too."""
    labels = np.repeat(np.arange(5), 4)
    X = np.eye(5)[labels]
    # All candidates are right everywhere, so that none has evidence, where rows are enough to ask for it.
    for held, rule in ((labels[1:], NO_EVIDENCE), (labels[labels < 3][::2], PUBLISHED_START)):
        scoring = few_shot_val(fit_many, X, labels, np.arange(len(labels)), (np.eye(5)[held], held))
        _, selection = choose(TipAdapter(alpha="auto"), "few-shot-val", scoring)
        assert selection.rule == rule


@pytest.mark.parametrize(
    ("gained", "lost", "errors", "takes"),
    [
        (1, 0, 0, True),
        (1, 1, 0, False),
        (2, 0, 1, False),
        (3, 0, 1, True),
        (5, 2, 1, False),
        (6, 0, 2, True),
        (5, 0, 2, False),
        (1, 0, ERRORS, False),
        (2, 0, ERRORS, True),
        (4, 2, ERRORS, False),
    ],
)
def test_a_candidate_leaves_the_published_start_only_with_evidence(gained, lost, errors, takes):
    """Of 40 rows the start has 30 right; 2 rows more, none lost, are sqrt(2 - 4 / 40) = 1.38 errors of one row each."""
    start, other = np.arange(40) < 30, np.arange(40) < 30 + gained
    other[:lost] = False
    tip = TipAdapter(alpha="auto")
    tried = [tip.varied(alpha=alpha) for alpha in (1.17, 20.0)]
    scores = [RowsScore(correct.mean(), correct) for correct in (start, other)]
    scoring = Scoring(lambda candidates: scores, 40, 4)
    assert mildest(tip, tried, scores, scoring, errors).alpha == (20.0 if takes else 1.17)


@pytest.mark.parametrize("name", ["tip-adapter", "ape", "gda", "lp++", "linear-probe"])
def test_scores_say_which_rows_are_right(name):
    X, y, text = problem(per_class=20)
    plain = make_method(name, class_embeddings=text)
    parameter, values = next(iter(plain.grid.items()))
    tried = [plain.varied(**{parameter: value}) for value in values]
    scoring = few_shot_val(fit_many, X, y, np.arange(12), (X[12:], y[12:]))
    fitted = fit_many(X, y, tried, [np.arange(12)] * len(tried))
    for score, fit in zip(scoring(tried), fitted, strict=True):
        assert score == pytest.approx(score.correct.mean())
        assert np.array_equal(score.correct, fit.predict(X[12:]) == y[12:])
    folded = cross_validation(fit_many, X, y, np.arange(60), 0)(tried)
    assert all(score.correct.shape == (60,) and score == pytest.approx(score.correct.mean()) for score in folded)


def test_search_of_c_bisects_around_the_best():
    tried = []

    def score(candidates):
        tried.extend(c.C for c in candidates)
        return [-abs(np.log10(c.C) - 2.7) for c in candidates]

    chosen, report = choose(LinearProbe(C="auto"), "few-shot-val", score)
    assert np.log10(chosen.C) == pytest.approx(2.7, abs=2**-7)
    assert tried[:7] == [1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6]
    assert len(tried) == report.candidates == 7 + 16


def test_folds_hold_rows_out():
    X, y, text = problem()
    seen = []

    def spying(X, y, candidates, rows):
        seen.extend(rows)
        return fit_many(X, y, candidates, rows)

    scorer = cross_validation(spying, X, y, np.arange(len(y)), 0)
    scorer([ZeroShot(text)])
    held = [np.setdiff1d(np.arange(len(y)), rows) for rows in seen]
    assert sorted(np.concatenate(held).tolist()) == list(range(len(y)))
    assert all(set(y[rows]) == {0, 1, 2} for rows in seen)


def test_one_row_per_class_cannot_be_split():
    X, y, _ = problem(per_class=1)
    with pytest.raises(NothingToChooseByError, match="at least two training rows"):
        cross_validation(fit_many, X, y, np.arange(3), 0)
    estimator, chosen = fall_back(LinearProbe(C="auto"), "one row")
    assert (estimator.C, chosen.note) == (LinearProbe.default_C, "one row")
    assert fall_back(CLIPAdapter(alpha="auto"), "")[0].alpha == 0.2


def test_few_shot_val_scores_validation_rows():
    X, y, text = problem()
    scorer = few_shot_val(fit_many, X, y, np.arange(6), (X[6:], y[6:]))
    (accuracy,) = scorer([ZeroShot(text)])
    model = ZeroShot(text).fit(X, y)
    assert accuracy == model.score(X[6:], y[6:])
    np.testing.assert_array_equal(accuracy.correct, model.predict(X[6:]) == y[6:])


def test_class_means_are_taken_from_each_folds_own_rows():
    """With one outlier per class, means that had seen the held-out row would classify it."""
    X, y, _ = problem(per_class=4)
    model = CLIPAdapter(alpha="auto", epochs=2, random_state=0).fit(X, y)
    scorer = cross_validation(fit_many, X, y, np.arange(len(y)), 0)
    grid = [CLIPAdapter(alpha=a, epochs=2, random_state=0) for a in CLIPAdapter.grid["alpha"]]
    scores = scorer(grid)
    assert model.selection_["accuracy"] == max(scores)


def test_policies_by_name():
    assert resolve_policy("auto", True) == "few-shot-val"
    assert resolve_policy("auto", False) == "cross-validation"
    with pytest.raises(InputError, match="needs a val split.*cross-validation"):
        resolve_policy("few-shot-val", False)
    with pytest.raises(InputError, match="did you mean 'oracle-test'"):
        resolve_policy("oracle", True)
