"""What `cafe fit` says of how good a classifier is, beside an independent computation of every figure."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, recall_score

import cafe as cafe_package


def draw(folder, name: str, number: int, seed: int) -> None:
    """Draw pictures of noise, which tell nothing of their class."""
    (folder / name).mkdir(parents=True)
    for i in range(number):
        pixels = np.random.default_rng(10_000 * seed + i).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name / f"{i}.png")


@pytest.fixture(scope="module")
def imbalanced(tmp_path_factory):
    """50, 400, 2, 1 and 3 pictures of five classes, which cannot be told apart."""
    folder = tmp_path_factory.mktemp("photos") / "defects"
    for seed, (name, number) in enumerate({"crack": 50, "fine": 400, "hole": 2, "knot": 1, "[red] <b>": 3}.items()):
        draw(folder, name, number, seed)
    return folder


def test_an_imbalanced_folder_tells_the_truth(cafe, imbalanced, tmp_path):
    run = tmp_path / "run"
    outcome = cafe("fit", imbalanced, "--no-refit", "--out", run, "--json")
    assert outcome.code == 0, outcome.err
    (row,) = outcome.json["rows"]
    features = cafe_package.load_features(outcome.json["cache"])
    names, test = list(features.class_names), features.splits["test"]
    predicted = cafe_package.Classifier.load(run).estimator.predict(test.image_features)

    matrix = confusion_matrix(test.labels, predicted, labels=range(5))
    n_test, right = matrix.sum(axis=1), matrix.diagonal()
    wilson = binomtest(int(right.sum()), len(test)).proportion_ci(0.95, method="wilson")
    assert row["acc1"] == pytest.approx(right.sum() / len(test))
    assert row["acc1_interval"] == pytest.approx([wilson.low, wilson.high])
    assert row["majority_acc1"] == pytest.approx(n_test.max() / len(test)) and row["majority_class"] == "fine"
    tested = np.unique(test.labels)
    recall = recall_score(test.labels, predicted, labels=tested, average=None)
    assert row["mean_per_class_recall"] == pytest.approx(recall.mean())
    for entry in row["weakest_classes"]:
        label = names.index(entry["class"])
        assert (entry["n_test"], entry["n_right"]) == (n_test[label], right[label])
    assert [entry["recall"] for entry in row["weakest_classes"]] == pytest.approx(sorted(recall[recall < 1])[:3])
    np.fill_diagonal(matrix, 0)
    assert [pair["count"] for pair in row["confused_pairs"]] == sorted(matrix[matrix > 0], reverse=True)[:3]
    for pair in row["confused_pairs"]:
        assert pair["count"] == matrix[names.index(pair["class"]), names.index(pair["predicted"])]
    assert row["untested_classes"] == [name for name, number in zip(names, n_test, strict=True) if not number]
    assert "knot" in row["untested_classes"]  # a single image

    shown = cafe("fit", imbalanced, "--no-refit", "--out", run).out
    interval = f"(95 % interval {100 * wilson.low:.1f} to {100 * wilson.high:.1f})"
    assert f"{100 * row['acc1']:.2f} % {interval} on {len(test)} test images" in shown
    assert f"{100 * row['majority_acc1']:.2f} % would be right with fine alone: the accuracy is not surely" in shown
    assert f"{100 * recall.mean():.2f} %, the mean of the tested classes' accuracies" in shown
    assert "without a test image: " in shown and "knot" in shown.split("without a test image: ")[1]
    assert shown.count("\n") < 24  # one screen
    assert "knot" in cafe("runs", "info").out  # it stays with the run


def test_a_cross_validation_counts_images_and_not_tests(cafe, tmp_path):
    for seed, (name, number) in enumerate({"a": 12, "b": 6, "c": 1}.items()):
        draw(tmp_path / "few", name, number, seed)
    (row,) = cafe("fit", tmp_path / "few", "--json").json["rows"]
    assert (row["tested_by"], row["n_test"], row["untested_classes"]) == ("cross-validation", 18, ["c"])
    wilson = binomtest(round(18_000 * row["acc1"]), 18_000).proportion_ci(0.95, method="wilson")
    assert row["acc1_interval"][1] - row["acc1_interval"][0] > 10 * (wilson.high - wilson.low)  # of 18, not of 54
    assert {entry["class"]: entry["n_test"] for entry in row["weakest_classes"]}.items() <= {"a": 12, "b": 6}.items()
    assert all(pair["count"] <= pair["n_test"] for pair in row["confused_pairs"])


def test_names_of_any_script_and_length_stay_in_their_line(cafe, tmp_path):
    for seed, name in enumerate(["猫" * 60, "قطة\u202eevil", "\x1b[31mred"]):
        draw(tmp_path / "few", name, 5, seed)
    shown = cafe("fit", tmp_path / "few").out
    assert "\x1b" not in shown and "\u202e" not in shown
    assert "猫" * 37 + "..." in shown and max(map(len, shown.splitlines())) < 400
