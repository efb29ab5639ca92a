"""The page of one fit: every number on it, nothing unescaped, nothing from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
from sklearn.metrics import confusion_matrix, recall_score

from cafe.evaluation.by_class import class_results, confused_pairs, untested_classes, weakest_classes
from cafe.evaluation.calibration import reliability_bins
from cafe.evaluation.metrics import all_metrics
from cafe.report.fit_page import FitReport, ShownImage, fit_page

HOSTILE = [
    "<script>document.title='owned'</script>", "\"><img src=x onerror=\"document.title='owned'\">", "猫" * 80,
    "قطة \u202ereversed", "a" * 300, "\x1b[31mred", "&amp; 'quoted' </style></table></html>", "", "-->",
]  # fmt: skip
PIXEL = b"\xff\xd8\xff\xd9"


class Page(HTMLParser):
    """Tags, texts and attributes of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def made(names: list[str], n: int = 300, seed: int = 0, **more: object) -> tuple[FitReport, np.ndarray, np.ndarray]:
    """Make the report of random predictions, half of them right; the last class has no test image."""
    rng = np.random.default_rng(seed)
    c = len(names)
    labels = rng.integers(0, c - 1, n)
    p = rng.dirichlet(np.full(c, 0.5), n)
    right = rng.random(n) < 0.5
    top = p.max(axis=1)
    p[right, p[right].argmax(axis=1)] = p[right, labels[right]]
    p[right, labels[right]] = top[right]
    predicted = p.argmax(axis=1)
    results = class_results(predicted, labels, c)
    row = {
        "dataset": names[0], "encoder": "cafe:mini", "method": "auto", "n_test": n, "tested_by": "test split",
        **all_metrics(p, labels), "zero_shot_acc1": 0.25, "majority_class": names[int(np.bincount(labels).argmax())],
        "weakest_classes": [
            {"class": names[r.label], "recall": r.recall, "n_test": r.n_test, "n_right": r.n_right}
            for r in weakest_classes(results)
        ],
        "confused_pairs": [
            {"class": names[q.label], "predicted": names[q.predicted], "count": q.count, "n_test": 9}
            for q in confused_pairs(predicted, labels)
        ],
        "untested_classes": [names[label] for label in untested_classes(labels, c)],
        "temperature": 1.25, "ece_out_of_fold": 0.111, "ece_tempered": 0.055,
    }  # fmt: skip
    report = FitReport(
        row, names, results, confused_pairs(predicted, labels, None), [7] * c,
        reliability_bins(p.max(axis=1), predicted == labels), **more,
    )  # fmt: skip
    return report, labels, predicted


def test_nothing_is_unescaped_and_nothing_comes_from_elsewhere():
    shown = tuple(ShownImage(name, f"{name}, taken for {name}", PIXEL) for name in HOSTILE)
    report, _, _ = made(
        HOSTILE, mistakes=shown, label_issues=shown, duplicates=shown, notes=HOSTILE, left_out={"unused": HOSTILE[0]}
    )
    html = fit_page(report)
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert page.tags.count("img") == 3 * len(HOSTILE)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    links = [value for name, value in page.attributes if name in ("src", "href", "srcset", "action")]
    assert all(str(value).startswith("data:image/jpeg;base64,") for value in links)
    assert "http" not in re.sub(r"http-equiv", "", html)
    assert "\u202e" not in html and "\x1b" not in html
    assert any("document.title='owned'" in text for text in page.texts)  # shown, as a text


def test_every_number_is_that_of_an_independent_computation():
    names = [f"class {i}" for i in range(6)]
    report, labels, predicted = made(names)
    html = fit_page(report)
    matrix = confusion_matrix(labels, predicted, labels=range(6))
    cells = re.findall(r'<td style="[^"]*">([^<]*)</td>', html)
    assert [float(cell) for cell in cells] == matrix.ravel().tolist()
    recall = recall_score(labels, predicted, labels=range(5), average=None)
    for i in range(5):
        line = next(line for line in html.split("<tr>") if line.startswith(f"<td>class {i}</td>"))
        assert f"<td>{matrix[i, i]}</td><td>{matrix[i].sum()}</td><td>{100 * recall[i]:.1f} %</td>" in line
    assert f'<p class="headline">{100 * (labels == predicted).mean():.1f} %</p>' in html
    assert f"<dd>{100 * recall.mean():.1f} %, the mean of" in html
    assert "class 5" in html.split("no test image, so nothing is known of")[1][:60]


def test_a_thousand_classes_stay_readable():
    report, _, _ = made([f"class {i}" for i in range(1000)], n=3000)
    html = fit_page(report)
    assert len(html) < 600_000 and 'class="matrix"' not in html and "970 more classes" in html
    assert html.count("<tr>") < 1200


def test_a_fit_without_a_test_says_so():
    row = {"dataset": "few", "encoder": "cafe:mini", "method": "auto", "acc1": None, "n_test": 0}
    html = fit_page(FitReport(row, ["a", "b"], notes=["no test is possible"], left_out={"mistakes": "No test."}))
    assert "Not tested" in html and "no test is possible" in html and "No test." in html
