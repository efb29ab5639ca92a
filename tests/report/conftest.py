"""A small made-up comparison, whose table can be written down by hand."""

from __future__ import annotations

from typing import Any

import pytest

from cafe.report.comparison import Comparison


def entry(
    series: str, shots: int | None, mean: float | None, std: float | None, n: int = 3, **more: Any
) -> dict[str, Any]:
    base = {
        "dataset": "digits",
        "encoder": "cafe:mini",
        "method": series,
        "variant": None,
        "oracle": False,
        "chosen_on": "nothing",
    }
    metrics = {"acc1_mean": mean, "acc1_std": std}
    return {**base, "series": series, "shots": shots, "n": n, **metrics, **more}


def row(method: str, shots: int | None, seed: int | None, acc1: float, **more: Any) -> dict[str, Any]:
    return {
        "dataset": "digits", "encoder": "cafe:mini", "method": method, "variant": None, "shots": shots, "seed": seed,
        "n_train": 40, "n_test": 546, "acc1": acc1, "acc5": 0.99, "mean_per_class_recall": acc1, "ece": float("nan"),
        "zero_shot_acc1": 0.5, "params": {"alpha": 0.2, "classes": None}, "selection": {"policy": "few-shot-val"},
        "fit_seconds": 0.5, "kernel": "reference", "device": "cpu", "dtype": "float32", "cafe_version": "0.1.0",
        "cache_fingerprint": "ab12", **more,
    }  # fmt: skip


def pair(**more: Any) -> dict[str, Any]:
    base = {"dataset": "digits", "encoder": "cafe:mini", "shots": 4, "part": None, "a": "zero-shot", "a_x": None}
    test = {"b": "clip-adapter", "b_x": None, "difference": -0.25, "ci95": [-0.3, -0.2], "p_value": 1e-4}
    return {**base, **test, "p_holm": 3e-4, "n_seeds": 3, "n_test": 546, "mcnemar": [], **more}


def published(**more: Any) -> dict[str, Any]:
    base = {"dataset": "dtd", "series": "clip-adapter", "method": "clip-adapter", "shots": 16, "part": None}
    source = {"table": "log", "source": "exp.log", "protocol": "one template", "chosen_on_test": True}
    values = {"label": "CLIP-Adapter", "published": 65.96, "here": 65.0, "difference": -0.96}
    return {**base, **source, **values, "backbone": "RN50", "backbone_here": "RN50", **more}


@pytest.fixture
def make_entry():
    return entry


@pytest.fixture
def make_row():
    return row


@pytest.fixture
def make_pair():
    return pair


@pytest.fixture
def make_published():
    return published


@pytest.fixture
def comparison():
    summary = [
        entry("clip-adapter", 1, 0.6049, 0.0151),
        entry("clip-adapter", 4, 0.75, 0.02, chosen_on="validation"),
        entry("linear-probe", 4, 0.7, 0.01, chosen_on="validation"),
        entry("zero-shot", 0, 0.5, None, n=1),
    ]
    rows = [row("clip-adapter", 4, seed, 0.7 + 0.05 * seed) for seed in (1, 2, 3)]
    return Comparison("baselines", "Baselines on digits", rows, summary)
