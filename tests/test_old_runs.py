"""Runs that earlier versions saved are read, and predict what they did then: see tests/data/runs/make_runs.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cafe.runs import load

OLD = Path(__file__).parent / "data" / "runs"
RUNS = sorted(path.parent.name for path in OLD.glob("*/run.json"))
METHODS_THEN = 18  # at commit 3576ed1
# A logit is a sum of d = 128 products, weighed by a scale of at most 1,000 or so (C of linear-probe, beta of
# Tip-Adapter): in float64 another order of the sum moves it by less than 128 * 1000 * 2^-53 = 1.4e-11, and a
# probability by no more. Methods chain a few such sums.
TOLERANCE = 1e-10


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(OLD / "expected.npz") as file:
        return dict(file)


def test_every_method_of_then_has_a_run(expected: dict[str, np.ndarray]) -> None:
    assert len({load(OLD / name).run_["method"] for name in RUNS}) == METHODS_THEN
    assert {"X", "X_unprojected", *RUNS} == set(expected)


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_predicts_what_it_did(name: str, expected: dict[str, np.ndarray]) -> None:
    run = load(OLD / name)
    X = expected["X" if getattr(run, "projection", None) is None else "X_unprojected"]
    np.testing.assert_allclose(run.predict_proba(X), expected[name], rtol=0, atol=TOLERANCE)
    assert run.predict_proba(X.astype(np.float32)).dtype == np.float32
    assert run.run_["class_names"][:2] == ["zero", "one"]
    assert run.run_["encoder"] == run.run_["provenance"]["encoder"] == "cafe:mini"
    assert 0.7 < run.run_["row"]["acc1"] <= 1
