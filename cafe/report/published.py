"""Published figures beside those measured here, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cafe.report.markdown import markdown_row


def published_grid(published: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]], list[str]]:
    """Return head, body and notes: published, here, the difference, and where protocol or backbone differ.

    Where a table of the same backbone is at hand for a data set and method, those of other backbones are left out.
    """
    comparable = {(row["dataset"], row["method"]) for row in published if row["difference"] is not None}
    rows = [
        row for row in published if row["difference"] is not None or (row["dataset"], row["method"]) not in comparable
    ]
    head = ["data set", "method", "shots", "published", "here", "difference", "backbone", "table"]
    body = []
    for row in rows:
        other = "" if row["difference"] is not None else f"; here {row['backbone_here'] or 'another'}"
        body.append(
            [
                row["part"] or row["dataset"], row["label"], str(row["shots"]), f"{row['published']:.2f}",
                f"{row['here']:.2f}", "–" if row["difference"] is None else f"{row['difference']:+.2f}",
                f"{row['backbone']}{other}", row["table"] + ("*" if row["chosen_on_test"] else ""),
            ]
        )  # fmt: skip
    tables = {row["table"]: f"{row['table']}: {row['source']}. {row['protocol']}." for row in rows}
    notes = list(tables.values())
    if any(row["chosen_on_test"] for row in rows):
        notes.append("* something was chosen on the test set there; nothing is here.")
    return head, body, notes


def published_table(published: Sequence[Mapping[str, Any]]) -> str:
    """Return the same as Markdown; empty if there is nothing published to stand beside."""
    if not published:
        return ""
    head, body, notes = published_grid(published)
    lines = [markdown_row(head), "|---|---|" + "---:|" * 4 + "---|---|", *map(markdown_row, body)]
    return "\n".join([*lines, "", *(f"- {note.replace('*', chr(92) + '*')}" for note in notes)]) + "\n"
