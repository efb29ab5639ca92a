"""Cost against rows, width, classes and configurations, log-log, with fitted slopes and a figure.

    CAFE_REAL_DATA=... python benchmarks/bench_scaling.py [--largest 1280000] [--figure docs/scaling.png]

Rows: one scoring pass of zero-shot, one epoch of CLIP-Adapter, a linear probe of at most ten iterations at each C of
its way to 1, up to 327,680 rows (all three: every row once or a few times, slope 1), and a fit of the default recipe,
whose steps do not grow with the rows: slope 0 until reading and checking the rows costs more than training on some of
them. Width: a fit of the default recipe; products with text grow with d and those of the bottleneck with d^2, and so
the slope lies between. Classes: the same fit, and scoring; products with text are a part that grows with the classes
beside one that does not, and so the slope goes from 0 to 1. Configurations: a grid of that many fits of 20 steps each,
slope 1.

Features are drawn around real ImageNet classes (real text; beyond 1,000 classes, text between pairs of real vectors).
Above 64,000 rows those are repeated, and above 512 columns too, in another order: neither changes a cost. From
20,480 rows on features are float16, as the cache keeps them. A slope is fitted over the upper half of the points.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import drawn_like, parse, real_features, report, timed, unit

from cafe import CLIPAdapter, ZeroShot
from cafe.methods import fit_many
from cafe.solvers.logistic import logistic_path

ROWS = (1_000, 5_000, 20_480, 81_920, 327_680, 1_280_000)
WIDTHS, CLASSES = (512, 640, 768, 896, 1024), (10, 100, 1_000, 5_000, 20_000)
CONFIGURATIONS, GRID_STEPS = (1, 10, 100, 1_000), 20
BLOCK, DRAWN, SHORT, PROBE_ROWS = 8_192, 64_000, 20_000, 327_680

Line = tuple[list[float], list[float]]


class Data:
    """Rows and text of any size, drawn once."""

    def __init__(self, drawn: int) -> None:
        data = real_features("imagenet_vitb32")
        X = np.concatenate([data[f"features_{k}shot"] for k in (1, 2, 4)])
        y = np.concatenate([data[f"labels_{k}shot"] for k in (1, 2, 4)])
        self.X, self.y = drawn_like(X, y, drawn, seed=0)
        self.text = unit(data["text_features"].astype(np.float32))

    def rows(self, n: int, classes: int, width: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return n rows of that many classes (at most 1,000 of them different), and labels."""
        near = np.flatnonzero(self.y < classes)
        index = near[np.arange(n) % len(near)]
        X = self._widened(self.X, width)
        if n > SHORT:
            X = X.astype(np.float16)
        return X[index], self.y[index]

    def classes(self, c: int, width: int | None = None) -> np.ndarray:
        """Return text of c classes."""
        rng = np.random.default_rng(0)
        more = max(0, c - len(self.text))
        between = self.text[rng.integers(0, len(self.text), more)] + self.text[rng.integers(0, len(self.text), more)]
        text = unit(np.concatenate([self.text, between]))[:c]
        return self._widened(text, width)

    @staticmethod
    def _widened(rows: np.ndarray, width: int | None) -> np.ndarray:
        """Repeat columns in reverse order until rows have that width; None leaves them as they are."""
        more = 0 if width is None else width - rows.shape[1]
        return unit(np.concatenate([rows, rows[:, ::-1][:, :more]], axis=1)) if more else rows


def seconds_of(run: Callable[[], Any]) -> float:
    """Return the median of three runs after one; a run of more than three seconds is measured once."""
    first = timed(run)[0]
    return first if first > 3 else statistics.median(timed(run)[0] for _ in range(3))


def scored(model: ZeroShot, X: np.ndarray) -> int:
    """Score rows in blocks, as a cache is read."""
    return sum(int(model.predict(X[i : i + BLOCK]).sum()) for i in range(0, len(X), BLOCK))


def against_rows(data: Data, largest: int) -> dict[str, Line]:
    """Measure what grows with n, and what does not; 100 classes."""
    lines: dict[str, Line] = {}
    text = data.classes(100)
    for n in (n for n in ROWS if n <= largest):
        X, y = data.rows(n, 100)
        zero_shot = ZeroShot(text).fit(X[:200], y[:200])
        one_epoch = CLIPAdapter(text, epochs=1, random_state=1)
        default = CLIPAdapter(text, random_state=1)

        def probe(X: np.ndarray = X, y: np.ndarray = y) -> Any:
            return logistic_path(torch.from_numpy(X), y, 100, [1.0], tolerance=0.0, max_iter=10)

        for name, run in (
            ("zero-shot, one pass", lambda X=X, model=zero_shot: scored(model, X)),
            ("CLIP-Adapter, one epoch", lambda X=X, y=y, model=one_epoch: model.fit(X, y)),
            ("linear probe at C = 1", probe),
            ("CLIP-Adapter, default recipe", lambda X=X, y=y, model=default: model.fit(X, y)),
        ):
            if run is not probe or n <= PROBE_ROWS:
                add(lines, name, n, seconds_of(run))
    return lines


def against_width(data: Data, widths: Sequence[int]) -> dict[str, Line]:
    """Measure a fit of the default recipe on 1,600 rows of 100 classes."""
    lines: dict[str, Line] = {}
    for d in widths:
        X, y = data.rows(1_600, 100, d)
        model = CLIPAdapter(data.classes(100, d), random_state=1)
        add(lines, "CLIP-Adapter, default recipe", d, seconds_of(lambda X=X, y=y, model=model: model.fit(X, y)))
    return lines


def against_classes(data: Data, classes: Sequence[int]) -> dict[str, Line]:
    """Measure fifty steps of CLIP-Adapter, and scoring of 2,000 rows."""
    lines: dict[str, Line] = {}
    for c in classes:
        X, y = data.rows(2_000, min(c, len(data.text)))
        text = data.classes(c)
        adapter = CLIPAdapter(text, epochs=49.5 * 256 / len(X), random_state=1)
        zero_shot = ZeroShot(text).fit(X, y)
        add(lines, "CLIP-Adapter, 50 steps", c, seconds_of(lambda X=X, y=y, model=adapter: model.fit(X, y)))
        add(lines, "zero-shot, 2,000 rows", c, seconds_of(lambda X=X, model=zero_shot: model.predict(X)))
    return lines


def against_configurations(data: Data, configurations: Sequence[int]) -> dict[str, Line]:
    """Measure grids of CLIP-Adapter on 1,600 rows of 100 classes."""
    lines: dict[str, Line] = {}
    X, y = data.rows(1_600, 100)
    text, epochs = data.classes(100), (GRID_STEPS - 0.5) * 256 / 1_600
    for g in configurations:
        grid = [CLIPAdapter(text, alpha=0.1 + 0.8 * i / g, epochs=epochs, random_state=i) for i in range(g)]
        add(lines, f"CLIP-Adapter, {GRID_STEPS} steps each", g, seconds_of(lambda grid=grid: fit_many(X, y, grid)))
    return lines


def add(lines: dict[str, Line], name: str, at: float, seconds: float) -> None:
    """Append one point."""
    xs, ys = lines.setdefault(name, ([], []))
    xs.append(float(at))
    ys.append(seconds)


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the slope of log y over log x, by least squares over the upper half of the points."""
    half = len(x) // 2 if len(x) > 3 else 0
    return float(np.polyfit(np.log(x[half:]), np.log(y[half:]), 1)[0])


def draw(measured: dict[str, dict[str, Line]], path: Path) -> None:
    """Draw one panel for each quantity, in the colours of cafe's reports."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    from cafe.report.figure import LIGHT, MARKERS

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (quantity, lines) in zip(figure.subplots(2, 2).ravel(), measured.items(), strict=True):
        for (name, (x, y)), colour, marker in zip(lines.items(), LIGHT.lines, MARKERS, strict=False):
            axes.loglog(x, y, color=colour, marker=marker, markersize=5, label=f"{name}: slope {slope(x, y):.2f}")
        axes.set_title(f"Seconds against {quantity}", loc="left", color=LIGHT.ink)
        axes.grid(True, which="major", color=LIGHT.grid)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=LIGHT.muted)
        if quantity == "width":  # not even an octave: the widths themselves say more than powers of ten
            ticks = [int(d) for line in lines.values() for d in line[0]]
            axes.set_xticks(ticks, [str(d) for d in ticks])
            axes.xaxis.set_minor_locator(NullLocator())
        axes.legend(frameon=False, fontsize=8, labelcolor=LIGHT.ink)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print slopes, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=ROWS[-1])
    parser.add_argument("--figure", type=Path, default=Path(__file__).parents[1] / "docs" / "scaling.png")
    parser.add_argument("--widths", default=",".join(map(str, WIDTHS)))
    parser.add_argument("--classes", default=",".join(map(str, CLASSES)))
    parser.add_argument("--configurations", default=",".join(map(str, CONFIGURATIONS)))
    parser.add_argument("--drawn", type=int, default=DRAWN, help="different rows")
    smallest = {"largest": ROWS[0], "classes": "10,20", "configurations": "1,4", "drawn": 400}
    smallest |= {"widths": "256,320", "figure": Path(tempfile.gettempdir()) / "scaling-smoke.png"}
    arguments = parse(parser, smallest)
    lists = (arguments.widths, arguments.classes, arguments.configurations)
    widths, classes, configurations = ([int(value) for value in text.split(",")] for text in lists)
    data = Data(arguments.drawn)
    measured = {
        "rows": against_rows(data, arguments.largest),
        "width": against_width(data, widths),
        "classes": against_classes(data, classes),
        "configurations": against_configurations(data, configurations),
    }
    rows = [
        {"shape": f"{name} against {quantity}", "at": x, "seconds": y, "slope": slope(x, y), "dtype": "auto"}
        for quantity, lines in measured.items()
        for name, (x, y) in lines.items()
    ]
    report("scaling", None, rows)
    draw(measured, arguments.figure)


if __name__ == "__main__":
    main()
