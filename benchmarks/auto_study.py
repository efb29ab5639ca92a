"""`auto` beside zero-shot and single methods with oracle settings (docs/auto.md has the table).

    CAFE_REAL_DATA=... python benchmarks/auto_study.py develop | final

``develop`` is what it was built on: Caltech69, Flowers (without text) and digits. ``final`` was looked at once, when it
was done: ImageNet 4-shot, and DTD (without text), whose shots are drawn from its val split, seed 1. "Oracle" takes each
method's setting by test accuracy: what a user could not know.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import cafe
from cafe.metrics import expected_calibration_error
from cafe.protocol.draws import draw_few_shot

Task = tuple[str, np.ndarray, np.ndarray, Any, np.ndarray, np.ndarray, float]


def load(name: str) -> Any:
    return np.load(Path(os.environ["CAFE_REAL_DATA"]) / "clip_features" / f"{name}_vitb32.npz")


def develop() -> Iterator[Task]:
    for name, label in (("caltech69", "Caltech69"), ("oxford_flowers", "Flowers")):
        data = load(name)
        text = data["text_features"] if name == "caltech69" else None
        for shots in (1, 4, 16):
            train = data[f"train_{shots}shot_features"], data[f"train_{shots}shot_labels"]
            yield f"{label}, {shots}", *train, text, data["test_features"], data["test_labels"], 100.0


def final() -> Iterator[Task]:
    data = load("dtd")
    for shots in (1, 4, 16):
        rows, _ = draw_few_shot(data["val_labels"], None, shots, 1)
        train = data["val_features"][rows], data["val_labels"][rows]
        yield f"DTD, {shots}", *train, None, data["test_features"], data["test_labels"], 100.0
    data = load("imagenet")
    X = data["features_4shot"]
    X_test, y_test = (np.concatenate([data[f"{k}_1shot"], data[f"{k}_2shot"]]) for k in ("features", "labels"))
    keep = (X_test.astype(np.float32) @ X.astype(np.float32).T).max(axis=1) < 0.93
    yield "ImageNet, 4", X, data["labels_4shot"], data["text_features"], X_test[keep], y_test[keep], 100.0


def main(which: str) -> None:
    print("| cell | zero-shot | auto | rho, alpha, tau | oracle: gda | task-res | clip-adapter | ECE zs, auto | s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for cell, X, y, text, X_test, y_test, scale in {"develop": develop, "final": final}[which]():
        start = time.perf_counter()
        model = cafe.Auto(text, logit_scale=scale, random_state=1).fit(X, y)
        seconds = time.perf_counter() - start
        plain = cafe.ZeroShot(text, logit_scale=scale).fit(X, y)
        own = {"text": text, "scale": scale, "X": X, "y": y, "test": (X_test, y_test)}
        errors = [expected_calibration_error(one.predict_proba(X_test), y_test) for one in (plain, model)]
        print(
            f"| {cell} | {100 * plain.score(X_test, y_test):.2f} | {100 * model.score(X_test, y_test):.2f} "
            f"| {model.rho_:g}, {model.alpha_:g}, {model.tau_:g} "
            f"| {oracle([cafe.GDA(alpha=a) for a in cafe.GDA.grid['alpha']], **own):.2f} "
            f"| {oracle([cafe.TaskRes(alpha=a, random_state=1) for a in (0.1, 0.5, 1.0)], **own):.2f} "
            f"| {oracle([cafe.CLIPAdapter(alpha=a, random_state=1) for a in (0.2, 0.6)], **own):.2f} "
            f"| {errors[0]:.3f}, {errors[1]:.3f} | {seconds:.1f} |",
            flush=True,
        )


def oracle(grid: list[Any], text: Any, scale: float, X: Any, y: Any, test: tuple[Any, Any]) -> float:
    fits = cafe.fit_many(X, y, [one.set_params(class_embeddings=text, logit_scale=scale) for one in grid])
    return max(100 * float(fit.score(*test)) for fit in fits)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "develop")
