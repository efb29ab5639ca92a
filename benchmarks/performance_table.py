"""From the rows of results/ to the tables of docs/performance.md.

Of every entry the newest run counts. A row whose kernel is Triton ran on a GPU; all others are the CPU's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Entry:
    """One line of the table.

    Attributes
    ----------
    benchmark : str
        Name of its file of rows, and of its script without ``bench_``.
    shape : str
        What a row's shape begins with.
    what, against : str
        As they stand in the table.
    note : str
        Of what the measured value consists, with names of a row's fields in braces; empty for none.
    wanted : float
        Ratio that is asked for, until a row says it.
    """

    benchmark: str
    shape: str
    what: str
    against: str
    note: str = ""
    wanted: float = 0.0


ENTRIES = (
    Entry(
        "adapter", "16000x512x1000", "adapter fit, 16,000 x 512, 1,000 classes, batch 256", "straight autograd loop",
        "accuracy {cafe_acc1:.2f} against {straight_acc1:.2f}",
    ),
    Entry(
        "adapter", "1632x512x102", "adapter fit, 1,632 x 512, 102 classes", "the same",
        "accuracy {cafe_acc1:.2f} against {straight_acc1:.2f}",
    ),
    Entry(
        "grid", "1632x512x102", "grid of 45 fits, Flowers shape", "45 straight loops",
        "{fraction:.2f} of its floor's rate, accuracy {cafe_acc1_16_shots:.2f} against {straight_acc1_16_shots:.2f}",
    ),
    Entry(
        "linear_probe", "", "linear probe, path of C", "scikit-learn, lbfgs, same objective",
        "{shape}, {path} values of C, {sklearn_measured} of them timed on scikit-learn's side",
    ),
    Entry(
        "tip_search", "", "Tip-Adapter search, 4,000 cells", "recomputing every cell",
        "extrapolated from {queries_measured} of 50,000 queries",
    ),
    Entry(
        "paper_figure", "", "the paper's figure, 11 data sets", "the sum of the single fits",
        "{cells} of {of_cells} cells, single fits extrapolated", 5.0,
    ),
    Entry(
        "coop_speed", "100 classes", "CoOp, one step, 100 classes, ViT-B/32 text tower", "straight loop",
        "gradients {gradient_apart:.0e} apart", 1.5,
    ),
    Entry(
        "coop_speed", "1000 classes", "CoOp, one step, 1,000 classes", "the same, in {straight_chunks} chunks",
        "gradients {gradient_apart:.0e} apart", 1.5,
    ),
)  # fmt: skip


def rows_of(folder: Path, benchmark: str) -> list[Row]:
    """Read the rows of one benchmark, oldest first; none where it never ran."""
    file = folder / f"{benchmark}.jsonl"
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def newest(rows: Iterable[Row], shape: str, gpu: bool) -> Row | None:
    """Return the first row of the newest run of a shape; a run's first row is what ran by default."""
    fitting = [r for r in rows if str(r["shape"]).startswith(shape) and (r.get("kernel") == "triton") == gpu]
    if not fitting:
        return None
    last = max(str(row["time"]) for row in fitting)
    return next(row for row in fitting if row["time"] == last)


def said(row: Row | None, note: str = "") -> str:
    """Say what was measured, and whether it fell short."""
    if row is None:
        return NOT_MEASURED
    target, ratio = row["target"], row["ratio"]
    text = f"{ratio:.0f}x" if ratio >= 100 else f"{ratio:.1f}x"
    if target is not None and ratio < target:
        text += ": missed"
    try:
        return f"{text}, {note.format(**row)}" if note else text
    except KeyError:  # a row from before a field was reported
        return text


def table(folder: Path, entries: Iterable[Entry] = ENTRIES) -> str:
    """Return the table of claims as Markdown."""
    lines = [
        "| what | against | wanted, CPU | measured, CPU | commit | one GPU |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for entry in entries:
        rows = rows_of(folder, entry.benchmark)
        cpu, gpu = (newest(rows, entry.shape, on_gpu) for on_gpu in (False, True))
        target = cpu["target"] if cpu else entry.wanted
        wanted = f"{target:g}x" if target else ""
        against = entry.against.format(**cpu) if cpu else entry.against.split(", in {")[0]
        commit = cpu["commit"] if cpu else ""
        lines.append(f"| {entry.what} | {against} | {wanted} | {said(cpu, entry.note)} | {commit} | {said(gpu)} |")
    machines = {_machine(r) for e in entries if (r := newest(rows_of(folder, e.benchmark), e.shape, False))}
    return "\n".join([*lines, "", *(f"Measured on {machine}." for machine in sorted(machines))])


def _machine(row: Row) -> str:
    units = row["bfloat16_units"]
    own = "AMX" if units["amx"] else "AVX512-BF16" if units["avx512_bf16"] else "no bfloat16 units"
    threads = "one thread" if row["cores"] == 1 else f"{row['cores']} threads"
    return f"{threads} of {row['device']} ({own}), torch {row['torch']}, scikit-learn {row['sklearn']}"


def time_to_accuracy(folder: Path) -> str:
    """Return the table of seconds to the mark as Markdown."""
    lines = [
        "| data | mark | released: seconds, steps | default: seconds, steps | ratio | full lengths | commit |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    rows = rows_of(folder, "time_to_accuracy")
    for shape in dict.fromkeys(str(row["shape"]) for row in rows):
        row = newest(rows, shape, False)
        if row is None:
            continue
        passed = f"{row['default_seconds']:.2f}, {row['default_steps']}" if row["default_passed"] else "not reached"
        full = (
            f"{row['released_full_acc1']:.2f} in {row['released_full_seconds']:.1f} s against "
            f"{row['default_full_acc1']:.2f} in {row['default_full_seconds']:.1f} s"
        )
        lines.append(
            f"| {shape} | {row['mark']:.2f} | {row['released_seconds']:.2f}, {row['released_steps']} | {passed} | "
            f"{row['ratio']:.1f}x | {full} | {row['commit']} |"
        )
    return "\n".join(lines) if len(lines) > 2 else f"Time to accuracy: {NOT_MEASURED}."


def scaling(folder: Path, figure: Path) -> str:
    """Return the slopes as Markdown, with the figure where there is one."""
    rows = rows_of(folder, "scaling")
    if not rows:
        return f"Scaling: {NOT_MEASURED}."
    last = max(str(row["time"]) for row in rows)
    rows = [row for row in rows if row["time"] == last]
    lines = ["| seconds of | from | to | slope | commit |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        ends = [f"{row['seconds'][i]:.3g} s at {row['at'][i]:,.0f}" for i in (0, -1)]
        lines.append(f"| {row['shape']} | {ends[0]} | {ends[1]} | {row['slope']:.2f} | {row['commit']} |")
    picture = [f"![Seconds against rows, width, classes and configurations]({figure.name})", ""]
    return "\n".join([*(picture if figure.is_file() else []), *lines])


def steps(folder: Path) -> str:
    """Return the table of the adapter's step against its floor, and what the grid of fits showed, as Markdown."""
    rows = _last_run(rows_of(folder, "steps"))
    if not rows:
        return f"Steps: {NOT_MEASURED}."
    lines = [
        "| step of | runs as | peak, products: GFLOP/s | floor: products, softmax, update | measured "
        "| fraction (wanted) | fit against the straight loop | set-up | commit |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        short = row["wanted_fraction"] is not None and row["fraction"] < row["wanted_fraction"]
        wanted = f"{row['fraction']:.2f} ({row['wanted_fraction']}){': missed' if short else ''}"
        threads = "one thread" if row["threads"] == 1 else f"{row['threads']} threads"
        parts = ", ".join(
            f"{row[f'{part}_ms']:.2f}" for part in ("products", "softmax", "update") if f"{part}_ms" in row
        )
        lines.append(
            f"| {row['shape'].removeprefix('step ').replace('x', ' x ')} | {row['dtype']}, {row['kernel']}, {threads} "
            f"| {row['peak_gflops']:.0f}, {row['products_gflops']:.0f} "
            f"| {row['floor_ms']:.2f} ms{f': {parts}' if parts else ''} | {row['step_ms']:.2f} ms | {wanted} "
            f"| {row['ratio']:.2f}x ({row['ratio_low']:.2f} to {row['ratio_high']:.2f}) "
            f"| {row['set_up_ms']:.0f} ms | {row['commit']} |"
        )
    lines += ["", f"Measured on {_machine(rows[0])}."]
    fits = _last_run(rows_of(folder, "step_grid"))
    if fits:
        slower = [row for row in fits if row["ratio_high"] < 1]
        ratios = sorted(row["ratio"] for row in fits)
        lines += [
            "",
            f"Fits of {len(fits)} shapes ({fits[0]['steps']} steps each, commit {fits[0]['commit']}): "
            f"the straight loop takes {ratios[0]:.2f} to {ratios[-1]:.2f} times as long, "
            f"{ratios[len(ratios) // 2]:.2f} in the middle; "
            f"slower than it, by the upper 95 % bound: {len(slower)}"
            + "".join(f"; {row['shape'].removeprefix('fit ')} ({row['ratio']:.2f}x)" for row in slower)
            + ".",
        ]
    return "\n".join(lines)


def class_weights(folder: Path) -> str:
    """Return the table of the methods that train class weights, against their floor and the plain loop, as Markdown."""
    rows = _last_run(rows_of(folder, "class_weights"))
    if not rows:
        return f"Class weights: {NOT_MEASURED}."
    lines = [
        "| method | shape | products in | products: ms, GFLOP/s (peak) | floor | measured | fraction (wanted) "
        "| fit against the plain loop | commit |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        missed = ": missed" if row["fraction"] < row["wanted_fraction"] else ""
        slower = ": slower" if row["ratio_high"] < 1 else ""
        lines.append(
            f"| {row['method']} | {row['shape']} | {row['dtype']} | {row['products_ms']:.2f}, "
            f"{row['products_gflops']:.0f} ({row['peak_gflops']:.0f}) | {row['floor_ms']:.2f} ms "
            f"| {row['step_ms']:.2f} ms | {row['fraction']:.2f} ({row['wanted_fraction']:.2f}){missed} "
            f"| {row['ratio']:.2f}x ({row['ratio_low']:.2f} to {row['ratio_high']:.2f}){slower} | {row['commit']} |"
        )
    return "\n".join([*lines, "", f"Measured on {_machine(rows[0])}."])


def slower(folder: Path) -> list[str]:
    """Say what is slower than the straight loop in the newest runs, by the upper 95 % bound of the ratio."""
    rows = [row for name in ("steps", "step_grid", "class_weights") for row in _last_run(rows_of(folder, name))]
    return [
        f"{row['shape']} is slower than the straight loop: {row['ratio']:.2f}x, at most {row['ratio_high']:.2f}"
        for row in rows
        if row.get("ratio_high", math.inf) < 1
    ]


def _last_run(rows: list[Row]) -> list[Row]:
    last = max((str(row["time"]) for row in rows), default="")
    return [row for row in rows if str(row["time"]) == last]


def put_between(text: str, name: str, content: str) -> str:
    """Put content between the markers ``<!-- name -->`` and ``<!-- /name -->``.

    Raises
    ------
    ValueError
        If the text has not exactly one pair of them.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ValueError(f"the text needs one pair of markers {start} and {end}")
    before, rest = text.split(start)
    return f"{before}{start}\n{content}\n{end}{rest.split(end)[1]}"
