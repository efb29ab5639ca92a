"""What `cafe fit` says of how good a classifier is, beside an independent computation of every figure."""

from __future__ import annotations

import re
from html import unescape

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_score, recall_score

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
    outcome = cafe("fit", imbalanced, "--no-refit", "--compare", "--out", run, "--json")
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

    assert (row["tested_classes"], row["barely_tested_classes"]) == (
        np.sum(n_test > 0),
        np.sum((n_test > 0) & (n_test < 5)),
    )

    train = np.bincount(features.splits["train"].labels, minlength=5)
    check_page((run / "report.html").read_text(encoding="utf-8"), row, names, test, predicted, train, run)
    check_leaderboard(outcome.json["leaderboard"], row, (run / "report.html").read_text(encoding="utf-8"))

    shown = cafe("runs", "info", run).out
    interval = f"(95 % interval {100 * wilson.low:.1f} to {100 * wilson.high:.1f})"
    assert f"{100 * row['acc1']:.2f} % {interval} on {len(test)} test images" in shown
    stands = "below that" if wilson.high < row["majority_acc1"] else "not surely above that"
    assert f"{100 * row['majority_acc1']:.2f} % would be right with fine alone: the accuracy is {stands}" in shown
    few = f"the mean over the {len(tested)} tested classes, {row['barely_tested_classes']} of them with fewer than 5"
    assert f"{100 * recall.mean():.2f} %, {few} test images" in shown
    assert f"calibration error {100 * row['ece_out_of_fold']:.1f} %" in shown
    assert f"from {row['promises_fits']} further fits in" in shown
    assert "without a test image: " in shown and "knot" in shown.split("without a test image: ")[1]
    assert shown.count("\n") < 24  # one screen


def section(html: str, title: str) -> str:
    """Return what stands under a heading."""
    return html.split(f"<h2>{title}</h2>")[1].split("<h2>")[0]


def lines_of(html: str) -> list[list[str]]:
    """Return the cells of every line of every table, without a head."""
    lines = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", line) for line in re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)]
    return [[unescape(re.sub("<[^>]*>", "", cell)) for cell in line] for line in lines if line]


def check_page(html, row, names, test, predicted, train, run):
    """Compare every figure of a page with scikit-learn's, or one by hand."""
    matrix = confusion_matrix(test.labels, predicted, labels=range(5))
    n_test, right = matrix.sum(axis=1), matrix.diagonal()
    assert f'<p class="headline">{100 * right.sum() / len(test):.1f} %</p>' in html
    precision = precision_score(test.labels, predicted, labels=range(5), average=None, zero_division=np.nan)
    table = {line[0]: line[1:] for line in lines_of(section(html, "Class by class, the weakest first"))[1:]}
    for i, name in enumerate(names):
        recall = f"{100 * right[i] / n_test[i]:.1f} %" if n_test[i] else "not tested"
        expected = "" if np.isnan(precision[i]) else f"{100 * precision[i]:.1f} %"
        assert table[name] == [str(right[i]), str(n_test[i]), recall, expected, f"{train[i]:,}"]
    cells = [line[1:] for line in lines_of(section(html, "Confusion matrix"))[1:]]
    assert np.array_equal(np.array(cells, dtype=float), matrix)

    p = cafe_package.Classifier.load(run).estimator.predict_proba(test.image_features).astype(float)
    confidence, correct = p.max(axis=1), predicted == test.labels
    place = np.ceil(confidence * 15).astype(int)
    own, promised = section(html, "Do probabilities mean what they say?").split("Images out of fold.</strong>")
    expected = []
    for b in np.unique(place):
        inside = place == b
        shares = [(b - 1) / 15, b / 15, confidence[inside].mean(), correct[inside].mean()]
        low, high, mean, accuracy = (f"{100 * share:.1f} %" for share in shares)
        expected.append([f"{low} to {high}", f"{inside.sum():,}", mean, accuracy])
    assert lines_of(own)[1:] == expected
    gaps = [
        abs(correct[place == b].mean() - confidence[place == b].mean()) * np.mean(place == b) for b in np.unique(place)
    ]
    assert row["ece"] == pytest.approx(sum(gaps))
    assert f"Expected calibration error {100 * sum(gaps):.1f} %" in own
    bins = [[float(cell.rstrip(" %").replace(",", "")) for cell in line[1:]] for line in lines_of(promised)[1:]]
    given = row["ece_out_of_fold"] if row["temperature"] == 1.0 else row["ece_tempered"]
    by_hand = sum(n * abs(c - a) for n, c, a in bins) / sum(n for n, _, _ in bins)
    assert 100 * given == pytest.approx(by_hand, abs=0.11)  # cells are rounded to 0.1
    assert f"Expected calibration error {100 * given:.1f} %" in promised

    cards = re.findall(r"<li>(.*?)</li>", section(html, "Most confident mistakes"), re.DOTALL)
    wrong = sorted(np.flatnonzero(~correct), key=lambda i: -confidence[i])[:24]
    for card, i in zip(cards, wrong, strict=True):
        said = f"{names[test.labels[i]]}, taken for {names[predicted[i]]} with {100 * confidence[i]:.1f} %"
        assert said in unescape(card) and str(test.sample_ids[i]) in unescape(card)
    assert "0 pairs of equal ones among all 456 images" in section(html, "Duplicates")


def check_leaderboard(board, row, html):
    """The fit stands in its table as in its row, and page and JSON say the same."""
    (kept,) = [entry for entry in board["rows"] if entry["kept"]]
    for key in ("acc1", "acc1_interval", "mean_per_class_recall", "ece"):
        assert kept[key] == pytest.approx(row[key])
    assert len(board["rows"]) > 12 and board["majority_acc1"] == row["majority_acc1"]
    n = len(board["rows"])
    assert len(board["pairs"]) == n * (n - 1) // 2
    shown = section(html, f"{n} methods on the same test images")
    assert board["verdict"] in unescape(shown) and board["caution"] in unescape(shown)
    for entry, line in zip(board["rows"], lines_of(shown)[1:], strict=False):
        name = f"{entry['label']} (kept)" if entry["kept"] else entry["label"]
        low, high = entry["acc1_interval"]
        assert line[:5] == [
            name, f"{100 * entry['acc1']:.2f}", f"{100 * low:.1f} to {100 * high:.1f}",
            f"{100 * entry['mean_per_class_recall']:.2f}", f"{100 * entry['ece']:.1f}",
        ]  # fmt: skip
        assert line[6] == entry["standing"]


def test_a_cross_validation_counts_images_and_not_tests(cafe, tmp_path):
    for seed, (name, number) in enumerate({"a": 12, "b": 6, "c": 1}.items()):
        draw(tmp_path / "few", name, number, seed)
    (row,) = cafe("fit", tmp_path / "few", "--no-promises", "--json").json["rows"]
    assert (row["tested_by"], row["n_test"], row["untested_classes"]) == ("cross-validation", 18, ["c"])
    wilson = binomtest(round(18_000 * row["acc1"]), 18_000).proportion_ci(0.95, method="wilson")
    assert row["acc1_interval"][1] - row["acc1_interval"][0] > 10 * (wilson.high - wilson.low)  # of 18, not of 54
    assert {entry["class"]: entry["n_test"] for entry in row["weakest_classes"]}.items() <= {"a": 12, "b": 6}.items()
    assert all(pair["count"] <= pair["n_test"] for pair in row["confused_pairs"])


def test_names_of_any_script_and_length_stay_in_their_line(cafe, tmp_path):
    for seed, name in enumerate(["猫" * 60, "قطة\u202eevil", "\x1b[31mred"]):
        draw(tmp_path / "few", name, 5, seed)
    shown = cafe("fit", tmp_path / "few", "--no-promises").out
    assert "\x1b" not in shown and "\u202e" not in shown
    assert "猫" * 37 + "..." in shown and max(map(len, shown.splitlines())) < 400
