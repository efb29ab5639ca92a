"""`auto` beside zero-shot and single methods, with oracle settings and with fixed ones (docs/auto.md has the tables).

    CAFE_REAL_DATA=... python benchmarks/studies/auto_study.py [singles] [auto] [tables] develop|seen|final [--only X]
    CAFE_REAL_DATA=... python benchmarks/studies/auto_study.py seconds

auto_tasks.py says what the three parts are. ``singles`` fits every setting of the single methods on every task,
``auto`` fits auto; both append rows to results/auto_study.jsonl, and ``tables`` reads the newest row of each.
``seconds`` fits auto on 16,000 rows of 1,000 classes, drawn around ImageNet's; wall-clock time wants a quiet machine.

A cell is a data set and a number of shots: means over its draws. "Oracle" is the method and setting that is best on the
cell's test rows, which nobody can know; "fixed" is one setting for all cells. Zero-shot's paired standard error is that
of the mean over test rows of the difference in accuracy, draws averaged first where they share test rows.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import auto_tasks
import numpy as np
from harness import RESULTS, imagenet_shape, parse, report

import cafe
from cafe.evaluation.metrics import expected_calibration_error

# The settings that a user might fix, and that an oracle chooses from.
SINGLES: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "gda": (cafe.GDA, [{"alpha": a} for a in cafe.GDA.grid["alpha"]]),
    "task-res": (cafe.TaskRes, [{"alpha": a, "random_state": 1} for a in (0.1, 0.5, 1.0)]),
    "clip-adapter": (cafe.CLIPAdapter, [{"alpha": a, "random_state": 1} for a in (0.2, 0.6)]),
    "lp++": (cafe.LPPlusPlus, [{"iterations": i} for i in (10, 50, 100, 300)]),
    "tip-adapter": (cafe.TipAdapter, [{"alpha": a, "beta": b} for a in (0.5, 1.17, 3.0) for b in (1.0, 5.5)]),
}
STEPS, PARTS = ("singles", "auto", "tables"), ("develop", "seen", "final")
Row = dict[str, Any]


def singles(task: auto_tasks.Task) -> Row:
    """Fit zero-shot and every setting of every single method: accuracy and ECE of each."""
    own = {"class_embeddings": task.text, "logit_scale": task.logit_scale}
    fits = {"zero-shot": measured(cafe.ZeroShot(**own).fit(task.X, task.y), task)}
    for method, (make, settings) in SINGLES.items():
        grid = cafe.fit_many(task.X, task.y, [make(**setting, **own) for setting in settings])
        for setting, fit in zip(settings, grid, strict=True):
            shown = [f"{name} {value:g}" for name, value in setting.items() if name != "random_state"]
            fits[", ".join([method, *shown])] = measured(fit, task)
    return {"fits": fits}


def auto(task: auto_tasks.Task) -> Row:
    """Fit auto, and compare it with zero-shot row by row."""
    own = {"class_embeddings": task.text, "logit_scale": task.logit_scale}
    start = time.process_time()
    model = cafe.Auto(random_state=1, **own).fit(task.X, task.y)
    seconds = time.process_time() - start
    plain = cafe.ZeroShot(**own).fit(task.X, task.y)
    after, before = (m.predict(task.X_test) == task.y_test for m in (model, plain))
    difference = after.astype(float) - before
    more = {"core_seconds": round(seconds, 2), "difference_std": round(float(difference.std()), 4)}
    return {"fits": {"auto": measured(model, task)}, **more, "chosen": model.row_extras()["auto"]}


def measured(fit: Any, task: auto_tasks.Task) -> tuple[float, float]:
    """Return accuracy and ECE on the test rows."""
    ece = expected_calibration_error(fit.predict_proba(task.X_test), task.y_test)
    return round(float(fit.score(task.X_test, task.y_test)), 6), round(ece, 5)


def read(part: str) -> dict[tuple[str, int], dict[str, dict[int, Row]]]:
    """Return the newest row of every cell, step and draw."""
    cells: dict[tuple[str, int], dict[str, dict[int, Row]]] = {}
    for line in (RESULTS / "auto_study.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["part"] == part:
            cells.setdefault((row["dataset"], row["shots"]), {}).setdefault(row["step"], {})[row["draw"]] = row
    return cells


def means(draws: dict[int, Row]) -> dict[str, tuple[float, float]]:
    """Return accuracy, in per cent, and ECE of every fit of a cell, means over draws."""
    labels = next(iter(draws.values()))["fits"]
    found = {label: np.mean([row["fits"][label] for row in draws.values()], axis=0) for label in labels}
    return {label: (100 * float(accuracy), float(ece)) for label, (accuracy, ece) in found.items()}


def oracle(part: str) -> dict[tuple[str, int], float]:
    """Return the accuracy, in per cent, of the best single method and setting of every cell."""
    return {cell: max(a for a, _ in means(steps["singles"]).values()) for cell, steps in read(part).items()}


def tables(part: str) -> None:
    """Print the table of cells, and how it stands with the goals."""
    print("| cell | zero-shot | auto | best single, oracle | behind | to zero-shot (error) | ECE zero-shot, auto | s |")
    print("| --- " * 8 + "|")
    behind, worse, uncalibrated = [], [], []
    everywhere: dict[str, list[float]] = {}
    for (dataset, shots), steps in read(part).items():
        if len(steps) < 2:
            print(f"| {dataset}, {shots} | not measured by both steps |" + " |" * 6)
            continue
        found, autos = means(steps["singles"]), steps["auto"]
        best = max(found, key=lambda label: found[label][0])
        own, plain, gap = means(autos)["auto"], found["zero-shot"], found[best][0] - means(autos)["auto"][0]
        # Draws share their test rows, so they do not make the error smaller; groups of classes have rows of their own.
        n = sum(row["n_test"] for row in autos.values()) / (1 if dataset.startswith("ImageNet") else len(autos))
        error = 100 * float(np.mean([row["difference_std"] for row in autos.values()])) / np.sqrt(n)
        seconds = np.mean([row["core_seconds"] for row in autos.values()])
        name = f"{dataset}, {shots}"
        behind.append(gap)
        if own[0] - plain[0] < -max(0.3, error):
            worse.append(name)
        if own[1] > plain[1] + 0.01:
            uncalibrated.append(name)
        print(
            f"| {name} | {plain[0]:.2f} | {own[0]:.2f} | {found[best][0]:.2f} {best} | {gap:+.2f} "
            f"| {own[0] - plain[0]:+.2f} ({error:.2f}) | {plain[1]:.3f}, {own[1]:.3f} | {seconds:.1f} |"
        )
        for label, (accuracy, _) in {**found, "auto": own}.items():
            everywhere.setdefault(label, []).append(accuracy)
    averages = {label: float(np.mean(values)) for label, values in everywhere.items()}
    ranked = sorted(averages, key=lambda label: -averages[label])
    print(f"\nworse than zero-shot: {worse or 'nowhere'}; ECE more than 0.01 above: {uncalibrated or 'nowhere'}")
    print(f"behind the oracle's best single method, mean of {len(behind)} cells: {np.mean(behind):.2f}")
    print("means: " + "; ".join(f"{label} {averages[label]:.2f}" for label in ranked[:8]))


def seconds() -> None:
    """Time a fit of 1,000 classes x 16 shots, and see that it learned."""
    X, y, X_test, y_test, text = imagenet_shape()
    cafe.Auto(text[:2], random_state=1).fit(X[:2], y[:2])  # what is imported and compiled once
    core, wall = time.process_time(), time.perf_counter()
    model = cafe.Auto(text, random_state=1).fit(X, y)
    core, wall = time.process_time() - core, time.perf_counter() - wall
    gain = float(model.score(X_test, y_test) - cafe.ZeroShot(text).fit(X, y).score(X_test, y_test))
    assert gain > 0, "auto learned nothing from 16 shots"
    report("auto_seconds", None, [{"rows": len(y), "core_seconds": core, "seconds": wall, "accuracy_gain": gain}])


def main() -> None:
    """Run the steps named on the parts named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", choices=[*STEPS, *PARTS, "seconds", []], metavar="STEP|PART")
    parser.add_argument("--only", help="one data set")
    given = parse(parser, {"words": ["singles", "auto", "tables", "develop"], "only": None})
    if "seconds" in given.words:
        seconds()
        return
    only = given.only
    steps = [word for word in given.words if word in STEPS] or list(STEPS)
    for part in [word for word in given.words if word in PARTS] or ["develop"]:
        if steps != ["tables"]:
            for task in getattr(auto_tasks, part)():
                where = {"part": part, "dataset": task.dataset, "shots": task.shots, "draw": task.draw}
                for step in (singles, auto):
                    if step.__name__ in steps and only in (None, task.dataset):
                        row = {**where, "step": step.__name__, "n_test": len(task.y_test), **step(task)}
                        report("auto_study", None, [row])
        if "tables" in steps:
            tables(part)


if __name__ == "__main__":
    main()
