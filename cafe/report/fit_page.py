"""The report of a fit as one HTML file: how good it is, class by class, and which images to look at."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from cafe.evaluation.by_class import ClassResult, Confusion
from cafe.evaluation.calibration import ReliabilityBin
from cafe.names import short_name, visible, visible_name
from cafe.report.leaderboard import HEAD, Leaderboard
from cafe.report.page import definitions, html_document, html_table, style_of
from cafe.report.rows import counted, display_text
from cafe.report.sentences import (
    describe_calibration,
    describe_confused,
    describe_majority,
    describe_tested_classes,
    describe_weakest,
    name_separator,
)
from cafe.report.sentences import percent as _percent

WIDEST_MATRIX = 25  # classes of a confusion matrix that is drawn whole; of more, pairs are listed
SHOWN_CLASSES = 30  # rows of the table by class before it is folded
SHOWN_PAIRS = 50


@dataclass(frozen=True)
class ShownImage:
    """An image that the report shows, and why.

    Attributes
    ----------
    name : str
        Its id in the data set.
    says : str
        Why the report shows it, in one line.
    thumbnail : bytes or None
        A small JPEG; None where the image cannot be opened.
    """

    name: str
    says: str
    thumbnail: bytes | None = None


@dataclass(frozen=True)
class FitReport:
    """The contents of the report of a fit: numbers, names and thumbnails, never paths.

    Attributes
    ----------
    row : mapping
        Of the fit, as ``cafe fit --json`` has it.
    class_names : sequence of str
        Of all classes.
    results : sequence of ClassResult
        Of each class, on the test images.
    confusions : sequence of Confusion
        All ways to take one class for another, the most frequent first.
    n_train : sequence of int
        Images of each class that the tested fit, or where it was fitted once more the kept fit, learned from.
    bins : sequence of ReliabilityBin
        Of the test images, by the method's own probabilities.
    calibrated_bins : sequence of ReliabilityBin
        Of images out of fold, by the calibrated probabilities; empty where nothing was scored out of fold.
    leaderboard : Leaderboard or None
        Of other methods on the same test images.
    mistakes, label_issues, duplicates : sequence of ShownImage
        The most confident mistakes; images whose label looks wrong; pairs of images that are equal, or nearly so.
    notes : sequence of str
        Sentences about the fit.
    left_out : mapping of str to str
        Why a part of the report is missing, by its name.
    searched : mapping of str to str
        Which images were searched for those of a part, by its name.
    """

    row: Mapping[str, Any]
    class_names: Sequence[str]
    results: Sequence[ClassResult] = ()
    confusions: Sequence[Confusion] = ()
    n_train: Sequence[int] = ()
    bins: Sequence[ReliabilityBin] = ()
    calibrated_bins: Sequence[ReliabilityBin] = ()
    leaderboard: Leaderboard | None = None
    mistakes: Sequence[ShownImage] = ()
    label_issues: Sequence[ShownImage] = ()
    duplicates: Sequence[ShownImage] = ()
    notes: Sequence[str] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    searched: Mapping[str, str] = field(default_factory=dict)


def fit_page(report: FitReport) -> str:
    """Write one fit as one self-contained page; all text is escaped, and nothing is loaded from elsewhere.

    Parameters
    ----------
    report : FitReport
        What to show.

    Returns
    -------
    str
        HTML.
    """
    row = report.row
    title = f"{row['dataset']}: {row['method']} on {row['encoder']}"
    parts = [
        f"<h1>{_name(title)}</h1>",
        *_headline(report),
        *_by_class(report),
        *_confusion(report),
        *_reliability(report),
        *_leaderboard(report.leaderboard),
        *_images(report, "mistakes", "Most confident mistakes", report.mistakes),
        *_images(report, "label_issues", "Labels that look wrong", report.label_issues),
        *_images(report, "duplicates", "Duplicates", report.duplicates),
        "<h2>How it was made</h2>",
        definitions({key: visible_name(display_text(value)) for key, value in row.items() if _is_short(value)}),
        "<footer>Written by cafe fit.</footer>",
    ]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
    body = "<main>\n" + "\n".join(parts) + "\n</main>"
    return visible(html_document(_unmarked_name(title), style_of("page") + style_of("fit_page"), body, meta))


def _headline(report: FitReport) -> list[str]:
    """Return HTML with the accuracy, its interval, the accuracies to compare with, and warnings."""
    row = report.row
    if row.get("acc1") is None:
        why = "".join(f"<p>{escape(visible_name(note))}</p>" for note in report.notes)
        return ['<p class="headline">Not tested</p>', why]
    by = "images, by cross-validation" if row.get("tested_by") == "cross-validation" else "test images"
    low, high = row["acc1_interval"]
    majority = _name(str(row.get("majority_class", "")))
    facts = {
        "95 % interval": f"{_percent(low)} to {_percent(high)}",
        "always the most frequent class": f"{_percent(row['majority_acc1'])}: {majority}",
        "balanced accuracy": f"{_percent(row['mean_per_class_recall'])}, {describe_tested_classes(row)}",
        "zero-shot": "" if row.get("zero_shot_acc1") is None else _percent(row["zero_shot_acc1"]),
        "weakest classes": describe_weakest(row, _name),
        "most confused": describe_confused(row, _name),
    }
    listed = "".join(f"<dt>{escape(key)}</dt><dd>{value}</dd>" for key, value in facts.items() if value)
    lead = f"accuracy on {row['n_test']:,} {by}"
    parts = [f'<p class="headline">{_percent(row["acc1"])}</p>', f'<p class="lead">{lead}</p>']
    if comparison := describe_majority(row):
        parts.append(
            f'<p class="warning">Naming every image {majority} would be right for {_percent(row["majority_acc1"])}: '
            f"{comparison}.</p>"
        )
    untested = row.get("untested_classes") or []
    if untested:
        names = name_separator(row).join(map(_name, untested[:SHOWN_CLASSES]))
        more = f" and {len(untested) - SHOWN_CLASSES:,} more" if len(untested) > SHOWN_CLASSES else ""
        number = counted(len(untested), "class has", "classes have")
        parts.append(f'<p class="warning">{number} no test image, so nothing is known of {names}{more}.</p>')
    parts.append(f"<dl>{listed}</dl>")
    return [*parts, *(f'<p class="note">{escape(visible_name(note))}</p>' for note in report.notes)]


def _leaderboard(board: Leaderboard | None) -> list[str]:
    """Return HTML with the table of compared methods and a table of every pair of methods; empty without a board."""
    if board is None:
        return []
    number = counted(len(board.entries), "method")
    pairs = [
        [
            short_name(str(pair["a"])), short_name(str(pair["b"])), f"{100 * pair['difference']:+.2f}",
            *(f"{pair[side]:.4g}" for side in ("a_only", "b_only")),
            *(f"{pair[p]:.2g}" for p in ("p_value", "p_holm")),
        ]
        for pair in board.pairs
    ]  # fmt: skip
    head = ["A", "B", "A minus B (points)", "only A right", "only B right", "p", "p (Holm)"]
    return [
        f"<h2>{number} on the same test images</h2>",
        f"<p>{escape(visible_name(board.verdict))}</p>",
        f'<p class="note">{escape(visible_name(board.caution))}</p>',
        _scrolled(html_table(HEAD, [[short_name(cell) for cell in line] for line in board.table()]), "Leaderboard"),
        *(f'<p class="note">{escape(visible_name(note))}</p>' for note in board.notes),
        f"<details><summary>Every pair ({len(pairs):,})</summary>",
        _scrolled(html_table(head, pairs, caption=f"{board.test}, corrected by Holm", css="pairs"), "Pairs of methods"),
        "</details>",
    ]


def _by_class(report: FitReport) -> list[str]:
    """Return HTML with a table of each class's results, the weakest class first."""
    if not report.results:
        return []
    order = sorted(
        report.results, key=lambda r: (r.recall is not None, r.recall if r.recall is not None else 0.0, -r.n_test)
    )
    head = ["class", "right", "test images", "accuracy", "precision", "images learned from"]
    body = [
        [
            short_name(report.class_names[r.label]), f"{r.n_right:.4g}", f"{r.n_test:.4g}",
            "not tested" if r.recall is None else _percent(r.recall),
            "" if r.precision is None else _percent(r.precision),
            f"{report.n_train[r.label]:,}" if len(report.n_train) else "",
        ]
        for r in order
    ]  # fmt: skip
    first = _scrolled(html_table(head, body[:SHOWN_CLASSES]), "Results by class")
    parts = ["<h2>Class by class, the weakest first</h2>", first]
    if others := body[SHOWN_CLASSES:]:
        table = _scrolled(html_table(head, others), "More")
        parts += [f"<details><summary>{len(others):,} more classes</summary>", table, "</details>"]
    return parts


def _confusion(report: FitReport) -> list[str]:
    """Return HTML with the confusion matrix, or for very many classes a table of the most frequent pairs."""
    if not report.results:
        return []
    n = len(report.class_names)
    if n > WIDEST_MATRIX:
        head = ["is", "taken for", "images", "of"]
        body = [
            [
                short_name(report.class_names[c.label]), short_name(report.class_names[c.predicted]), f"{c.count:.4g}",
                f"{report.results[c.label].n_test:.4g}",
            ]
            for c in report.confusions[:SHOWN_PAIRS]
        ]  # fmt: skip
        more = len(report.confusions) - len(body)
        note = f'<p class="note">and {more:,} rarer pairs</p>' if more > 0 else ""
        return [
            "<h2>What is taken for what</h2>",
            _scrolled(html_table(head, body, css="pairs"), "Confused pairs"),
            note,
        ]
    counts = {(c.label, c.predicted): c.count for c in report.confusions}
    titles = "".join(f'<th scope="col"><span>{_name(name)}</span></th>' for name in report.class_names)
    lines = []
    for i, result in enumerate(report.results):
        cells = []
        for j in range(n):
            count = result.n_right if i == j else counts.get((i, j), 0.0)
            share = count / result.n_test if result.n_test else 0.0
            colour = "37, 99, 235" if i == j else "220, 38, 38"
            cells.append(f'<td style="background: rgba({colour}, {0.55 * share:.3f})">{count:.4g}</td>')
        lines.append(f'<tr><th scope="row">{_name(report.class_names[i])}</th>{"".join(cells)}</tr>')
    table = (
        '<table class="matrix"><caption>Rows: what an image is. Columns: what it is taken for.</caption>'
        f"<thead><tr><td></td>{titles}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )
    return ["<h2>Confusion matrix</h2>", _scrolled(f'<div class="scroll">{table}</div>', "Confusion matrix")]


def _reliability(report: FitReport) -> list[str]:
    """Return HTML with the reliability diagrams before and after calibration."""
    row = report.row
    drawn = []
    if _filled(report.bins):
        own = "by the method's own probabilities" if report.calibrated_bins else ""
        said = f"Expected calibration error {_percent(row['ece'])}{', ' if own else ''}{own}."
        drawn.append(_diagram(report.bins, "Test images", said))
    if _filled(report.calibrated_bins):
        shown = row["ece_out_of_fold"] if row["temperature"] == 1.0 else row["ece_tempered"]
        said = f"Expected calibration error {_percent(shown)}, by the probabilities that predict gives."
        drawn.append(_diagram(report.calibrated_bins, "Images out of fold", said))
    if not drawn:
        return []
    gives = describe_calibration(row)
    lead = "On the dashed line they do; below it the classifier is too sure of itself."
    if gives:
        lead += f" The probabilities that predict gives are {gives}."
    return [
        "<h2>Do probabilities mean what they say?</h2>",
        f"<p>{escape(lead)}</p>",
        f'<div class="diagrams">{"".join(drawn)}</div>',
    ]


def _filled(bins: Sequence[ReliabilityBin]) -> list[tuple[ReliabilityBin, float, float]]:
    """Return the bins that hold an image, with confidence and accuracy."""
    return [(b, b.confidence, b.accuracy) for b in bins if b.confidence is not None and b.accuracy is not None]


def _diagram(bins: Sequence[ReliabilityBin], title: str, said: str) -> str:
    """Return a reliability diagram with a sentence and a table of its numbers."""
    side, edge = 240, 34
    filled = _filled(bins)
    most = max(b.count for b, _, _ in filled)
    marks = "".join(
        f'<circle cx="{edge + side * confidence:.1f}" cy="{edge + side * (1 - accuracy):.1f}" '
        f'r="{3 + 6 * (b.count / most) ** 0.5:.1f}"><title>{b.count:,} images of '
        f"confidence {_percent(confidence)}: {_percent(accuracy)} right</title></circle>"
        for b, confidence, accuracy in filled
    )
    ticks = "".join(
        f'<text x="{edge + side * t:.0f}" y="{edge + side + 16}" text-anchor="middle">{100 * t:.0f}</text>'
        f'<text x="{edge - 6}" y="{edge + side * (1 - t) + 4:.0f}" text-anchor="end">{100 * t:.0f}</text>'
        for t in (0, 0.5, 1)
    )
    drawing = (
        f'<svg viewBox="0 0 {side + 2 * edge} {side + 2 * edge}" role="img" aria-label="Reliability diagram: {title}" '
        'font-size="11" fill="currentColor">'
        f'<rect x="{edge}" y="{edge}" width="{side}" height="{side}" fill="none" stroke="currentColor" opacity=".4"/>'
        f'<line x1="{edge}" y1="{edge + side}" x2="{edge + side}" y2="{edge}" stroke="currentColor" '
        f'stroke-dasharray="4 4" opacity=".6"/>{marks}{ticks}'
        f'<text x="{edge + side / 2}" y="{2 * edge + side - 4}" text-anchor="middle">confidence in per cent</text>'
        f'<text x="{edge}" y="{edge - 10}">right, in per cent</text></svg>'
    )
    head = ["confidence", "images", "mean confidence", "right"]
    body = [
        [f"{_percent(b.low)} to {_percent(b.high)}", f"{b.count:,}", _percent(confidence), _percent(accuracy)]
        for b, confidence, accuracy in filled
    ]
    table = _scrolled(html_table(head, body), f"Reliability: {title}")
    return (
        f"<figure><figcaption><strong>{title}.</strong> {escape(said)}</figcaption>{drawing}"
        f"<details><summary>As a table</summary>{table}</details></figure>"
    )


def _images(report: FitReport, key: str, title: str, images: Sequence[ShownImage]) -> list[str]:
    """Return HTML with a title and ``images``, each with the reason to show it; ``key`` names the report's part."""
    if key in report.left_out:
        return [f"<h2>{title}</h2>", f'<p class="note">{escape(visible_name(report.left_out[key]))}</p>']
    searched = f'<p class="note">{escape(visible_name(report.searched[key]))}</p>' if key in report.searched else ""
    if not images:
        return [f"<h2>{title}</h2>", searched or '<p class="note">None.</p>']
    cards = []
    for image in images:
        picture = ""
        if image.thumbnail is not None:
            data = base64.b64encode(image.thumbnail).decode("ascii")
            picture = f'<img src="data:image/jpeg;base64,{data}" alt="{_unmarked_name(image.name)}">'
        cards.append(f"<li>{picture}<div>{_name(image.says, 300)}</div><small>{_name(image.name, 200)}</small></li>")
    return [f"<h2>{title}</h2>", searched, f'<ul class="cards">{"".join(cards)}</ul>']


def _scrolled(table: str, label: str) -> str:
    """Return an HTML table whose scrolling box the keyboard can reach; ``label`` names the box."""
    return table.replace(
        '<div class="scroll">', f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">', 1
    )


def _unmarked_name(name: str) -> str:
    """Return a name, shortened and escaped, for HTML attributes and titles, which may hold no element."""
    return escape(short_name(name, 200))


def _name(name: str, longest: int = 60) -> str:
    """Return a name in an element that keeps its script's direction from the text around it."""
    return f"<bdi>{escape(short_name(name, longest))}</bdi>"


def _is_short(value: Any) -> bool:
    """Return whether a value is a single one: given, and neither a list nor a mapping."""
    return value is not None and not isinstance(value, (list, dict, tuple))
