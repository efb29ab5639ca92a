"""Parts of the page: intervals, paired tests, published figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from cafe.report.cells import METRIC_NAMES, PLAIN_METRICS
from cafe.report.comparison import ComparisonLike
from cafe.report.plain import plain
from cafe.report.published import published_grid


def intervals_part(comparison: ComparisonLike) -> list[str]:
    """Return the 95 % intervals of the mean over seeds, where there are several."""
    metric = comparison.layout.metrics[0]
    body = []
    for entry in comparison.summary:
        ends = entry.get(f"{metric}_ci95")
        if ends is not None:
            unit = 1 if metric in PLAIN_METRICS else 100
            where = [entry["dataset"], entry["series"], entry.get("shots"), entry.get("x"), entry.get("part")]
            body.append([*map(text_of, where), f"{unit * ends[0]:.2f} to {unit * ends[1]:.2f}", str(entry["n"])])
    if not body:
        return []
    head = ["data set", "series", "shots", "value", "part", "95 % interval", "seeds"]
    caption = f"{METRIC_NAMES.get(metric, metric)}: 95 % interval of the mean over seeds, by Student's t"
    return ["<details><summary>Intervals</summary>", html_table(head, body, caption=caption), "</details>"]


def pairs_part(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the paired tests of every two series of a column."""
    if not pairs:
        return []
    head = ["data set", "shots", "part", "A", "B", "A minus B (points)", "95 % interval", "p", "p (Holm)", "seeds"]
    body = [
        [
            str(pair["dataset"]), text_of(pair["shots"]), text_of(pair["part"]), _cell_name(pair, "a"),
            _cell_name(pair, "b"), f"{100 * pair['difference']:+.2f}",
            f"{100 * pair['ci95'][0]:+.2f} to {100 * pair['ci95'][1]:+.2f}", f"{pair['p_value']:.2g}",
            f"{pair['p_holm']:.2g}", str(pair["n_seeds"]),
        ]
        for pair in pairs
    ]  # fmt: skip
    caption = "Accuracy of A minus B for new images and new draws: analysis of variance over test images and seeds"
    return ["<details><summary>Paired tests</summary>", html_table(head, body, caption=caption), "</details>"]


def _cell_name(pair: Mapping[str, Any], side: str) -> str:
    x = pair.get(f"{side}_x")
    return str(pair[side]) if x is None else f"{pair[side]} at {x:g}"


def published_part(published: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return published figures beside those measured."""
    if not published:
        return []
    head, body, notes = published_grid(published)
    remarks = [f'<p class="note">{escape(note)}</p>' for note in notes]
    return ["<h2>Published and here</h2>", html_table(head, body), *remarks]


def html_table(head: Sequence[str], body: Sequence[Sequence[str]], caption: str = "", css: str = "") -> str:
    """Return a table that scrolls sideways where it is too wide; all text is escaped."""
    titles = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table{f" class={css!r}" if css else ""}>{above}'
        f"<thead><tr>{titles}</tr></thead>\n<tbody>\n{lines}\n</tbody></table></div>"
    )


def text_of(value: Any) -> str:
    """Return a value as text: nothing for None, JSON for what is nested."""
    value = plain(value)
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
