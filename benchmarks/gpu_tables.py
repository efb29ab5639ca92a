"""Tables of docs/performance.md on GPUs, made without one: from rows of compile_matrix.py and gpu_estimates.py.

What compilers say and what is estimated stand in tables of their own, which say so, apart from what was measured.
"""

from __future__ import annotations

from pathlib import Path

from harness import markdown, rows_of
from performance_table import Row

NEVER = "not compiled yet"


def newest_of(rows: list[Row], *names: str) -> list[Row]:
    """Return the last row of each combination of the named fields, in the order of their first appearance."""
    return list({tuple(str(row[name]) for name in names): row for row in rows}.values())


def compiled(folder: Path) -> str:
    """Return what each card needs for the kernels, by each release of Triton, as Markdown."""
    rows = newest_of(rows_of("compile_matrix", folder), "triton", "target")
    if not rows:
        return f"Kernels for real cards: {NEVER}."
    head = (
        "card", "Triton", "kernels, as machine code", "most registers", "most spilled, bytes a thread",
        "most shared memory, KB of what a block has", "faults", "commit",
    )  # fmt: skip
    lines = [
        [
            row["card"],
            row["triton"],
            f"{row['kernels']} kernels, {row['compiled']} times",
            row["most_registers"],
            f"{row['most_spilled']} ({row['spilled_by']})" if row["most_spilled"] else "0",
            f"{row['most_shared'] / 1024:.0f} of {row['shared_limit'] / 1024:.0f}",
            "; ".join(row["faults"]) or "none",
            row["commit"],
        ]
        for row in rows
    ]
    return markdown(head, lines)


def estimates(folder: Path) -> str:
    """Return the estimates of a step's time as Markdown; each line says that it is one."""
    # Rows without bytes are of an older formula, which counted every instruction in every turn.
    counted = [row for row in rows_of("gpu_estimates", folder) if "megabytes" in row]
    rows = newest_of(counted, "target", "shape", "precision")
    if not rows:
        return f"Estimates: {NEVER}."
    head = (
        "estimate for a step of", "b x d x h, classes", "precision", "launches", "MB asked for (kept)", "floor, us",
        "estimate, us", "longest launch, us", "estimate for 12,500 steps, s", "commit",
    )  # fmt: skip
    lines = [
        [
            "one fit" if row["g"] == 1 else f"{row['g']} fits",
            f"{row['b']} x {row['d']} x {row['h']}, {row['c']:,}",
            row["precision"],
            row["launches"],
            f"{row['megabytes']:.0f} ({row['least_megabytes']:.0f})",
            f"{row['floor_us']:.1f}",
            f"{row['microseconds']:.0f}",
            row["longest"],
            f"{12_500 * row['microseconds'] / 1e6:.2f}",
            row["commit"],
        ]
        for row in rows
    ]
    machines = sorted({f"{row['card']}, Triton {row['triton']}" for row in rows})
    return "\n".join([markdown(head, lines), "", f"Estimated, not measured, for {'; '.join(machines)}."])
