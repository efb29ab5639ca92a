"""`auto` beside zero-shot and single methods, with oracle settings and with fixed ones (docs/auto.md has the tables).

    CAFE_REAL_DATA=... python benchmarks/auto_study.py [singles] [auto] [tables] develop|seen|final

benchmarks/auto_tasks.py says what the three parts are. ``singles`` fits every setting of the single methods on every
task, ``auto`` fits auto; both append rows to results/auto_study.jsonl, and ``tables`` reads the newest row of each.

A cell is a data set and a number of shots: means over its draws. "Oracle" is the method and setting that is best on the
cell's test rows, which nobody can know; "fixed" is one setting for all cells. Zero-shot's paired standard error is that
of the mean over test rows of the difference in accuracy, draws averaged first where they share test rows.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import auto_tasks
import numpy as np
from harness import RESULTS, report

import cafe
from cafe.metrics import expected_calibration_error

# The settings that a user might fix, and that an oracle chooses from.
SINGLES: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "gda": (cafe.GDA, [{"alpha": a} for a in cafe.GDA.grid["alpha"]]),
    "task-res": (cafe.TaskRes, [{"alpha": a, "random_state": 1} for a in (0.1, 0.5, 1.0)]),
    "clip-adapter": (cafe.CLIPAdapter, [{"alpha": a, "random_state": 1} for a in (0.2, 0.6)]),
    "lp++": (cafe.LPPlusPlus, [{"iterations": i} for i in (10, 50, 100, 300)]),
    "tip-adapter": (cafe.TipAdapter, [{"alpha": a, "beta": b} for a in (0.5, 1.17, 3.0) for b in (1.0, 5.5)]),
}
Row = dict[str, Any]


def singles(task: auto_tasks.Task) -> Iterator[Row]:
    """Fit zero-shot and every setting of every single method."""
    own = {"class_embeddings": task.text, "logit_scale": task.logit_scale}
    yield row_of("zero-shot", {}, cafe.ZeroShot(**own).fit(task.X, task.y), task)
    for method, (make, settings) in SINGLES.items():
        fits = cafe.fit_many(task.X, task.y, [make(**setting, **own) for setting in settings])
        for setting, fit in zip(settings, fits, strict=True):
            shown = {name: value for name, value in setting.items() if name != "random_state"}
            yield row_of(method, shown, fit, task)


def auto(task: auto_tasks.Task) -> Iterator[Row]:
    """Fit auto, and compare it with zero-shot row by row."""
    own = {"class_embeddings": task.text, "logit_scale": task.logit_scale}
    start = time.process_time()
    model = cafe.Auto(random_state=1, **own).fit(task.X, task.y)
    seconds = time.process_time() - start
    plain = cafe.ZeroShot(**own).fit(task.X, task.y)
    gained, before = (m.predict(task.X_test) == task.y_test for m in (model, plain))
    difference = gained.astype(float) - before
    more = {"core_seconds": seconds, "difference": difference.mean(), "difference_std": difference.std()}
    yield {**row_of("auto", {}, model, task), **more, **model.row_extras()["auto"]}


def row_of(method: str, setting: Row, fit: Any, task: auto_tasks.Task) -> Row:
    """Measure one fit."""
    return {
        "dataset": task.dataset,
        "shots": task.shots,
        "draw": task.draw,
        "method": method,
        "setting": ", ".join(f"{name} {value:g}" for name, value in setting.items()),
        "n_test": len(task.y_test),
        "accuracy": float(fit.score(task.X_test, task.y_test)),
        "ece": expected_calibration_error(fit.predict_proba(task.X_test), task.y_test),
    }


def tables(part: str) -> None:
    """Print the table of cells, and how it stands with the goals."""
    cells: dict[tuple[str, int], dict[tuple[str, str], dict[int, Row]]] = {}
    for line in (RESULTS / "auto_study.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["part"] == part:
            cell = cells.setdefault((row["dataset"], row["shots"]), {})
            cell.setdefault((row["method"], row["setting"]), {})[row["draw"]] = row
    print("| cell | zero-shot | auto | best single, oracle | behind | zero-shot +- | ECE zero-shot, auto | core s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    behind, worse, uncalibrated = [], [], []
    means: dict[tuple[str, str], list[float]] = {}
    for (dataset, shots), cell in cells.items():
        found = {key: 100 * mean_of(draws, "accuracy") for key, draws in cell.items()}
        for key, accuracy in found.items():
            means.setdefault(key, []).append(accuracy)
        own, plain = found.pop(("auto", "")), found[("zero-shot", "")]
        best = max(found, key=lambda key: found[key])
        autos = cell[("auto", "")]
        # Draws mostly share their test rows, so they do not make the error smaller; groups of classes do not.
        groups = len(autos) if dataset.startswith("ImageNet") else 1
        error = 100 * mean_of(autos, "difference_std") / np.sqrt(groups * next(iter(autos.values()))["n_test"])
        eces = [mean_of(cell[key], "ece") for key in (("zero-shot", ""), ("auto", ""))]
        behind.append(found[best] - own)
        name = f"{dataset}, {shots}"
        if own - plain < -max(0.3, error):
            worse.append(name)
        if eces[1] > eces[0] + 0.01:
            uncalibrated.append(name)
        print(
            f"| {name} | {plain:.2f} | {own:.2f} | {found[best]:.2f} {' '.join(best)} | {found[best] - own:+.2f} "
            f"| {own - plain:+.2f} ({error:.2f}) | {eces[0]:.3f}, {eces[1]:.3f} "
            f"| {mean_of(autos, 'core_seconds'):.1f} |"
        )
    averages = {key: float(np.mean(values)) for key, values in means.items()}
    ranked = sorted(averages, key=lambda key: -averages[key])
    print(f"\nworse than zero-shot: {worse or 'nowhere'}; ECE more than 0.01 above: {uncalibrated or 'nowhere'}")
    print(f"behind the oracle's best single method, mean of {len(behind)} cells: {np.mean(behind):.2f}")
    print("means: " + "; ".join(f"{' '.join(key).strip()} {averages[key]:.2f}" for key in ranked[:8]))


def mean_of(draws: dict[int, Row], name: str) -> float:
    """Average over draws."""
    return float(np.mean([row[name] for row in draws.values()]))


def main() -> None:
    """Run the steps named on the parts named."""
    steps = [word for word in sys.argv[1:] if word in ("singles", "auto", "tables")] or ["singles", "auto", "tables"]
    for part in [word for word in sys.argv[1:] if word in ("develop", "seen", "final")] or ["develop"]:
        if steps != ["tables"]:
            for task in getattr(auto_tasks, part)():
                found = [*(singles(task) if "singles" in steps else ()), *(auto(task) if "auto" in steps else ())]
                report("auto_study", None, [{"part": part, **row} for row in found])
        if "tables" in steps:
            tables(part)


if __name__ == "__main__":
    main()
