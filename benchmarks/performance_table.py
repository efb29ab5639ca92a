"""From the rows of results/ to the tables of docs/performance.md.

Every processor has tables of its own, that of the newest run first, and of every entry the newest run on it counts: a
ratio or a share of a floor on one processor says nothing about another. A row whose kernel is Triton ran on a GPU; all
others are the CPU's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import markdown, rows_of

Row = Mapping[str, Any]
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Entry:
    """A line of the table.

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
        "accuracy {cafe_acc1_16_shots:.2f} against {straight_acc1_16_shots:.2f}",
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


HEAD = (
    "what", "against", "peak, GFLOP/s", "floor", "measured", "fraction (wanted)", "ratio (wanted)", "commit", "one GPU",
)  # fmt: skip


def newest(rows: Iterable[Row], shape: str, gpu: bool) -> Row | None:
    """Return the first row of the newest run of a shape; a run's first row is what ran by default."""
    fitting = [r for r in rows if str(r["shape"]).startswith(shape) and (r.get("kernel") == "triton") == gpu]
    if not fitting:
        return None
    last = max(str(row["time"]) for row in fitting)
    return next(row for row in fitting if row["time"] == last)


def said(row: Row | None, note: str = "") -> str:
    """Say the ratio, what was wanted, and whether it fell short."""
    if row is None:
        return NOT_MEASURED
    target, ratio = row["target"], row["ratio"]
    text = f"{ratio:.0f}x" if ratio >= 100 else f"{ratio:.1f}x"
    if target is not None:
        text += f" ({target:g}x)" + (": missed" if ratio < target else "")
    try:
        return f"{text}, {note.format(**row)}" if note else text
    except KeyError:  # a row from before a field was reported
        return text


def floor_of(row: Row) -> tuple[str, str, str]:
    """Return peak, floor and share of the floor as they stand in the table, "-" where a benchmark has none.

    A row with a rate but no floor has that of its products at the peak's rate.
    """
    share = row.get("fraction", row.get("fraction_of_peak"))
    if share is None:
        return "-", "-", "-"
    floor = row.get("floor_seconds", row["cafe_seconds"] * share)
    wanted = row.get("wanted_fraction")
    missed = "" if wanted is None else f" ({wanted:g})" + (": missed" if share < wanted else "")
    peak = f"{row['peak_gflops']:.0f}" if "peak_gflops" in row else "-"
    return peak, f"{floor:.3g} s", f"{share:.2f}{missed}"


def table(folder: Path, entries: Iterable[Entry] = ENTRIES) -> str:
    """Return the table of claims as Markdown, one for each processor."""
    entries = list(entries)
    rows = {entry: rows_of(entry.benchmark, folder) for entry in entries}
    of_cpus = [row for of_entry in rows.values() for row in of_entry if row.get("kernel") != "triton"]

    def one_table(machine: str | None) -> str:
        lines = []
        for entry, of_entry in rows.items():
            cpu = newest([row for row in of_entry if processor_of(row) == machine], entry.shape, False)
            if cpu is None and machine is not None:
                continue
            against = entry.against.format(**cpu) if cpu else entry.against.split(", in {")[0]
            measured = f"{cpu['cafe_seconds']:.3g} s" if cpu and "cafe_seconds" in cpu else ""
            peak, floor, share = floor_of(cpu) if cpu else ("", "", "")
            wanted = f" ({entry.wanted:g}x)" if cpu is None and entry.wanted else ""
            ratio, commit = said(cpu, entry.note) + wanted, cpu["commit"] if cpu else ""
            gpu = said(newest(of_entry, entry.shape, True))
            lines.append([entry.what, against, peak, floor, measured, share, ratio, commit, gpu])
        return markdown(HEAD, lines)

    machines = list(by_processor(of_cpus))
    if not machines:
        return one_table(None)
    return "\n\n".join("\n".join([_heading(of_cpus, machine), "", one_table(machine)]) for machine in machines)


def processor_of(row: Row) -> str:
    """Return the name of the processor on which a row was measured."""
    units = row["bfloat16_units"]
    own = "AMX" if units["amx"] else "AVX512-BF16" if units["avx512_bf16"] else "no bfloat16 units"
    # Rows of before this was written down have no family and model.
    told = ", ".join(word for word in (row.get("processor"), own) if word)
    return f"{row['device']} ({told})"


def by_processor(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the rows of each processor, oldest first; the processor of the newest row first."""
    machines: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: str(row["time"])):
        machines.setdefault(processor_of(row), []).append(row)
    return dict(sorted(machines.items(), key=lambda each: str(each[1][-1]["time"]), reverse=True))


def _heading(rows: Iterable[Row], machine: str) -> str:
    """Return the sentence above a processor's table, with threads and libraries of its newest row."""
    last = by_processor(rows)[machine][-1]
    threads = "one thread" if last["cores"] == 1 else f"{last['cores']} threads"
    return f"On {threads} of {machine}, torch {last['torch']}, scikit-learn {last['sklearn']}:"


def each_processor(
    rows: list[Row], draw: Callable[[list[Row]], str], newest_of: Callable[[list[Row]], list[Row]] | None = None
) -> str:
    """Return what ``draw`` makes of each processor's newest rows, under a sentence that names the processor.

    The newest are those of its last run, or what ``newest_of`` takes.
    """
    taken = newest_of or _last_run
    parts = [
        "\n".join([_heading(rows, machine), "", draw(taken(of_machine))])
        for machine, of_machine in by_processor(rows).items()
    ]
    return "\n\n".join(parts)


def time_to_accuracy(folder: Path) -> str:
    """Return the table of seconds to the mark as Markdown."""
    rows = rows_of("time_to_accuracy", folder)

    head = ("data", "mark", "released: seconds, steps", "default: seconds, steps", "ratio", "full lengths", "commit")

    def one_table(of_machine: list[Row]) -> str:
        lines = []
        for row in of_machine:
            passed = f"{row['default_seconds']:.2f}, {row['default_steps']}" if row["default_passed"] else "not reached"
            full = (
                f"{row['released_full_acc1']:.2f} in {row['released_full_seconds']:.1f} s against "
                f"{row['default_full_acc1']:.2f} in {row['default_full_seconds']:.1f} s"
            )
            released = f"{row['released_seconds']:.2f}, {row['released_steps']}"
            ratio = f"{row['ratio']:.1f}x"
            lines.append([row["shape"], f"{row['mark']:.2f}", released, passed, ratio, full, row["commit"]])
        return markdown(head, lines)

    def last_of_each(of_machine: list[Row]) -> list[Row]:
        return list({row["shape"]: row for row in of_machine}.values())

    return each_processor(rows, one_table, last_of_each) or f"Time to accuracy: {NOT_MEASURED}."


def scaling(folder: Path, figure: Path) -> str:
    """Return the slopes as Markdown, with the figure of the newest run where there is one."""
    rows = rows_of("scaling", folder)

    def one_table(of_machine: list[Row]) -> str:
        lines = []
        for row in of_machine:
            ends = [f"{row['seconds'][i]:.3g} s at {row['at'][i]:,.0f}" for i in (0, -1)]
            lines.append([row["shape"], *ends, f"{row['slope']:.2f}", row["commit"]])
        return markdown(["seconds of", "from", "to", "slope", "commit"], lines)

    if not rows:
        return f"Scaling: {NOT_MEASURED}."
    picture = [f"![Seconds against rows, width, classes and configurations]({figure.name})", ""]
    return "\n".join([*(picture if figure.is_file() else []), each_processor(rows, one_table)])


def steps(folder: Path) -> str:
    """Return the table of the adapter's step against its floor, and what the grid of fits showed, as Markdown."""
    fits = by_processor(rows_of("step_grid", folder))

    head = (
        "step of", "runs as", "peak, products: GFLOP/s", "floor: products, softmax, update", "measured",
        "fraction (wanted)", "fit against the straight loop", "set-up", "commit",
    )  # fmt: skip

    def one_table(of_machine: list[Row]) -> str:
        made = markdown(head, map(_step_cells, of_machine))
        grid = _last_run(fits.get(processor_of(of_machine[0]), []))
        return f"{made}\n\n{_grid_sentence(grid)}" if grid else made

    return each_processor(rows_of("steps", folder), one_table) or f"Steps: {NOT_MEASURED}."


def _step_cells(row: Row) -> list[str]:
    short = row["wanted_fraction"] is not None and row["fraction"] < row["wanted_fraction"]
    threads = "one thread" if row["threads"] == 1 else f"{row['threads']} threads"
    parts = ", ".join(f"{row[f'{part}_ms']:.2f}" for part in ("products", "softmax", "update") if f"{part}_ms" in row)
    return [
        row["shape"].removeprefix("step ").replace("x", " x "),
        f"{row['dtype']}, {row['kernel']}, {threads}",
        f"{row['peak_gflops']:.0f}, {row['products_gflops']:.0f}",
        f"{row['floor_ms']:.2f} ms{f': {parts}' if parts else ''}",
        f"{row['step_ms']:.2f} ms",
        f"{row['fraction']:.2f} ({row['wanted_fraction']}){': missed' if short else ''}",
        _interval(row),
        f"{row['set_up_ms']:.0f} ms",
        row["commit"],
    ]


def _interval(row: Row) -> str:
    """Return a ratio and its interval as they stand in the tables."""
    return f"{row['ratio']:.2f}x ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"


def _grid_sentence(fits: list[Row]) -> str:
    below = [row for row in fits if row["ratio_high"] < 1]
    ratios = sorted(row["ratio"] for row in fits)
    return (
        f"Fits of {len(fits)} shapes ({fits[0]['steps']} steps each, commit {fits[0]['commit']}): "
        f"the straight loop takes {ratios[0]:.2f} to {ratios[-1]:.2f} times as long, "
        f"{ratios[len(ratios) // 2]:.2f} in the middle; "
        f"slower than it, by the upper 95 % bound: {len(below)}"
        + "".join(f"; {row['shape'].removeprefix('fit ')} ({row['ratio']:.2f}x)" for row in below)
        + "."
    )


def step_parts(folder: Path) -> str:
    """Return where a step's processor time goes on one thread, as Markdown."""

    def one_table(of_machine: list[Row]) -> str:
        kinds = [name for name in of_machine[0]["milliseconds"] if name not in ("step", "floor")]
        lines = []
        for row in of_machine:
            spent = row["milliseconds"]
            shape, form = row["shape"].removeprefix("parts ").replace("x", " x "), f"{row['dtype']}, {row['kernel']}"
            numbers = [f"{spent.get(name, 0):.2f}" for name in (*kinds, "step", "floor")]
            lines.append([shape, form, *numbers, f"{spent['floor'] / spent['step']:.2f}", row["commit"]])
        return markdown(["ms of a step", "runs as", *kinds, "step", "floor", "fraction", "commit"], lines)

    return each_processor(rows_of("step_parts", folder), one_table) or f"Parts of a step: {NOT_MEASURED}."


def class_weights(folder: Path) -> str:
    """Return the table of the methods that train class weights, against their floor and the plain loop, as Markdown."""
    head = (
        "method", "shape", "products in", "products: ms, GFLOP/s (peak)", "floor", "measured", "fraction (wanted)",
        "fit against the plain loop", "commit",
    )  # fmt: skip

    def cells(row: Row) -> list[str]:
        missed = ": missed" if row["fraction"] < row["wanted_fraction"] else ""
        return [
            row["method"],
            row["shape"],
            row["dtype"],
            f"{row['products_ms']:.2f}, {row['products_gflops']:.0f} ({row['peak_gflops']:.0f})",
            f"{row['floor_ms']:.2f} ms",
            f"{row['step_ms']:.2f} ms",
            f"{row['fraction']:.2f} ({row['wanted_fraction']:.2f}){missed}",
            _interval(row) + (": slower" if row["ratio_high"] < 1 else ""),
            row["commit"],
        ]

    made = each_processor(rows_of("class_weights", folder), lambda of_machine: markdown(head, map(cells, of_machine)))
    return made or f"Class weights: {NOT_MEASURED}."


def slower(folder: Path) -> list[str]:
    """Say what is slower than the straight loop in the newest runs, by the upper 95 % bound of the ratio."""
    rows = [row for name in ("steps", "step_grid", "class_weights") for row in _last_run(rows_of(name, folder))]
    return [
        f"{row['shape']} is slower than the straight loop: {row['ratio']:.2f}x, at most {row['ratio_high']:.2f}"
        for row in rows
        if row.get("ratio_high", math.inf) < 1
    ]


def _last_run(rows: list[Row]) -> list[Row]:
    last = max((str(row["time"]) for row in rows), default="")
    return [row for row in rows if str(row["time"]) == last]
