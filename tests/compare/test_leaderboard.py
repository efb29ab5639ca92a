"""The leaderboard of a fit: figures and tests beside scipy's and scikit-learn's, its sentence, and its honesty."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score

from cafe.classifier.final_fit import fit_for_use
from cafe.compare import leaderboard
from cafe.compare.leaderboard import MCNEMAR, OVER_DEALS, Contender, compare_methods
from cafe.errors import InputError
from cafe.features import Features, Split
from cafe.fitting import FitRequest, fit_all, fit_method, full_probabilities
from cafe.protocol.paired import paired_test
from cafe.protocol.tasks import make_task
from cafe.report.leaderboard import BELOW, BEST, LEVEL

CHOSEN = {"gda": {"alpha": "auto"}, "tip-adapter": {"alpha": "auto", "beta": "auto"}}  # as the suite `methods` has it
SOME = ["gda", "tip-adapter", "proker", "zero-shot"]


def rows(n_each: int, noise: float = 1.1, seed: int = 0) -> Features:
    """Make classes that overlap, with text that half knows them, in train and test."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(5).standard_normal((4, 16))
    splits = {}
    for part, number in (("train", n_each), ("test", 4 * n_each)):
        labels = np.repeat(np.arange(4), number)
        X = (centres[labels] + noise * rng.standard_normal((len(labels), 16))).astype(np.float32)
        splits[part] = Split(X, labels, np.array([f"{part}/{i}" for i in range(len(labels))]))
    text = (centres + 1.5 * rng.standard_normal((1, 4, 16))).astype(np.float32)
    return Features(splits, tuple("abcd"), text, logit_scale=20.0)


def test_every_figure_is_that_of_an_independent_computation():
    features = rows(20)
    final = fit_for_use(features, compare=SOME, promises=False)
    board, labels = final.leaderboard, features.splits["test"].labels
    assert {entry.row["method"] for entry in board.entries} == {"auto", *SOME} and board.test == MCNEMAR
    right = {}
    for entry in board.entries:
        fit = fit_method(features, entry.row["method"], {**CHOSEN.get(entry.row["method"], {})})
        right[entry.label] = fit.predicted == labels
        wilson = binomtest(int(right[entry.label].sum()), len(labels)).proportion_ci(0.95, "wilson")
        assert entry.row["acc1"] == pytest.approx(np.mean(fit.predicted == labels))
        assert entry.row["acc1_interval"] == pytest.approx([wilson.low, wilson.high])
        assert entry.row["mean_per_class_recall"] == pytest.approx(balanced_accuracy_score(labels, fit.predicted))
        assert entry.row["ece"] == pytest.approx(fit.row["ece"])
    assert [e.row["acc1"] for e in board.entries] == sorted((e.row["acc1"] for e in board.entries), reverse=True)
    p = {}
    for a, b in combinations(right, 2):
        alone = int((right[a] & ~right[b]).sum()), int((right[b] & ~right[a]).sum())
        p[frozenset({a, b})] = binomtest(alone[0], sum(alone)).pvalue if sum(alone) else 1.0
    ranked, largest, holm = sorted(p, key=lambda pair: p[pair]), 0.0, {}
    for rank, pair in enumerate(ranked):
        largest = max(largest, min(1.0, (len(p) - rank) * p[pair]))
        holm[pair] = largest
    for pair in board.pairs:
        key = frozenset({pair["a"], pair["b"]})
        assert pair["p_value"] == pytest.approx(p[key]) and pair["p_holm"] == pytest.approx(holm[key])
        assert pair["difference"] == pytest.approx(right[pair["a"]].mean() - right[pair["b"]].mean())
    best, *others = board.entries
    assert best.standing == BEST
    for entry in others:
        expected = BELOW if holm[frozenset({best.label, entry.label})] < 0.05 else LEVEL
        assert entry.standing == expected, entry.label
    assert f"{best.label} has the highest accuracy" in board.verdict
    assert ("cannot be told apart" in board.verdict) == any(e.standing == LEVEL for e in others)
    assert ("below" in board.verdict) == any(e.standing == BELOW for e in others)


def test_few_images_are_compared_by_the_same_cross_validation():
    final = few(compare=["gda", "proker"])
    board = final.leaderboard
    assert board.tested_by == "cross-validation" and board.test == OVER_DEALS
    n = final.row["n_test"]
    by_image = {}
    for name, parameters in (("auto", {}), ("gda", CHOSEN["gda"]), ("proker", {})):
        fits = fit_all(final.tasks, [FitRequest(name, parameters, i) for i in range(len(final.tasks))])
        ids, right = [], []
        for fit in fits:
            predicted = full_probabilities(fit.estimator, fit.task.test.image_features, 3).argmax(axis=1)
            ids += fit.task.test.sample_ids.tolist()
            right += (predicted == fit.task.test.labels).tolist()
        repeats = [dict(zip(ids[k * n : (k + 1) * n], right[k * n : (k + 1) * n], strict=True)) for k in range(3)]
        by_image[name] = np.array([[deal[image] for image in sorted(repeats[0])] for deal in repeats])
    for pair in board.pairs:
        test = paired_test(by_image[pair["a"]], by_image[pair["b"]])
        assert pair["difference"] == pytest.approx(test.difference)
        assert pair["p_value"] == pytest.approx(test.p_value)
    assert board.entries[0].row["n_test"] == n


def test_a_folder_without_a_test_split_is_tested_by_cross_validation():
    final = few(names=("train", "val", "val"), origin="folders", compare=["proker"], promises=False)
    assert (final.row["tested_by"], final.row["n_test"], len(final.seen)) == ("cross-validation", 14, 8)
    assert "there is no test split" in final.notes[0] and final.leaderboard.tested_by == "cross-validation"


def few(names=("train", "val", "test"), origin="hash, stratified, 50/20/30", **more):
    """Fit on a folder's features: 14 images of three classes."""
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(3), [6, 5, 3])
    X = (2.0 * np.eye(3, 8)[labels] + rng.standard_normal((14, 8))).astype(np.float32)
    ids = np.array([f"{i:02}.png" for i in range(14)])
    where = np.arange(14) % 7
    splits = {}
    for name, own in zip(names, (where < 4, where == 4, where > 4), strict=True):
        splits[name] = splits.get(name, False) | own
    identity = {"name": "mine", "split_origin": origin, "splits": dict.fromkeys(splits)}
    provenance = {"image": {"dataset": identity}}
    features = Features(
        {name: Split(X[own], labels[own], ids[own]) for name, own in splits.items()},
        tuple("abc"),
        provenance=provenance,
    )
    return fit_for_use(features, **more)


def test_nothing_of_the_fit_depends_on_the_comparison():
    features = rows(12)
    alone, beside = fit_for_use(features, promises=False), fit_for_use(features, promises=False, compare=SOME)
    X = features.splits["test"].image_features
    np.testing.assert_array_equal(alone.estimator.predict_proba(X), beside.estimator.predict_proba(X))
    assert alone.row["acc1"] == beside.row["acc1"] and beside.row["method"] == "auto"
    (kept,) = [entry for entry in beside.leaderboard.entries if entry.kept]
    assert kept.row["acc1"] == beside.row["acc1"] and "chosen on the test images" in beside.leaderboard.caution


def test_the_same_method_with_other_parameters_has_its_own_line_and_a_failing_one_a_note(monkeypatch):
    features = rows(12)
    final = fit_for_use(features, "gda", {"alpha": 0.5}, promises=False, compare=["gda", "proker"])
    assert {e.label for e in final.leaderboard.entries} == {"gda (alpha 0.5)", "gda (alpha auto)", "proker"}

    def fails(tasks, requests, *rest):
        raise InputError("not here")

    monkeypatch.setattr(leaderboard, "fit_all", fails)
    task = make_task(features, None, 1)
    fit = fit_method(features, "proker")
    board = compare_methods([task], Contender("proker", {}, fit.row, fit.predicted, fit.confidence), methods=["gda"])
    assert board.notes == ["gda was left out: not here"] and "nothing else could be tested" in board.verdict


def test_where_nothing_beats_the_majority_it_is_said():
    """55 of 60 test images are of one class, and features are noise: the most accurate names that class."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), [55, 3, 2])
    splits = {
        part: Split(
            rng.standard_normal((60, 8)).astype(np.float32), labels, np.array([f"{part}{i}" for i in range(60)])
        )
        for part in ("train", "test")
    }
    board = fit_for_use(Features(splits, ("a", "b", "c")), promises=False, compare=["gda", "linear-probe"]).leaderboard
    assert board.majority_acc1 == pytest.approx(55 / 60) and board.majority_class == "a"
    assert "None of them is surely better than naming every image a" in board.verdict
    first = max(board.entries, key=lambda entry: entry.row["mean_per_class_recall"])
    if first is not board.entries[0]:
        assert f"By balanced accuracy {first.label} is the first" in board.verdict


def test_an_unknown_method_is_refused_before_anything_is_fitted(monkeypatch):
    monkeypatch.setattr("cafe.classifier.final_fit.fit_method", lambda *a, **k: pytest.fail("it was fitted"))
    with pytest.raises(InputError, match="tip-adapterr"):
        fit_for_use(rows(3), compare=["tip-adapterr"])
