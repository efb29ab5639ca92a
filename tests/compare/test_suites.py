"""What each suite promises beyond complete rows."""

import numpy as np
import pytest

from cafe.compare import compare
from cafe.errors import InputError
from cafe.features import Features, Split
from cafe.fitting import fit_method
from cafe.protocol.base_to_new import split_classes


def split(X, y, name):
    return Split(X.astype(np.float32), y, np.array([f"{name}/{i}" for i in range(len(y))]))


def features(n_classes=6, dataset="made", seed=0, noise=1.0, classes=None, only_test=False):
    """Images around fixed directions, one for each class; ``classes`` picks some of them, in that order."""
    directions = np.random.default_rng(99).normal(size=(n_classes, 16))
    own = list(range(n_classes)) if classes is None else classes
    rng = np.random.default_rng(seed)

    def part(n, name):
        y = np.arange(n) % len(own)
        return split(directions[own][y] + noise * rng.normal(size=(n, 16)), y, f"{dataset}-{name}")

    splits = {"test": part(90, "test")}
    if not only_test:
        splits = {"train": part(60, "train"), "val": part(36, "val"), **splits}
    text = directions[own][None].astype(np.float32)
    provenance = {"dataset": dataset, "encoder": "none", "fingerprint": "f" * 64}
    return Features(splits, tuple(f"class {i}" for i in own), text, ("a {}",), 20.0, 0.0, provenance)


def by(result, **where):
    return [row for row in result.rows if all(row[k] == v for k, v in where.items())]


def test_alpha_zero_is_zero_shot_and_every_value_is_its_single_fit():
    data = features()
    result = compare("alpha", [data], shots=[2], seeds=[1, 2], values=[0, 0.4])
    assert [row["acc1"] for row in by(result, x=0.0)] == [row["zero_shot_acc1"] for row in by(result, x=0.0)]
    (row,) = by(result, x=0.4, seed=2)
    single = fit_method(data, "clip-adapter", {"variant": "image", "alpha": 0.4}, shots=2, seed=2).row
    assert row["acc1"] == pytest.approx(single["acc1"], abs=1 / 90)
    assert row["params"]["alpha"] == 0.4


def test_values_out_of_reach():
    with pytest.raises(InputError, match="from 0 to 1"):
        compare("alpha", [features()], shots=[1], seeds=[1], values=[1.5])
    with pytest.raises(InputError, match="whole numbers"):
        compare("bottleneck", [features()], shots=[1], seeds=[1], values=[1.5])


def test_bottleneck_sets_the_reduction():
    rows = compare("bottleneck", [features()], shots=[1], seeds=[1], values=[2, 8]).rows
    assert [(r["x"], r["params"].get("reduction")) for r in rows] == [(None, None), (2.0, 2), (8.0, 8)]


def test_variants_are_three_sides_by_four_ratios():
    result = compare("variants", [features(4)], shots=[1], seeds=[1])
    assert len(result.summary) == 13
    (row,) = by(result, series="both, learned")
    assert (row["params"]["variant"], row["params"]["alpha"], row["params"]["beta"]) == ("both", "learned", "learned")
    assert {r["selection"]["policy"] for r in result.rows if r["series"].endswith("auto")} == {"few-shot-val"}


def test_shift_tests_on_all_and_restricts_to_the_classes_there():
    source, target = features(), features(dataset="half", seed=5, classes=[4, 1, 2], only_test=True)
    result = compare("shift", [source, target], shots=[4], seeds=[1, 2])
    assert {row["part"] for row in result.rows} == {"made", "half"}
    (row,) = by(result, series="zero-shot", part="half")
    # Zero-shot among three classes, by hand: nearest of their directions.
    W = source.text_features[0][[4, 1, 2]]
    X = target.splits["test"].image_features
    cosines = (X / np.linalg.norm(X, axis=1, keepdims=True)) @ (W / np.linalg.norm(W, axis=1, keepdims=True)).T
    assert row["acc1"] == pytest.approx(np.mean(cosines.argmax(axis=1) == target.splits["test"].labels))
    assert row["zero_shot_acc1"] == row["acc1"]
    assert "its 3 classes" in row["note"]
    assert len(by(result, series="linear-probe", part="half")) == 2


def test_shift_refuses_what_cannot_be_compared():
    source = features()
    with pytest.raises(InputError, match="at least two caches"):
        compare("shift", [source], shots=[1], seeds=[1])
    stranger = Features({"test": source.splits["test"]}, tuple("uvwxyz"), None, provenance=source.provenance)
    with pytest.raises(InputError, match="cannot be told among"):
        compare("shift", [source, stranger], shots=[1], seeds=[1])
    other = Features({"test": source.splits["test"]}, source.class_names, provenance={"encoder": "another"})
    with pytest.raises(InputError, match="one encoder"):
        compare("shift", [source, other], shots=[1], seeds=[1])
    leak = Features({"test": source.splits["train"]}, source.class_names, provenance=source.provenance)
    with pytest.raises(InputError, match="the train split also holds"):
        compare("shift", [source, leak], shots=[1], seeds=[1])


def test_base_to_new_learns_on_the_first_half_only():
    data = features(5)
    result = compare("base-to-new", [data], shots=[2], seeds=[1, 2])
    base, new = split_classes(data)
    assert (len(base.class_names), len(new.class_names)) == (3, 2)
    assert {row["n_train"] for row in by(result, series="clip-adapter")} == {6}
    (row,) = by(result, series="zero-shot", part="new")
    assert row["zero_shot_acc1"] == row["acc1"]
    assert row["n_test"] == int((data.splits["test"].labels >= 3).sum())


def test_base_to_new_means_are_harmonic_and_inability_is_said():
    result = compare("base-to-new", [features(6)], shots=[2], seeds=[1, 2])
    for series in ("zero-shot", "clip-adapter", "clip-adapter, text"):
        rows = [by(result, series=series, part=part) for part in ("base", "new", "harmonic mean")]
        for base, new, mean in zip(*rows, strict=True):
            assert 1 / mean["acc1"] == pytest.approx((1 / base["acc1"] + 1 / new["acc1"]) / 2)
    for series in ("linear-probe", "tip-adapter"):
        for part in ("new", "harmonic mean"):
            for row in by(result, series=series, part=part):
                assert row["acc1"] is None
                assert "cannot score" in row["note"]
    assert any("cannot score" in note for note in result.notes)
    with pytest.raises(InputError, match="at least four classes"):
        compare("base-to-new", [features(3)], shots=[1], seeds=[1])


def test_zero_shot_is_ranked_where_it_stands_in_the_same_column():
    def standings(shots):
        summary = compare("base-to-new", [features(6, noise=2.0)], shots=shots, seeds=[1, 2]).summary
        return {entry["standing"] for entry in summary if entry["series"] == "zero-shot" and entry["part"] == "new"}

    assert standings([1]) <= {"best", "level", "below"}
    assert standings([1, 2]) == {None}


def test_manifold_measures_the_adapted_test_features():
    from sklearn.metrics import silhouette_score

    data = features(4, noise=1.5)
    result = compare("manifold", [data], shots=[4], seeds=[1])
    X, y = data.splits["test"].image_features, data.splits["test"].labels
    (frozen,) = by(result, series="zero-shot")
    assert frozen["silhouette"] == pytest.approx(silhouette_score(X, y, metric="cosine"), abs=1e-5)
    fit = fit_method(data, "clip-adapter", {"variant": "image", "alpha": 0.6}, shots=4, seed=1).estimator
    adapted = fit.adapt(X / np.linalg.norm(X, axis=1, keepdims=True))
    (row,) = by(result, series="image, 0.6")
    assert row["silhouette"] == pytest.approx(silhouette_score(adapted, y, metric="cosine"), abs=1e-4)
    (text,) = by(result, series="text, 0.2")
    assert all(text[m] == frozen[m] for m in ("silhouette", "scatter_ratio", "knn_acc1"))
    assert "leaves image features where they are" in text["note"]


def test_paper_shows_gaps_as_gaps_and_averages_nothing_incomplete():
    from cafe.report.tables import markdown_table

    result = compare("paper", [features(dataset="dtd")], shots=[1], seeds=[1])
    assert any(note.startswith("10 of the paper's 11 data sets have no cache") for note in result.notes)
    table = markdown_table(result.summary, layout=result.layout)
    head, _, first = [line for line in table.splitlines() if line.startswith("|")][:3]
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    assert "average" in head and len(cells) == 14
    assert cells.count("–") == 11  # ten data sets and the average


def test_paper_runs_coop_only_where_asked():
    assert not by(compare("paper", [features(dataset="dtd")], shots=[1], seeds=[1]), method="coop")


def test_pairs_stand_in_the_answer_and_mark_the_summary():
    result = compare("baselines", [features(noise=2.0)], shots=[1, 4], seeds=[1, 2, 3])
    assert len(result.pairs) == 2 * 6
    pair = next(p for p in result.pairs if {p["a"], p["b"]} == {"zero-shot", "clip-adapter"} and p["shots"] == 4)
    rows = {
        s: [r["acc1"] for r in result.rows if r["series"] == s and r["shots"] in (0, 4)] for s in (pair["a"], pair["b"])
    }
    assert pair["difference"] == pytest.approx(np.mean(rows[pair["a"]]) - np.mean(rows[pair["b"]]))
    assert pair["p_holm"] >= pair["p_value"]
    assert [m["seed"] for m in pair["mcnemar"]] == [1, 2, 3]
    standings = {entry["standing"] for entry in result.summary if entry["shots"] == 4}
    assert standings <= {"best", "level", "below"}
    for entry in result.summary:
        low, high = entry["acc1_ci95"] or (entry["acc1_mean"], entry["acc1_mean"])
        assert low <= entry["acc1_mean"] <= high
