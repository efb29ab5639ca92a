"""`auto` beside zero-shot, CLIP-Adapter's default and single methods, with oracle settings and with fixed ones.

    CAFE_REAL_DATA=... python benchmarks/studies/auto_study.py [built-on|looked-at-once|imagenet] [--steps auto,...]
    CAFE_REAL_DATA=... python benchmarks/studies/auto_study.py all --steps tables
    CAFE_REAL_DATA=... python benchmarks/studies/auto_study.py --steps attempts,seconds

README.md says what the parts are; docs/auto.md has the tables (``--into``). ``auto`` fits auto on all draws,
``adapter`` auto and CLIP-Adapter's default (what `cafe fit --variant image --alpha 0.2` is) on all draws, row by row,
``singles`` every setting of the single methods on the first two, and ``confidence`` multiplies auto's logits by a few
factors. Each appends a row for each cell to results/auto_study.jsonl, and ``tables`` reads the newest; ``all`` is the
tables of all three parts together, where ImageNet has no singles, and what the rule on confidence takes. ``attempts``
changes one constant of the design at a time, on what it was built on. ``seconds`` fits auto on 16,000 rows of 1,000
classes, drawn around ImageNet's; wall-clock time wants a quiet machine.

"Oracle" is the method and setting that is best on a cell's test rows, which nobody can know; "fixed" is one setting for
all cells. Both are compared on the draws that the single methods were fitted on.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from harness import commits_of, imagenet_shape, is_smoke, markdown, parse, report, rows_of, shown, timed
from tasks import PARTS, Cell, Task, paired_error

import cafe
from cafe.evaluation.metrics import expected_calibration_error
from cafe.methods.mixture import weights

# The settings that a user might fix, and that an oracle chooses from.
SINGLES: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "gda": (cafe.GDA, [{"alpha": a} for a in cafe.GDA.grid["alpha"]]),
    "task-res": (cafe.TaskRes, [{"alpha": a, "random_state": 1} for a in (0.1, 0.5, 1.0)]),
    "clip-adapter": (cafe.CLIPAdapter, [{"alpha": a, "random_state": 1} for a in (0.2, 0.6)]),
    "lp++": (cafe.LPPlusPlus, [{"iterations": i} for i in (100, 300)]),
    "tip-adapter": (cafe.TipAdapter, [{"alpha": a, "beta": b} for a in (0.5, 1.17, 3.0) for b in (1.0, 5.5)]),
    "proker": (cafe.ProKeR, [{}]),
}
# One constant of the design changed at a time.
ATTEMPTS: dict[str, dict[str, Any]] = {
    "as it stands": {},
    "text at the encoder's own scale": {"TEXT_SCALES": (-1e-6, 1e-6)},
    "no pull": {"STRENGTH": 0.0},
    "three times the pull": {"STRENGTH": 0.9},
    "pulled to the residual": {"CENTRE": (1.0, 0.0)},
    "pulled to twice the images": {"CENTRE": (1.0, 2.0)},
    "one shot: the residual alone": {"ONE_SHOT": 0.0},
    "one shot: twice the images": {"ONE_SHOT": 1.0},
}
SINGLE_DRAWS = 2
FACTORS = (1.0, 1.1, 1.2, 1.3, 1.4)
# By how much the mean loss of a factor may be above that of 1.
MOST_LOST = 0.01
Row = dict[str, Any]


def measured(fit: Any, task: Task) -> tuple[Any, float, float]:
    """Return whether each test row is right, the ECE, and the mean confidence."""
    proba = fit.predict_proba(task.X_test)
    right = proba.argmax(axis=1) == task.y_test
    return right, expected_calibration_error(proba, task.y_test), float(proba.max(axis=1).mean())


def zero_shot(task: Task, **own: Any) -> Any:
    """Fit zero-shot, which is class means where there is no text."""
    return cafe.ZeroShot(**own).fit(task.X, task.y)


def clip_adapter(task: Task, **own: Any) -> Any:
    """Fit CLIP-Adapter as `cafe fit --variant image --alpha 0.2` does."""
    return cafe.CLIPAdapter(variant="image", alpha=0.2, random_state=task.seed, **own).fit(task.X, task.y)


def auto(cell: Cell, other: str = "zero-shot", fit_other: Callable[..., Any] = zero_shot) -> Row:
    """Fit auto and another method on all draws of a cell; compare them row by row."""
    hits: dict[str, list[Any]] = {"auto": [], other: []}
    ece: dict[str, list[float]] = {"auto": [], other: []}
    sure: dict[str, list[float]] = {"auto": [], other: []}
    seconds = 0.0
    for draw in cell.draws:
        parts: dict[str, list[Any]] = {"auto": [], other: []}
        for task in draw:
            own = {"class_embeddings": task.text, "logit_scale": task.logit_scale}
            start = time.process_time()
            model = cafe.Auto(random_state=task.seed, **own).fit(task.X, task.y)
            seconds += time.process_time() - start
            for name, fit in (("auto", model), (other, fit_other(task, **own))):
                right, error, confidence = measured(fit, task)
                parts[name].append(right)
                ece[name].append(error)
                sure[name].append(confidence)
        for name, rows in parts.items():
            hits[name].append(np.concatenate(rows))
    gain = np.stack(hits["auto"]).astype(float) - np.stack(hits[other])
    return {
        "fits": {name: [100 * float(np.mean(hits[name])), float(np.mean(ece[name]))] for name in hits},
        "confidence": {name: 100 * float(np.mean(values)) for name, values in sure.items()},
        "on_first_draws": 100 * float(np.mean(hits["auto"][:SINGLE_DRAWS])),
        "error": 100 * paired_error(gain),
        "core_seconds": seconds / sum(len(draw) for draw in cell.draws),
        "chosen": model.row_extras()["auto"],
    }


def adapter(cell: Cell) -> Row:
    """Fit auto and CLIP-Adapter's default on all draws of a cell; compare them row by row."""
    return auto(cell, "clip-adapter", clip_adapter)


def singles(cell: Cell) -> Row:
    """Fit every setting of every single method on the first draws of a cell: accuracy and ECE of each."""
    results: dict[str, list[tuple[float, float, int]]] = {}
    for task in (task for draw in cell.draws[:SINGLE_DRAWS] for task in draw):
        own = {"class_embeddings": task.text, "logit_scale": task.logit_scale}
        fits = {"zero-shot": cafe.ZeroShot(**own).fit(task.X, task.y)}
        for method, (make, settings) in SINGLES.items():
            grid = cafe.fit_many(task.X, task.y, [make(**setting, **own) for setting in settings])
            for setting, fit in zip(settings, grid, strict=True):
                shown = [f"{name} {value:g}" for name, value in setting.items() if name != "random_state"]
                fits[", ".join([method, *shown])] = fit
        for label, fit in fits.items():
            right, error, _ = measured(fit, task)
            results.setdefault(label, []).append((float(np.mean(right)), error, len(right)))
    means = {}
    for label, values in results.items():
        accuracy, error, n = np.array(values).T
        means[label] = [100 * float(np.average(accuracy, weights=n)), float(np.mean(error))]
    return {"fits": means}


def confidence(cell: Cell) -> Row:
    """Multiply auto's logits by a few factors: ECE and negative log-likelihood of each, and the ECE of zero-shot."""
    results: dict[str, list[tuple[float, float]]] = {}
    for task in (task for draw in cell.draws for task in draw):
        own = {"class_embeddings": task.text, "logit_scale": task.logit_scale}
        proba = zero_shot(task, **own).predict_proba(task.X_test)
        results.setdefault("zero-shot", []).append((expected_calibration_error(proba, task.y_test), 0.0))
        logits = cafe.Auto(random_state=task.seed, **own).fit(task.X, task.y).logits(task.X_test).astype(np.float64)
        for factor in FACTORS:
            scaled = factor * (logits - logits.max(axis=1, keepdims=True))
            log_proba = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
            loss = float(-np.mean(log_proba[np.arange(len(log_proba)), task.y_test]))
            results.setdefault(f"{factor:g}", []).append(
                (expected_calibration_error(np.exp(log_proba), task.y_test), loss)
            )
    return {"fits": {label: np.mean(values, axis=0).tolist() for label, values in results.items()}}


def confidences(cells: dict[tuple[str, int], dict[str, Row]]) -> None:
    """Print what the rule of README.md looks at, over the cells of two shots and more, and what it takes."""
    rows = [steps["confidence"] for (_, shots), steps in cells.items() if shots > 1 and "confidence" in steps]
    if not rows:
        return
    results = {}
    for factor in FACTORS:
        ece, loss = np.array([row["fits"][f"{factor:g}"] for row in rows]).T
        beyond = int(np.sum(ece > np.array([row["fits"]["zero-shot"][0] for row in rows]) + 0.01))
        results[factor] = (beyond, float(ece.mean()), float(loss.mean()))
    head = ("logits times", f"cells of {len(rows)} beyond", "mean ECE", "mean loss")
    lines = [[f"{factor:g}", n, f"{ece:.4f}", f"{loss:.4f}"] for factor, (n, ece, loss) in results.items()]
    print(markdown(head, lines))
    fewest = min(FACTORS, key=lambda factor: results[factor][:2])
    lost = results[fewest][2] - results[1.0][2]
    taken = fewest if lost <= MOST_LOST else 1.0
    print(f"\nFewest beyond: {fewest:g}, whose loss is {lost:+.4f} on that of 1; the rule takes {taken:g}.")
    print(f"Rows of commits {commits_of(rows)}.")


STEPS: dict[str, Callable[[Cell], Row]] = {
    "auto": auto,
    "adapter": adapter,
    "singles": singles,
    "confidence": confidence,
}


def read(part: str) -> dict[tuple[str, int], dict[str, Row]]:
    """Return the newest row of every cell and step."""
    cells: dict[tuple[str, int], dict[str, Row]] = {}
    for row in rows_of("auto_study"):
        if part in (row.get("part"), "all") and "text" in row:
            cells.setdefault((row["dataset"], row["shots"]), {})[row["step"]] = row
    return cells


def by_dataset(cells: dict[tuple[str, int], dict[str, Row]]) -> None:
    """Print the means of each data set over its numbers of shots."""
    lines = []
    for dataset in sorted({name for name, _ in cells}):
        own = [(shots, steps) for (name, shots), steps in sorted(cells.items()) if name == dataset and "auto" in steps]
        means = [np.mean([steps["auto"]["fits"][method][0] for _, steps in own]) for method in ("zero-shot", "auto")]
        shown = [f"{value:.1f}" for value in means]
        adapters = [steps["adapter"]["fits"]["clip-adapter"][0] for _, steps in own if "adapter" in steps]
        # The mean of some of the cells would stand beside those of all.
        shown.insert(1, f"{np.mean(adapters):.1f}" if len(adapters) == len(own) else "")
        best = [max(v[0] for v in steps["singles"]["fits"].values()) for _, steps in own if "singles" in steps]
        behind = np.array(best) - [steps["auto"]["on_first_draws"] for _, steps in own if "singles" in steps]
        shown.append(f"{behind.mean():+.2f}" if len(best) else "")
        lines.append([dataset, ", ".join(str(shots) for shots, _ in own), *shown])
    print(markdown(["data set", "shots", "zero-shot", "CLIP-Adapter", "auto", "behind the oracle"], lines))


def by_cell(cells: dict[tuple[str, int], dict[str, Row]]) -> None:
    """Print the table of cells."""
    head = (
        "cell", "zero-shot", "auto", "gain (error)", "on CLIP-Adapter (error)", "best single, oracle", "behind",
        "ECE zero-shot, auto", "s",
    )  # fmt: skip
    lines = []
    for (dataset, shots), steps in cells.items():
        if "auto" not in steps:
            continue
        row, name = steps["auto"], f"{dataset}, {shots}"
        (own, own_ece), (plain, plain_ece) = row["fits"]["auto"], row["fits"]["zero-shot"]
        oracle, gap, lead = "", "", ""
        if "adapter" in steps:
            fits, error = steps["adapter"]["fits"], steps["adapter"]["error"]
            lead = f"{fits['auto'][0] - fits['clip-adapter'][0]:+.2f} ({error:.2f})"
        if "singles" in steps:
            means = steps["singles"]["fits"]
            best = max(means, key=lambda label: means[label][0])
            oracle, gap = f"{means[best][0]:.1f} {best}", f"{means[best][0] - row['on_first_draws']:+.2f}"
        gain, mark = f"{own - plain:+.2f} ({row['error']:.2f})", "" if row["drawn"] else " *"
        cells = [name + mark, f"{plain:.1f}", f"{own:.1f}", gain, lead, oracle, gap]
        lines.append([*cells, f"{plain_ece:.3f}, {own_ece:.3f}", f"{row['core_seconds']:.1f}"])
    print(markdown(head, lines))


def print_comparison_with_goals(cells: dict[tuple[str, int], dict[str, Row]]) -> None:
    """Print a list of how auto compares with zero-shot, CLIP-Adapter and the best single method (goals of the study).

    ``cells`` holds, for each (data set, shots), the rows of its steps: auto, adapter and singles.
    """
    behind: dict[int, list[float]] = {}
    below, uncalibrated, beaten = [], [], []
    over_adapter: dict[bool, list[float]] = {True: [], False: []}
    fixed: dict[bool, dict[str, list[float]]] = {True: {}, False: {}}
    for (dataset, shots), steps in cells.items():
        if "auto" not in steps:
            continue
        row, name = steps["auto"], f"{dataset}, {shots}"
        (own, own_ece), (plain, plain_ece) = row["fits"]["auto"], row["fits"]["zero-shot"]
        if plain - own > max(0.3, 2 * row["error"]):
            below.append(name)
        if own_ece > plain_ece + 0.01:
            # Rows of the first runs hold no confidence.
            confidence = row.get("confidence", {}).get("auto")
            kind = "" if confidence is None else ", too sure" if confidence > own else ", too timid"
            uncalibrated.append(f"{name} (by {own_ece - plain_ece - 0.01:.3f}{kind})")
        if "adapter" in steps:
            fits, error = steps["adapter"]["fits"], steps["adapter"]["error"]
            ahead = fits["auto"][0] - fits["clip-adapter"][0]
            over_adapter[row["text"]].append(ahead)
            if ahead < 0:
                mark = ", beyond the bound" if -ahead > max(0.3, 2 * error) else ""
                beaten.append(f"{name}: {ahead:+.2f} ({error:.2f}){mark}")
        if "singles" in steps:
            means = {label: value[0] for label, value in steps["singles"]["fits"].items()}
            behind.setdefault(shots, []).append(max(means.values()) - row["on_first_draws"])
            for label, value in {**means, "auto": row["on_first_draws"]}.items():
                fixed[row["text"]].setdefault(label, []).append(value)
    print(f"\n- behind zero-shot beyond the bound: {'; '.join(below) or 'nowhere'}")
    print(f"- ECE more than 0.01 above zero-shot's: {'; '.join(uncalibrated) or 'nowhere'}")
    if any(over_adapter.values()):
        leads = [f"{np.mean(v):+.2f} {'with' if text else 'without'} text" for text, v in over_adapter.items() if v]
        count = sum(map(len, over_adapter.values()))
        print(
            f"- on CLIP-Adapter's default, {count} cells: {', '.join(leads)}; behind in {'; '.join(beaten) or 'none'}"
        )
    if behind:
        few = [gap for k in (1, 2) for gap in behind.get(k, [])]
        every = [gap for gaps in behind.values() for gap in gaps]
        by_shots = ", ".join(f"{np.mean(gaps):+.2f} at {k}" for k, gaps in sorted(behind.items()))
        print(f"- behind the oracle: {np.mean(every):+.2f} ({by_shots}); at one and two shots {np.mean(few):+.2f}")
    for with_text, accuracies in fixed.items():
        averages = sorted(((float(np.mean(values)), label) for label, values in accuracies.items()), reverse=True)
        shown = "; ".join(f"{label} {value:.2f}" for value, label in averages[:5])
        if accuracies:
            n_cells = len(accuracies["auto"])
            print(f"- {'with' if with_text else 'without'} text, means over {n_cells} cells: {shown}")


def tables(part: str, cells: dict[tuple[str, int], dict[str, Row]]) -> None:
    """Print the table of a part, of cells or of data sets, and the comparison with the goals."""
    (by_dataset if part in ("all", "built-on") else by_cell)(cells)
    print_comparison_with_goals(cells)
    print(f"- rows of commits {commits_of(row for steps in cells.values() for row in steps.values())}")


def attempts(part: str, only: str | None) -> None:
    """Change one constant of the design at a time: mean accuracy and ECE by shots, on the first two draws."""
    print(
        "| attempt | with text: 1 shot | 2 | 4 | 8 | 16 | without: 1 | 2 | 4 | 8 | 16 | ECE |\n" + "| --- " * 12 + "|"
    )
    cells = [Cell(c.dataset, c.shots, c.draws[:2], c.drawn) for c in PARTS[part]() if (only or "") in c.dataset]
    rows = []
    for name, changes in ATTEMPTS.items():
        with ExitStack() as changed:
            for key, value in changes.items():
                changed.enter_context(mock.patch.object(weights, key, value))
            results = [(cell.draws[0][0].text is not None, cell.shots, *auto(cell)["fits"]["auto"]) for cell in cells]
        shown = []
        for text in (True, False):
            for shots in (1, 2, 4, 8, 16):
                own = [accuracy for t, k, accuracy, _ in results if (t, k) == (text, shots)]
                shown.append(f"{np.mean(own):.2f}" if own else "")
        ece = float(np.mean([e for *_, e in results]))
        rows.append({"step": "attempt", "attempt": name, "means": shown, "ece": ece})
        print(f"| {name} | {' | '.join(shown)} | {ece:.3f} |", flush=True)
    report("auto_study", None, rows, quiet=True)


def seconds() -> None:
    """Time a fit of 1,000 classes x 16 shots, and see that it learned."""
    X, y, X_test, y_test, text = imagenet_shape()
    cafe.Auto(text[:2], random_state=1).fit(X[:2], [0, 1])  # what is imported and compiled once
    fit = partial(cafe.Auto(text, random_state=1).fit, X, y)
    core, (wall, model) = timed(partial(timed, fit), time.process_time)
    gain = float(model.score(X_test, y_test) - cafe.ZeroShot(text).fit(X, y).score(X_test, y_test))
    assert gain > 0, "auto learned nothing from 16 shots"
    report("auto_seconds", None, [{"rows": len(y), "core_seconds": core, "seconds": wall, "accuracy_gain": gain}])


def main() -> None:
    """Run the steps asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=[*PARTS, "all"], default="built-on")
    parser.add_argument(
        "--steps", default="auto,adapter,singles,tables", help="with commas between [default: %(default)s]"
    )
    parser.add_argument("--into", type=Path, help="the page whose marked tables are made again")
    parser.add_argument("--missing", action="store_true", help="cells without a row of the step alone")
    parser.add_argument("--dataset", help="data sets whose names hold this alone")
    given = parse(
        parser,
        {"part": "built-on", "steps": "auto,adapter,singles,confidence,tables,attempts,seconds", "dataset": "digits"},
    )
    if is_smoke():
        for name in list(SINGLES)[1:]:
            del SINGLES[name]
        for name in list(ATTEMPTS)[2:]:
            del ATTEMPTS[name]
    steps, fresh = given.steps.split(","), {}
    if given.part == "all" and steps != ["tables"]:
        parser.error("all is for --steps tables; measure built-on, looked-at-once and imagenet one by one")
    if any(step in STEPS for step in steps):
        for cell in PARTS[given.part]():
            if (given.dataset or "") not in cell.dataset:
                continue
            about = {"dataset": cell.dataset, "shots": cell.shots, "drawn": cell.drawn}
            about |= {"part": given.part, "text": cell.draws[0][0].text is not None}
            done = read(given.part).get((cell.dataset, cell.shots), {}) if given.missing else {}
            for step in (step for step in steps if step in STEPS and step not in done):
                row = {"step": step, **about, **STEPS[step](cell)}
                fresh.setdefault((cell.dataset, cell.shots), {})[step] = row
                report("auto_study", None, [row], quiet=True)
    cells = fresh if is_smoke() else read(given.part)
    if "tables" in steps:
        shown(given.part, given.into, lambda: tables(given.part, cells))
    if "confidence" in steps or ("tables" in steps and given.part == "all"):
        shown("confidence", given.into, lambda: confidences(cells))
    if "attempts" in steps:
        shown("attempts", given.into, lambda: attempts(given.part, given.dataset))
    if "seconds" in steps:
        seconds()


if __name__ == "__main__":
    main()
