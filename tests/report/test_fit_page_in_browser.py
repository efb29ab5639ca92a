"""The page of one fit in a real browser: keyboard, light and dark, a telephone's width, paper, and hostile names."""

from __future__ import annotations

import re
import zlib

import numpy as np
import pytest
from PIL import Image

from cafe.evaluation.by_class import class_results, confused_pairs
from cafe.evaluation.calibration import reliability_bins
from cafe.evaluation.metrics import all_metrics
from cafe.report.fit_page import FitReport, ShownImage, fit_page
from cafe.report.leaderboard import Leaderboard, LeaderboardEntry

HOSTILE = [
    "<script>document.title='owned'</script>", "\"><img src=x onerror=\"document.title='owned'\">", "猫" * 80,
    "قطة \u202ereversed", "a" * 300, "\x1b[31mred", "&amp; 'quoted' </style></table></html>", "", "-->",
]  # fmt: skip


def report(names: list[str], thumbnail: bytes | None = None) -> FitReport:
    """Make a full report of random predictions."""
    rng = np.random.default_rng(0)
    n, c = 20 * len(names), len(names)
    labels, p = rng.integers(0, c, n), rng.dirichlet(np.full(c, 0.1), n)
    predicted = p.argmax(axis=1)
    right = predicted == labels
    bins = reliability_bins(p.max(axis=1), right)
    row = {
        "dataset": names[0], "encoder": "e" * 90, "method": "auto", "n_test": n, "tested_by": "test split",
        **all_metrics(p, labels), "zero_shot_acc1": 0.25, "majority_class": names[-1], "tested_classes": c,
        "barely_tested_classes": 0, "untested_classes": names[:40], "temperature": 2.5, "temperature_fitted": 2.5,
        "ece_out_of_fold": 0.1, "ece_tempered": 0.02, "cache_fingerprint": "f" * 64,
        "weakest_classes": [{"class": name, "recall": 0.0, "n_test": 9, "n_right": 0} for name in names[:3]],
        "confused_pairs": [{"class": name, "predicted": name, "count": 3, "n_test": 9} for name in names[:3]],
    }  # fmt: skip
    methods = ["auto", "cross-modal-linear-probe", "trans-clip (transductive)", *names[:5]]
    measured = {"n_test": n, "acc1": 0.5, "acc1_interval": [0.4, 0.6], "mean_per_class_recall": 0.5, "ece": 0.1,
                "fit_seconds": 1.0, "chosen_on": "validation and the batch"}  # fmt: skip
    entries = [LeaderboardEntry(m, measured, "level" if i else "best", 0.5, 1.0, i == 1) for i, m in enumerate(methods)]
    pairs = [{"a": m, "b": "auto", "difference": 0.01, "a_only": 3, "b_only": 2, "p_value": 0.5, "p_holm": 1.0}
             for m in methods[1:]]  # fmt: skip
    board = Leaderboard(entries, pairs, "McNemar's exact test", "test split", names[0], 0.9, 2.0, tuple(names[:3]))
    shown = tuple(ShownImage(name, f"{name}, taken for {name}", thumbnail) for name in names[:9])
    return FitReport(
        row, names, class_results(predicted, labels, c), confused_pairs(predicted, labels, None), [7] * c, bins, bins,
        board, shown, shown, shown, tuple(names[:3]), {}, {"duplicates": names[0]},
    )  # fmt: skip


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Pages of hostile names, of a matrix as wide as can be, and of a thousand classes."""
    folder = tmp_path_factory.mktemp("pages")
    Image.new("RGB", (160, 120), (200, 30, 30)).save(folder / "red.jpg")
    red = (folder / "red.jpg").read_bytes()
    names = {
        "hostile": HOSTILE,
        "matrix": [f"a class of a long name, number {i}" for i in range(25)],
        "thousand": [f"class {i}, also called {i}" for i in range(1000)],
    }
    for name, classes in names.items():
        (folder / f"{name}.html").write_text(fit_page(report(classes, red)), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in names}


KINDS = ["hostile", "matrix", "thousand"]
CLOSED = "[...document.querySelectorAll('details')].forEach(d => d.open = %s)"


def test_no_name_runs_as_a_program(browser, pages):
    browser.open(pages["hostile"])
    assert "owned" not in browser.value("document.title").replace(HOSTILE[0], "")
    assert browser.value("document.querySelectorAll('script').length") == 0
    assert browser.value("document.querySelectorAll('h2').length") == fit_page(report(HOSTILE)).count("<h2>")
    assert browser.value("[...document.images].every(i => i.src.startsWith('data:image/jpeg') && i.naturalWidth)")
    assert (
        browser.value("performance.getEntriesByType('resource').filter(r => !r.name.startsWith('data:')).length") == 0
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [320, 390, 1200])
def test_the_page_is_no_wider_than_the_screen(browser, pages, kind, width):
    browser.open(pages[kind], width)
    browser.value(CLOSED % "true")
    assert browser.value("document.scrollingElement.scrollWidth") <= width
    # What is wider scrolls in a region of its own, and nothing lies outside the screen that no region scrolls.
    lost = browser.value(
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') && !e.closest('svg') "
        f"&& e.getBoundingClientRect().right > {width} + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert lost == []


def test_every_control_is_reached_by_the_keyboard_and_seen(browser, pages):
    browser.open(pages["matrix"], 390)
    wanted = browser.value(
        "[...document.querySelectorAll('summary, .scroll[tabindex]')].filter(e => e.checkVisibility()).length"
    )
    reached = []
    for _ in range(wanted + 1):
        browser.press("Tab", 9)
        reached.append(
            browser.value(
                "(e => e === document.body ? null : [e.tagName, e.getAttribute('aria-label') || e.textContent, "
                "getComputedStyle(e).outlineStyle, parseFloat(getComputedStyle(e).outlineWidth), "
                "e.getBoundingClientRect().top + scrollY, "
                "e.getBoundingClientRect().bottom > 0 && e.getBoundingClientRect().top < innerHeight])"
                "(document.activeElement)"
            )
        )
    assert reached.pop() is None and None not in reached  # past the last, out of the page: no trap
    assert len({(tag, name, top) for tag, name, _, _, top, _ in reached}) == wanted
    assert [top for *_, top, _ in reached] == sorted(top for *_, top, _ in reached)  # in the order of the page
    for tag, name, style, width, _, in_sight in reached:
        assert style != "none" and width >= 2 and in_sight, (tag, name)
        assert name.strip()


def test_keys_open_what_is_folded_and_scroll_what_is_wide(browser, pages):
    browser.open(pages["matrix"], 390)
    browser.value("document.querySelector('summary').focus()")
    before = browser.value("document.querySelector('details').open")
    browser.press("Enter", 13)
    assert browser.value("document.querySelector('details').open") is not before
    wide = "[...document.querySelectorAll('.scroll[tabindex]')].find(e => e.scrollWidth > e.clientWidth + 80)"
    browser.value(f"{wide}.focus()")
    for _ in range(3):
        browser.press("ArrowRight", 39)
    moved = f"new Promise(done => setTimeout(() => done({wide}.scrollLeft), 500))"
    result = browser.call("Runtime.evaluate", expression=moved, awaitPromise=True, returnByValue=True)
    assert result["result"]["value"] > 0


CONTRAST = """
(() => {
  const parse = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
  const over = (top, below) => {
    const alpha = top.length > 3 ? top[3] : 1;
    return [0, 1, 2].map(i => alpha * top[i] + (1 - alpha) * below[i]);
  };
  const linear = value => value <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4;
  const luminance = colour => {
    const [red, green, blue] = colour.map(value => linear(value / 255));
    return .2126 * red + .7152 * green + .0722 * blue;
  };
  const behind = element => {
    const layers = [];
    for (; element; element = element.parentElement) layers.push(parse(getComputedStyle(element).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  let worst = [99, ''];
  const texts = 'h1, h2, p, dt, dd, th, td, li, small, caption, summary, footer, figcaption, text';
  for (const element of document.querySelectorAll(texts)) {
    if (!element.textContent.trim() || !element.checkVisibility()) continue;
    const style = getComputedStyle(element), ground = behind(element);
    const ink = over(parse(element.tagName === 'text' ? style.fill : style.color), ground);
    const [light, dark] = [luminance(ink), luminance(ground)].sort((x, y) => y - x);
    const ratio = (light + .05) / (dark + .05);
    if (ratio < worst[0]) worst = [ratio, element.outerHTML.slice(0, 120)];
  }
  return worst;
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark(browser, pages, scheme):
    """WCAG 2.1 AA: a contrast of at least 4.5 to 1, of every text on whatever lies behind it."""
    browser.open(pages["matrix"])
    browser.media(scheme=scheme)
    browser.value(CLOSED % "true")
    ground = browser.value("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", ground)[:3])) / 3
    assert brightness > 200 if scheme == "light" else brightness < 60
    ratio, where = browser.value(CONTRAST)
    assert ratio >= 4.5, where


@pytest.mark.parametrize("kind", KINDS)
def test_on_paper_it_is_black_on_white_and_nothing_is_cut_off(browser, pages, kind):
    browser.open(pages[kind], 718)  # A4 less margins of a centimetre, at 96 pixels an inch
    browser.media("print", "dark")
    assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.value("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    # Paper does not scroll: tables are as wide as the page at most.
    assert browser.value("document.scrollingElement.scrollWidth") <= 718
    printed = browser.pdf()
    assert printed.startswith(b"%PDF")
    assert 2 <= number_of_pages(printed) <= 12


def number_of_pages(printed: bytes) -> int:
    """Count the pages of a PDF, whose objects may stand in compressed streams."""
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", printed, re.DOTALL)
    texts = [printed]
    for stream in streams:
        try:
            texts.append(zlib.decompress(stream))
        except zlib.error:
            continue
    return max(len(re.findall(rb"/Type\s*/Page\b", text)) for text in texts)
