"""Suites: rows complete, sums right, the same again for the same seeds."""

import json

import numpy as np
import pytest

from cafe.compare import compare
from cafe.errors import InputError
from cafe.features import Features, Split
from cafe.fitting import fit_method
from cafe.registry import entries
from cafe.report.figure import draw
from cafe.report.tables import terminal_table

ROW = {
    *("dataset", "encoder", "method", "variant", "shots", "seed", "n_train", "n_test", "acc1", "acc5"),
    *("mean_per_class_recall", "ece", "zero_shot_acc1", "params", "selection", "fit_seconds", "kernel"),
    *("device", "dtype", "cafe_version", "cache_fingerprint"),
}


def features(text=True, val=True, n_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(n_classes, 16))

    def split(n, name):
        y = np.arange(n) % n_classes
        X = (W[y] + 1.2 * rng.normal(size=(n, 16))).astype(np.float16)
        return Split(X, y, np.array([f"{name}-{i}" for i in range(n)]))

    splits = {"train": split(48, "train"), "test": split(80, "test")}
    if val:
        splits["val"] = split(24, "val")
    provenance = {"dataset": "made", "encoder": "none", "fingerprint": "f" * 64}
    names = tuple(f"class {i}" for i in range(n_classes))
    return Features(splits, names, W[None].astype(np.float16) if text else None, ("a {}",), 20.0, 0.0, provenance)


# The smallest grids: the contract is the same, and a run takes seconds.
SMALL = {"alpha": (0.0, 0.2, 1.0), "bottleneck": (1, 4)}


def caches(suite, text=True):
    """One data set, and where a suite learns from the first and tests on others, one more of the same classes."""
    first = features(text=text)
    if suite != "shift":
        return [first]
    other = features(text=text, seed=1)
    part = other.splits["test"]
    test = Split(part.image_features, part.labels, np.char.add("other-", part.sample_ids))
    return [first, Features({"test": test}, other.class_names, None, provenance={**other.provenance, "dataset": "b"})]


@pytest.mark.parametrize("suite", list(entries("compare.suites", "SUITE")))
@pytest.mark.parametrize("text", [True, False])
def test_every_suite_gives_complete_rows(suite, text):
    result = compare(suite, caches(suite, text), shots=[1, 2], seeds=[1, 2], values=SMALL.get(suite, ()))
    assert result.title
    for row in result.rows:
        assert set(row) >= ROW
        for metric in ("acc1", "acc5", "mean_per_class_recall", "ece"):
            # A gap is never silent: the row says why, or is a mean that has no calibration.
            assert row[metric] is not None or row["note"] or row["part"] == "harmonic mean"
            assert row[metric] is None or 0 <= row[metric] <= 1
        assert (row["zero_shot_acc1"] is None) is not text
        assert row["oracle"] is False
    json.dumps(result.rows, allow_nan=False)
    json.dumps(result.summary, allow_nan=False)
    json.dumps([result.pairs, result.published, result.notes], allow_nan=False)
    assert {r["series"] for r in result.rows} == {s["series"] for s in result.summary}
    assert {grid["series"] for grid in result.seconds} <= {row["series"] for row in result.rows}
    assert all(0 < grid["fit_seconds"] < grid["seconds"] for grid in result.seconds)
    assert terminal_table(result.summary, layout=result.layout).strip()
    assert draw(result.summary, layout=result.layout, dpi=30).startswith(b"\x89PNG")


def test_the_same_numbers_again():
    a, b = (compare("baselines", [features()], shots=[2], seeds=[1, 2]) for _ in range(2))
    for row, two in zip(a.rows, b.rows, strict=True):
        assert {k: v for k, v in row.items() if k != "fit_seconds"} == {
            k: v for k, v in two.items() if k != "fit_seconds"
        }


def test_a_row_of_a_grid_is_the_row_of_a_single_fit():
    data = features()
    grid = compare("baselines", [data], shots=[1, 4], seeds=[1, 3])
    for row in grid.rows:
        if row["method"] == "zero-shot":
            continue
        params = {k: v for k, v in row["params"].items() if k in ("alpha", "beta", "C", "variant")}
        single = fit_method(data, row["method"], params, shots=row["shots"], seed=row["seed"]).row
        # Low-precision fits of a batch may differ by a rounding; 80 test rows cannot move by more than one.
        assert single["acc1"] == pytest.approx(row["acc1"], abs=1 / 80)


def test_a_row_holds_what_is_needed_to_run_it_again():
    data = features()
    for row in json.loads(json.dumps(compare("baselines", [data], shots=[4], seeds=[1, 3]).rows)):
        if row["method"] == "zero-shot":
            continue
        assert row["params"]["logit_scale"] == data.logit_scale
        again = fit_method(data, row["method"], row["params"], shots=row["shots"], seed=row["seed"]).row
        assert again["params"] == row["params"]
        assert again["acc1"] == pytest.approx(row["acc1"], abs=1 / 80)  # a fit of its own may differ by a rounding
        assert again["nll"] == pytest.approx(row["nll"], rel=0.02)


def test_summary_is_mean_and_standard_deviation():
    result = compare("baselines", [features()], shots=[2], seeds=[1, 2, 3])
    for cell in result.summary:
        values = [r["acc1"] for r in result.rows if r["series"] == cell["series"]]
        assert cell["n"] == len(values)
        assert cell["acc1_mean"] == pytest.approx(np.mean(values))
        if len(values) > 1:
            assert cell["acc1_std"] == pytest.approx(np.std(values, ddof=1))


def test_zero_shot_is_one_row_without_shots_and_class_means_are_not():
    rows = compare("baselines", [features()], shots=[1, 2], seeds=[1, 2]).rows
    zero = [r for r in rows if r["method"] == "zero-shot"]
    assert [(r["shots"], r["seed"], r["n_train"]) for r in zero] == [(0, None, 0)]
    assert zero[0]["acc1"] == zero[0]["zero_shot_acc1"]
    rows = compare("baselines", [features(text=False)], shots=[1, 2], seeds=[1, 2]).rows
    assert sum(r["method"] == "class-means" for r in rows) == 4
    assert not any(r["method"] == "zero-shot" for r in rows)


def test_without_val_the_shots_are_cross_validated_and_one_shot_says_why_not():
    rows = compare("baselines", [features(val=False)], shots=[1, 4], seeds=[1], methods=["tip-adapter"]).rows
    one_shot, four = rows
    assert (one_shot["selection"]["policy"], four["selection"]["policy"]) == ("fixed", "cross-validation")
    assert "at least two training rows" in one_shot["selection"]["note"]


def test_shared_rows_between_train_and_test_are_refused():
    data = features()
    leaky = Features({**data.splits, "test": data.splits["train"]}, data.class_names, data.text_features)
    with pytest.raises(InputError, match="train"):
        compare("baselines", [leaky], shots=[1], seeds=[1])


def test_all_training_images_without_shots():
    row = fit_method(features(), "clip-adapter", {"epochs": 2}).row
    assert (row["shots"], row["n_train"]) == (None, 48)


def test_bad_wishes():
    with pytest.raises(InputError, match="did you mean 'baselines'"):
        compare("baseline", [features()])
    with pytest.raises(InputError, match="unknown method"):
        compare("baselines", [features()], methods=["clip"])
    with pytest.raises(InputError, match="few-shot-val"):
        fit_method(features(val=False), "linear-probe", {}, shots=4, selection="few-shot-val")
    with pytest.raises(InputError, match="at least one"):
        compare("baselines", [], shots=[1])
