"""Every method on three data sets by number of shots: the table of docs/methods.md and a figure of each method.

    CAFE_REAL_DATA=... python benchmarks/method_figures.py [measure] [draw] [--methods gda,clap] [--datasets digits]

``measure`` runs the suite ``methods`` on digits (``cafe:mini``), Caltech69 (ViT-B/32, text) and Flowers (ViT-B/32, no
text, so class means) at 1, 2, 4, 8 and 16 shots, draws 1, 2 and 3, and appends a row for each method, data set and
number of shots to results/method_figures.jsonl. Shots of Caltech69 and Flowers are drawn from the 16 published ones, so
their three draws are one at 16 shots, and only training seeds differ there. CoOp runs on digits, whose text tower comes
with cafe. ``draw`` takes the newest row of each and writes the table, between its two marks, and docs/figures. Seconds
are of one processor core, selection included.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import embedded, is_smoke, parse, put_between, report, rows_of

DOCS = Path(__file__).parents[1] / "docs"
FIGURES = DOCS / "figures"
SHOTS, SEEDS = (1, 2, 4, 8, 16), (1, 2, 3)
DATASETS = {"digits": "digits", "caltech69": "Caltech69", "flowers102": "Flowers, no text"}
# Zero-shot's line is drawn in all of them; without text it is class means.
REFERENCE = "zero-shot"
# They see all images that they are tested on at once.
TRANSDUCTIVE = ("stat-a", "trans-clip")
Table = dict[tuple[str, str, int], dict[str, Any]]


def measure(methods: Sequence[str], datasets: Sequence[str]) -> None:
    """Run every method on every data set; one set of rows at a time, so that what is done is kept."""
    import torch
    from real_features import caltech69, flowers

    from cafe.compare import compare
    from cafe.errors import InputError

    torch.set_num_threads(1)
    opened = {"digits": embedded, "caltech69": caltech69, "flowers102": flowers}
    for name in datasets:
        features = opened[name]()
        for method in methods:
            if method == "coop" and name != "digits":
                continue
            start = time.process_time()
            try:
                comparison = compare(
                    "methods",
                    [features],
                    shots=SHOTS[:1] if is_smoke() else SHOTS,
                    seeds=SEEDS,
                    methods=[method],
                    include=["coop"],
                )
            except InputError as error:
                print(f"{method} on {name}: {error}", flush=True)
                continue
            seconds = (time.process_time() - start) / len(comparison.rows)
            report("method_figures", None, gathered_rows(comparison.rows, name, method, seconds))


def gathered_rows(rows: Sequence[Mapping[str, Any]], dataset: str, method: str, seconds: float) -> list[dict[str, Any]]:
    """Gather the accuracies of each number of shots; zero-shot with text has a single row, at none."""
    # Without the lines of weighted templates, which the suite has where a class has several.
    own = [row for row in rows if row["params"].get("template_weights", "uniform") == "uniform"]
    own = [row for row in own if row["method"] in (method, "class-means")] or own
    gathered: dict[int, list[Mapping[str, Any]]] = {}
    for row in own:
        gathered.setdefault(row["shots"], []).append(row)
    return [
        {
            "dataset": dataset,
            "method": method,
            "shots": shots,
            "accuracies": [row["acc1"] for row in members],
            "accuracy": float(np.mean([row["acc1"] for row in members])),
            "ece": float(np.mean([row["ece"] for row in members])),
            "chosen_on": ", ".join(dict.fromkeys(row["chosen_on"] for row in members)),
            "core_seconds": seconds,
        }
        for shots, members in gathered.items()
    ]


def line_of(table: Table, dataset: str, method: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Return means and standard deviations over draws, in per cent, by number of shots."""
    if (fixed := table.get((dataset, method, 0))) is not None:
        return np.full(len(SHOTS), 100 * fixed["accuracy"]), np.zeros(len(SHOTS))
    rows = [table.get((dataset, method, k)) for k in SHOTS]
    if any(row is None for row in rows):
        return None
    values = [100 * np.array(row["accuracies"]) for row in rows if row is not None]
    return np.array([v.mean() for v in values]), np.array([v.std(ddof=1) for v in values])


def draw(methods: Sequence[str]) -> None:
    """Write a small figure for each method: its line over the grey ones of all others."""
    from matplotlib.figure import Figure

    rows = rows_of("method_figures")
    table = {(row["dataset"], row["method"], row["shots"]): row for row in rows}
    known = sorted({method for _, method, _ in table})
    folder = Path(tempfile.mkdtemp()) if is_smoke() else FIGURES
    folder.mkdir(exist_ok=True)
    for method in methods:
        if method not in known:
            continue
        figure = Figure(figsize=(6.6, 2.1), layout="constrained")
        for axes, (dataset, title) in zip(figure.subplots(1, len(DATASETS)), DATASETS.items(), strict=True):
            panel(axes, table, dataset, method, known)
            axes.set_title(title, fontsize=8)
        path = folder / f"{method}.png"
        figure.savefig(path, dpi=110)
        shrink(path)
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} kB", flush=True)
    page = DOCS / "methods.md"
    if is_smoke():
        print(table_of(table, known))
        return
    text = put_between(page.read_text(encoding="utf-8"), "method_figures.py", table_of(table, known))
    page.write_text(text, encoding="utf-8")


def table_of(table: Table, methods: Sequence[str]) -> str:
    """Write the table: a row for each method, accuracies in per cent of each data set by shots, best ones in bold."""
    head = ["method", *(f"{title} {k}" if k == SHOTS[0] else str(k) for title in DATASETS.values() for k in SHOTS)]
    lines = ["| " + " | ".join([*head, "chosen on", "s", "commit"]) + " |"]
    lines.append("|" + " --- |" + " ---: |" * (len(head) - 1) + " --- | ---: | --- |")
    best = {dataset: best_of(table, dataset, methods) for dataset in DATASETS}
    # Zero-shot first, as what the others are held against.
    for method in sorted(methods, key=lambda name: (name != REFERENCE, name)):
        cells, used = [method], []
        for dataset in DATASETS:
            line = line_of(table, dataset, method)
            if line is None:
                cells += ["" for _ in SHOTS]
                continue
            shown = [f"{value:.1f}" for value in line[0]]
            cells += [f"**{v}**" if v == top else v for v, top in zip(shown, best[dataset], strict=True)]
            used += [row for (d, m, _), row in table.items() if (d, m) == (dataset, method)]
        chosen = dict.fromkeys(word for row in used for word in row.get("chosen_on", "").split(", ") if word)
        commits = dict.fromkeys(row["commit"] for row in used)
        seconds = max(row["core_seconds"] for row in used)
        lines.append(f"| {' | '.join(cells)} | {', '.join(chosen)} | {seconds:.1f} | {', '.join(commits)} |")
    return "\n".join(lines)


def best_of(table: Table, dataset: str, methods: Sequence[str]) -> list[str]:
    """Return the best accuracy at each number of shots, as it is shown; transductive methods see more and are apart."""
    lines = [line_of(table, dataset, name) for name in methods if name not in TRANSDUCTIVE]
    return [f"{value:.1f}" for value in np.max([line[0] for line in lines if line is not None], axis=0)]


def panel(axes: Any, table: Table, dataset: str, method: str, known: Sequence[str]) -> None:
    """Draw one data set."""
    at = np.arange(len(SHOTS))
    lowest = 100.0
    for other in known:
        line = line_of(table, dataset, other)
        if line is None or other == method:
            continue
        if other == REFERENCE:
            axes.plot(at, line[0], color="black", linewidth=1, linestyle=(0, (4, 2)), zorder=3)
            lowest = min(lowest, line[0].min())
        else:
            axes.plot(at, line[0], color="0.8", linewidth=0.8, zorder=1)
    if (own := line_of(table, dataset, method)) is None:
        axes.text(
            0.5,
            0.5,
            "needs the text tower" if method == "coop" else "not measured",
            ha="center",
            va="center",
            fontsize=7,
            transform=axes.transAxes,
        )
    else:
        axes.errorbar(at, *own, color="#0b62a4", linewidth=1.6, marker="o", markersize=3, capsize=2, zorder=4)
        lowest = min(lowest, own[0].min())
    # Others may lie far below (a probe at one shot); the figure is of the method.
    axes.set_ylim(bottom=lowest - 3)
    axes.set_xticks(at, [str(k) for k in SHOTS])
    axes.tick_params(labelsize=7)
    axes.grid(axis="y", color="0.93", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def shrink(path: Path) -> None:
    """Keep 64 colours: a figure of lines needs no more, and the repository holds one per method."""
    from PIL import Image

    with Image.open(path) as image:
        image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Measure, draw, or both."""
    from cafe.methods import method_names

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="measure|draw", help="both by default")
    parser.add_argument("--methods", default="", help="comma-separated; all by default")
    parser.add_argument("--datasets", default=",".join(DATASETS), help="what to measure on")
    given = parse(parser, {"methods": "gda", "datasets": "digits"})
    methods = given.methods.split(",") if given.methods else method_names()
    steps = given.steps or ["measure", "draw"]
    if "measure" in steps:
        measure(methods, given.datasets.split(","))
    if "draw" in steps:
        draw(methods)


if __name__ == "__main__":
    main()
