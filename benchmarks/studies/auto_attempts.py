"""What each part of `auto`'s design is worth, on development data (docs/auto.md has the table).

    CAFE_REAL_DATA=... python benchmarks/studies/auto_attempts.py

Every attempt changes one thing of the design as it stands, and is set beside the best single method with oracle
settings that results/auto_study.jsonl has for the same tasks (``auto_study.py singles develop`` first).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))

import auto_study
import auto_tasks
import numpy as np
from harness import is_smoke, parse, report

import cafe
from cafe.methods.mixture import experts as auto_parts
from cafe.methods.mixture import gaussians as auto_gaussians
from cafe.methods.mixture import weights as auto_choice

Change = tuple[object, str, object]


def leave_out(*missing: int) -> Change:
    """Score some experts zero, so that they get no weight."""
    units = auto_choice.units

    def without(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        found = units(logits, labels)
        found[list(missing)] = 0
        return found

    return auto_choice, "units", without


def shrunk(strength: Callable[[float, float], float]) -> Change:
    """Shrink by another strength, of (rows, shots)."""
    stack = auto_choice.stack

    def other(logits: np.ndarray, labels: np.ndarray, centre: np.ndarray, given: float) -> np.ndarray:
        shots = 1 + (len(labels) / given) ** (1 / 3)
        return stack(logits, labels, centre, strength(len(labels), shots))

    return auto_choice, "stack", other


def refitted(model: object, X: np.ndarray, y: np.ndarray, folds: list[auto_parts.Fold]) -> np.ndarray:
    """Take the covariance of the kept rows alone, as a fold's other experts do."""
    about_classes = not np.allclose(model.centres, model.centres[0])  # type: ignore[attr-defined]
    found = []
    for kept, held in folds:
        own = auto_gaussians.fit_gaussian(X[kept], y[kept], len(model.weights), about_classes)  # type: ignore[attr-defined]
        logits = np.zeros((len(held), len(model.weights)))  # type: ignore[attr-defined]
        found.append(logits if own is None else X[held] @ own.weights.T + own.offset)
    return np.concatenate(found)


ATTEMPTS: dict[str, list[Change]] = {
    "as it stands": [],
    "without the residual": [leave_out(1)],
    "without the Gaussians within classes": [leave_out(2)],
    "without the Gaussians about the mean of all rows": [leave_out(3)],
    "covariance of the fold's kept rows": [(auto_parts, "held_out_logits", refitted)],
    "no shrinkage": [shrunk(lambda n, shots: 1e-3)],
    "shrinkage of one row's worth at any number of shots": [shrunk(lambda n, shots: 1.0)],
    "ten times the shrinkage": [shrunk(lambda n, shots: 10 * n / (shots - 1) ** 3)],
    "shrunk to zero-shot": [(auto_choice, "CENTRE", (1.0, 0.0, 0.0, 0.0))],
    "shrunk to half text, half residual": [(auto_choice, "CENTRE", (0.5, 0.5, 0.0, 0.0))],
    "one shot: half text, half residual": [(auto_choice, "ONE_SHOT", (0.5, 0.5, 0.0, 0.0))],
    "one shot: the residual": [(auto_choice, "ONE_SHOT", (0.0, 1.0, 0.0, 0.0))],
}


def main() -> None:
    """Print how far each attempt is behind the oracle's best single method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attempts", nargs="*", help="all by default")
    wanted = parse(parser, {"attempts": list(ATTEMPTS)[1:6:4]}).attempts or list(ATTEMPTS)
    best = auto_study.oracle("develop")
    tasks = list(auto_tasks.develop())
    print("| attempt | behind, mean | 1 shot | 2 | 4 | 8 | 16 | worst cell | accuracy | ECE |\n" + "| --- " * 10 + "|")
    for label in wanted:
        cells: dict[tuple[str, int], list[tuple[float, float]]] = {}
        with ExitStack() as stack:
            for target, name, value in ATTEMPTS[label]:
                stack.enter_context(patch.object(target, name, value))
            for task in tasks:
                model = cafe.Auto(task.text, logit_scale=task.logit_scale, random_state=1).fit(task.X, task.y)
                accuracy, ece = auto_study.measured(model, task)
                cells.setdefault((task.dataset, task.shots), []).append((100 * accuracy, ece))
        means = {key: np.mean(values, axis=0) for key, values in cells.items()}
        behind = {key: best[key] - value[0] for key, value in means.items()}
        shots = [k for k in auto_tasks.SHOTS if not is_smoke() or k in auto_tasks.SMOKE_SHOTS]
        by_shots = [np.mean([v for key, v in behind.items() if key[1] == k]) for k in shots]
        accuracy, ece = np.mean(list(means.values()), axis=0)
        shown = " | ".join(f"{v:.2f}" for v in by_shots)
        print(
            f"| {label} | {np.mean(list(behind.values())):.2f} | {shown} | {max(behind.values()):.2f} "
            f"| {accuracy:.2f} | {ece:.3f} |",
            flush=True,
        )
        report("auto_attempts", None, [{"attempt": label, "behind": float(np.mean(list(behind.values())))}])


if __name__ == "__main__":
    main()
