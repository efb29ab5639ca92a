"""CLIP-Adapter's default recipe: every candidate of README.md beside zero-shot, and what the rule there chooses.

    CAFE_REAL_DATA=... python benchmarks/studies/recipe_study.py [built-on|looked-at-once|imagenet] [--only ...]
    python benchmarks/studies/recipe_study.py built-on|looked-at-once|imagenet --only none --into docs/methods.md

Appends a row for each cell to results/recipe_study.jsonl, and prints a table from the newest rows. In the first part
all candidates are fitted; in the others those that are named, which after the choice are "chosen" (the library's
default), "present" and "released" (the code's own settings).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from harness import commits_of, is_smoke, markdown, parse, report, rows_of, shown
from numpy.typing import NDArray
from tasks import PARTS, Cell, Task, paired_error

from cafe import CLIPAdapter, ZeroShot, fit_many
from cafe.evaluation.metrics import expected_calibration_error

BATCH, FOLDS, MOST_STEPS = 256, 4, 2000
# Of the released code's configuration.
RELEASED = {"optimizer": "sgd", "lr": 2e-3, "weight_decay": 5e-4, "batch_size": 32}


@dataclass(frozen=True)
class Candidate:
    """A recipe: the estimator for a task. ``constants`` and ``steps`` are how the rule breaks ties."""

    constants: int
    steps: int
    make: Callable[[Task], CLIPAdapter]


def adapter(task: Task, **settings: Any) -> CLIPAdapter:
    """Return the adapter at ratio 0.2 with the settings given."""
    return CLIPAdapter(task.text, alpha=0.2, random_state=task.seed, logit_scale=task.logit_scale, **settings)


def timed(task: Task, steps: int, decay: float) -> CLIPAdapter:
    """Return the adapter that is trained for so many steps with that decay."""
    # Half a step less than asked for: the trainer rounds up, and a whole number must not be passed by a last bit.
    epochs = (steps - 0.5) * min(BATCH, len(task.y)) / len(task.y)
    return adapter(task, epochs=epochs, weight_decay=decay)


def released(task: Task, form: str, most: int | None) -> CLIPAdapter:
    """Return the released settings, and at most so many steps."""
    epochs = 200.0 if most is None else min(200.0, most * min(32, len(task.y)) / len(task.y))
    return adapter(task, form=form, epochs=epochs, **RELEASED)


def by_evidence(task: Task, steps: int, factor: float, power: float) -> CLIPAdapter:
    """Return the adapter whose decay is factor (h + 1) / (m + 1) k^-power; letters in README.md."""
    hits = int(np.sum(ZeroShot(task.text, logit_scale=task.logit_scale).fit(task.X, task.y).predict(task.X) == task.y))
    rows = len(task.y) / len(np.unique(task.y))
    return timed(task, steps, factor * (hits + 1) / (len(task.y) - hits + 1) * rows**-power)


def held_out(task: Task) -> CLIPAdapter:
    """Return the adapter whose decay is the strongest within a standard error of the best on held-out shots."""
    decays = (1.0, 10.0, 100.0)
    if task.shots == 1:
        return timed(task, 313, decays[-1])
    fold = np.full(len(task.y), -1)
    for label in np.unique(task.y):
        own = np.random.default_rng(task.seed + label).permutation(np.flatnonzero(task.y == label))
        fold[own] = np.arange(len(own)) % min(FOLDS, task.shots)
    losses: NDArray[np.float64] = np.zeros((len(decays), len(task.y)))
    for part in range(min(FOLDS, task.shots)):
        kept, held = np.flatnonzero(fold != part), np.flatnonzero(fold == part)
        shorter = replace(task, X=task.X[kept], y=task.y[kept])
        fits = fit_many(shorter.X, shorter.y, [timed(shorter, 313, decay) for decay in decays])
        for i, fit in enumerate(fits):
            losses[i, held] = -np.log(np.maximum(fit.predict_proba(task.X[held]), 1e-12))[
                np.arange(len(held)), task.y[held]
            ]
    best = int(losses.mean(axis=1).argmin())
    errors = (losses - losses[best]).std(axis=1) / np.sqrt(len(task.y))
    level = [i for i in range(len(decays)) if losses[i].mean() - losses[best].mean() <= errors[i]]
    return timed(task, 313, decays[max(level)])


def candidates() -> dict[str, Candidate]:
    """Return the candidates that README.md names."""
    known = {
        "present": Candidate(4, 313, lambda task: timed(task, *((125, 10.0) if task.shots <= 2 else (313, 0.01)))),
        "held out": Candidate(5, 313, held_out),
    }
    for form, name in (("released", "released"), ("paper", "released, form paper")):
        known[name] = Candidate(0, 7000, lambda task, form=form: released(task, form, None))
        known[f"{name}, at most 2000 steps"] = Candidate(
            1, MOST_STEPS, lambda task, form=form: released(task, form, MOST_STEPS)
        )
    for steps, decay in ((125, 10.0), (125, 30.0), (313, 10.0), (313, 30.0), (313, 100.0)):
        known[f"{steps} steps, decay {decay:g}"] = Candidate(
            2, steps, lambda task, steps=steps, decay=decay: timed(task, steps, decay)
        )
    for steps in (125, 313):
        for factor in (1, 3, 10, 30):
            for power in (0, 1, 2):
                known[f"{steps} steps, evidence {factor}, power {power}"] = Candidate(
                    2 + (power > 0), steps, lambda task, s=steps, f=factor, p=power: by_evidence(task, s, f, p)
                )
    return known


def measured(cell: Cell, chosen: dict[str, Candidate]) -> dict[str, Any]:
    """Fit the candidates, and the default, on a cell: accuracy, ECE, difference to zero-shot and its paired error."""
    hits: dict[str, list[NDArray[np.bool_]]] = {}
    ece: dict[str, list[float]] = {}
    for draw in cell.draws:
        own: dict[str, list[NDArray[np.bool_]]] = {}
        for task in draw:
            models = {name: candidate.make(task) for name, candidate in chosen.items()} | {"chosen": adapter(task)}
            fits = dict(zip(models, fit_many(task.X, task.y, list(models.values())), strict=True))
            for name, fit in {
                "zero-shot": ZeroShot(task.text, logit_scale=task.logit_scale).fit(task.X, task.y),
                **fits,
            }.items():
                proba = fit.predict_proba(task.X_test)
                own.setdefault(name, []).append(proba.argmax(axis=1) == task.y_test)
                ece.setdefault(name, []).append(expected_calibration_error(proba, task.y_test))
        for name, parts in own.items():
            hits.setdefault(name, []).append(np.concatenate(parts))
    figures = {}
    plain = np.stack(hits["zero-shot"]).astype(float)
    for name, rows in hits.items():
        gain = np.stack(rows) - plain
        accuracy = float(np.mean(np.stack(rows)))
        figures[name] = [100 * accuracy, float(np.mean(ece[name])), 100 * float(gain.mean()), 100 * paired_error(gain)]
    text = cell.draws[0][0].text is not None
    return {"dataset": cell.dataset, "shots": cell.shots, "drawn": cell.drawn, "text": text, "fits": figures}


def read(part: str) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the newest row of a part for each (data set, shots), with candidates that only older rows have added."""
    newest_rows: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows_of("recipe_study"):
        if row.get("part") == part:
            older = newest_rows.get((row["dataset"], row["shots"]), {"fits": {}})
            newest_rows[row["dataset"], row["shots"]] = {**row, "fits": {**older["fits"], **row["fits"]}}
    return newest_rows


def excess(fit: list[float]) -> float:
    """Return by how much a candidate is further behind zero-shot than the bound of README.md allows."""
    return max(0.0, -fit[2] - max(0.3, 2 * fit[3]))


def table(rows: list[dict[str, Any]], part: str) -> None:
    """Print the recipes' gains of a part of the study, by data set or by cell, and the commits of the rows."""
    rows = [row for row in rows if row["text"]]
    (by_dataset if part in ("built-on", "screen") else by_cell)(rows)
    print(f"\n(commit {commits_of(rows)})")


def by_cell(rows: list[dict[str, Any]]) -> None:
    """Print every cell of every candidate."""
    names = [name for name in rows[0]["fits"] if all(name in row["fits"] for row in rows)]
    lines = [[name, *("{:.1f}".format(row["fits"][name][0]) for row in rows)] for name in names]
    print(markdown(["recipe", *("{dataset} {shots}".format(**row) for row in rows)], lines, right=True))


def by_dataset(rows: list[dict[str, Any]]) -> None:
    """Print means over data sets of the mean over their cells, with text alone, and what the rule chooses."""
    # The library's default, "chosen", changed while these rows were made; the candidates stand by their own names.
    names = [name for name in rows[0]["fits"] if name != "chosen" and all(name in row["fits"] for row in rows)]
    shots: dict[str, list[int]] = {}
    for row in rows:
        shots.setdefault(row["dataset"], []).append(row["shots"])
    lines = []
    for name in names:
        own = [np.mean([row["fits"][name][0] for row in rows if row["dataset"] == d]) for d in shots]
        beyond = [(row["dataset"], row["shots"], excess(row["fits"][name])) for row in rows]
        lines.append((float(np.mean(own)), name, own, [cell for cell in beyond if cell[2] > 0]))
    lines.sort(key=lambda line: -line[0])
    titles = [f"{dataset} ({', '.join(map(str, sorted(own)))})" for dataset, own in shots.items()]
    print(f"| candidate | mean | {' | '.join(titles)} | beyond the bound |")
    print(f"| --- |{' ---: |' * (len(titles) + 1)} --- |")
    for mean, name, own, beyond in lines:
        harm = "; ".join(f"{d}, {k}: {value:.2f}" for d, k, value in beyond) or "none"
        print(f"| {name} | {mean:.2f} | {' | '.join(f'{value:.1f}' for value in own)} | {harm} |")
    if (rule := candidates()) and set(rule) <= set(names):
        print(f"the rule chooses: {choice(lines, rule)}")


def choice(lines: list[tuple[float, str, Any, list[Any]]], known: dict[str, Candidate]) -> str:
    """Return what the rule of README.md chooses."""
    lines = [line for line in lines if line[1] in known]
    harmless = [line for line in lines if not line[3]]
    if not harmless:
        level = [line for line in lines if line[0] >= lines[0][0] - 0.3]
        return min(level, key=lambda line: sum(cell[2] for cell in line[3]))[1]
    equal = [line for line in harmless if line[0] >= harmless[0][0] - 0.1]
    return min(equal, key=lambda line: (known[line[1]].constants, known[line[1]].steps))[1]


def main() -> None:
    """Fit the chosen recipes on the cells of a part, record the rows, and print the part's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=list(PARTS), default="built-on")
    parser.add_argument("--dataset", help="data sets whose names hold this alone")
    parser.add_argument("--shots", help="numbers of shots, with commas between [default: all]")
    parser.add_argument("--screen", action="store_true", help="the first draw at 1, 4 and 16 (or 8) shots alone")
    parser.add_argument("--only", help="candidates, with semicolons between; 'none' prints the table alone")
    parser.add_argument("--into", type=Path, help="the page whose marked table is made again")
    given = parse(parser, {"part": "built-on", "only": "present;313 steps, evidence 10, power 1", "into": None})
    known = candidates()
    names = list(known) if given.only is None else [name for name in given.only.split(";") if name in known]
    rows = []
    if given.only != "none":
        for cell in PARTS[given.part]():
            if cell.draws[0][0].text is None or (given.dataset and given.dataset not in cell.dataset):
                continue
            if given.shots and str(cell.shots) not in given.shots.split(","):
                continue
            if given.screen and (cell.shots not in (1, 4, 16) and (cell.dataset, cell.shots) != ("photographs", 8)):
                continue
            if given.screen:
                cell = replace(cell, draws=cell.draws[:1])
            rows.append(
                {
                    "part": "screen" if given.screen else given.part,
                    **measured(cell, {name: known[name] for name in names}),
                }
            )
            report("recipe_study", None, rows[-1:], quiet=True)
    part = "screen" if given.screen else given.part
    shown_rows = rows if is_smoke() else list(read(part).values())
    shown(f"recipe_study.py {part}", given.into, lambda: table(shown_rows, part))


if __name__ == "__main__":
    main()
