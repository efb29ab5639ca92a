"""The report as one HTML file: figure, table, settings, provenance and every row; nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from cafe.report.comparison import Comparison
from cafe.report.figure import DARK, LIGHT, draw
from cafe.report.panels import METRIC_NAMES, factor, metric_name
from cafe.report.rows import counted, display_text, field_names
from cafe.report.tables import CHOSEN_ON, TextTable, published_table, tables


def style_of(page: str) -> str:
    """Return the style sheet of a page, of ``styles/``."""
    return "\n" + (Path(__file__).parent / "styles" / f"{page}.css").read_text(encoding="utf-8")


def page(comparison: Comparison) -> str:
    """Write a comparison as one self-contained page.

    Parameters
    ----------
    comparison : Comparison
        What ``cafe.compare.compare`` returned.

    Returns
    -------
    str
        HTML; all text is escaped, the figure is embedded twice (for light and for dark screens).
    """
    rows, shown = comparison.rows, comparison.layout.metrics
    parts = [
        f"<h1>{escape(comparison.title)}</h1>",
        f'<p class="lead">{_lead(rows)}</p>',
        _picture(comparison),
        "<h2>Results</h2>",
        *_tables(comparison, None),
        "<details><summary>Other metrics</summary>",
        *(table for metric in METRIC_NAMES if metric not in shown for table in _tables(comparison, metric)),
        "</details>",
        *_intervals(comparison),
        *_paired_tests(comparison.pairs),
        *_published(comparison.published),
        *_notes(comparison.notes),
        "<h2>Settings</h2>",
        definitions(_settings(comparison)),
        "<h2>Provenance</h2>",
        definitions(_provenance(rows)),
        f"<details><summary>Every row ({len(rows)})</summary>",
        _row_table(rows),
        "</details>",
        "<footer>Written by cafe. Every row holds what is needed to run it again.</footer>",
    ]
    return html_document(escape(comparison.title), style_of("page"), "\n".join(parts))


def html_document(title: str, style: str, body: str, meta: str = "") -> str:
    """Return a page of a title and a body in HTML, with its style sheet and further ``meta`` elements."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n{meta}'
        f"<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _lead(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say how many runs of how many methods there are, on which test sets and seeds."""
    n_methods = len({(row["method"], row.get("variant")) for row in rows})
    seeds = sorted({row["seed"] for row in rows if row.get("seed") is not None})
    tests = sorted({(str(row["dataset"]), row["n_test"]) for row in rows})
    on = ", ".join(f"{escape(name)} ({counted(n, 'test image')})" for name, n in tests)
    runs, methods = counted(len(rows), "run"), counted(n_methods, "method")
    with_seeds = f", {'seed' if len(seeds) == 1 else 'seeds'} {escape(', '.join(map(str, seeds)))}" if seeds else ""
    return f"{runs} of {methods} on {on}{with_seeds}."


def _picture(comparison: Comparison) -> str:
    """Return the figure for light and for dark screens."""
    light, dark = (
        "data:image/png;base64,"
        + base64.b64encode(draw(comparison.summary, layout=comparison.layout, theme=theme)).decode("ascii")
        for theme in (LIGHT, DARK)
    )
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="Figure of the results in the tables below"></picture>'
    )


def _tables(comparison: Comparison, metric: str | None) -> list[str]:
    """Return the tables of a metric, or of all metrics of the layout."""
    shown = tables(comparison.summary, metric, comparison.layout)
    return [part for table in shown for part in _table_with_notes(table)]


def _intervals(comparison: Comparison) -> list[str]:
    """Return the 95 % intervals of the mean over seeds, where there are several."""
    metric = comparison.layout.metrics[0]
    body = []
    for entry in comparison.summary:
        ends = entry.get(f"{metric}_ci95")
        if ends is not None:
            fields = [entry["dataset"], entry["series"], entry.get("shots"), entry.get("x"), entry.get("part")]
            low, high = (factor(metric) * end for end in ends)
            chosen_on = str(entry.get("chosen_on") or "")
            body.append([*map(display_text, fields), f"{low:.2f} to {high:.2f}", str(entry["n"]), chosen_on])
    if not body:
        return []
    head = ["data set", "series", "shots", "value", "part", "95 % interval", "seeds", CHOSEN_ON]
    caption = f"{metric_name(metric)}: 95 % interval of the mean over seeds, by Student's t"
    return ["<details><summary>Intervals</summary>", html_table(head, body, caption=caption), "</details>"]


def _paired_tests(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the paired tests of every two series of a column."""
    if not pairs:
        return []
    head = ["data set", "shots", "part", "A", "B", "A minus B (points)", "95 % interval", "p", "p (Holm)", "seeds"]
    body = [
        [
            str(pair["dataset"]), display_text(pair["shots"]), display_text(pair["part"]), _series_at(pair, "a"),
            _series_at(pair, "b"), f"{100 * pair['difference']:+.2f}",
            f"{100 * pair['ci95'][0]:+.2f} to {100 * pair['ci95'][1]:+.2f}", f"{pair['p_value']:.2g}",
            f"{pair['p_holm']:.2g}", str(pair["n_seeds"]),
        ]
        for pair in pairs
    ]  # fmt: skip
    caption = "Accuracy of A minus B for new images and new draws: analysis of variance over test images and seeds"
    return ["<details><summary>Paired tests</summary>", html_table(head, body, caption=caption), "</details>"]


def _series_at(pair: Mapping[str, Any], side: str) -> str:
    """Name one side of a pair (``a`` or ``b``), with the value that its suite varies."""
    x = pair.get(f"{side}_x")
    return str(pair[side]) if x is None else f"{pair[side]} at {x:g}"


def _published(published: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return published figures beside those measured."""
    if not published:
        return []
    return ["<h2>Published and here</h2>", *_table_with_notes(published_table(published))]


def _notes(notes: Sequence[str]) -> list[str]:
    """Return the notes of the comparison."""
    return ["<h2>Notes</h2><ul>", *(f"<li>{escape(note)}</li>" for note in notes), "</ul>"] if notes else []


def _row_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of all rows with all their fields."""
    head = field_names(rows)
    return html_table(head, [[display_text(row.get(key)) for key in head] for row in rows], css="rows")


def _settings(comparison: Comparison) -> dict[str, str]:
    """Return the settings of the comparison, by name, for the list at the end of the page."""
    rows = comparison.rows
    shots = sorted({row["shots"] for row in rows if row.get("shots")})
    policies = sorted({_policy(row.get("selection")) for row in rows})
    return {
        "suite": comparison.suite,
        "shots": ", ".join(map(str, shots)) or "all training images",
        "seeds": ", ".join(map(str, sorted({row["seed"] for row in rows if row.get("seed") is not None}))),
        "selection": ", ".join(policies),
        "chosen on test data": "yes, where marked" if "oracle-test" in policies else "nothing",
        "fitting time": f"{sum(row.get('fit_seconds') or 0.0 for row in rows):.1f} s in total",
    }


def _provenance(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the origin of the rows, by name: data sets, encoders, devices and versions."""
    names = {
        "dataset": "data set", "encoder": "encoder", "cache_fingerprint": "cache fingerprint", "device": "device",
        "dtype": "dtype", "kernel": "kernel", "cafe_version": "cafe version",
    }  # fmt: skip
    return {
        label: ", ".join(sorted({display_text(row[key]) for row in rows if row.get(key) is not None}))
        for key, label in names.items()
    }


def _policy(selection: Any) -> str:
    """Return the name of the policy in a row's field ``selection``."""
    return str(selection.get("policy")) if isinstance(selection, Mapping) else str(selection)


def _table_with_notes(table: TextTable) -> list[str]:
    """Return a table in HTML, with its notes below."""
    notes = [f'<p class="note">{escape(note)}</p>' for note in table.notes]
    return [html_table(table.head, table.body, caption=table.caption), *notes]


def html_table(head: Sequence[str], body: Sequence[Sequence[str]], caption: str = "", css: str = "") -> str:
    """Return a table that scrolls sideways where it is too wide; all text is escaped."""
    # What was chosen on is a phrase among columns of numbers: it may wrap.
    kinds = [' class="phrase"' if title == CHOSEN_ON else "" for title in head]
    titles = "".join(f'<th scope="col"{kind}>{escape(cell)}</th>' for kind, cell in zip(kinds, head, strict=True))
    lines = "\n".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in body
    )
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table{f" class={css!r}" if css else ""}>{above}'
        f"<thead><tr>{titles}</tr></thead>\n<tbody>\n{lines}\n</tbody></table></div>"
    )


def definitions(pairs: Mapping[str, str]) -> str:
    """Return a definition list of names and values; all text is escaped."""
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in pairs.items()) + "</dl>"
