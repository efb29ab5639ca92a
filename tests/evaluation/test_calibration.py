"""Reliability and temperature against the metric, an optimiser and a closed case."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from cafe.evaluation.calibration import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    calibration_error,
    fit_temperature,
    reliability_bins,
    tempered,
)
from cafe.evaluation.metrics import expected_calibration_error, negative_log_likelihood


def sample(seed: int, n: int = 400, c: int = 5, scale: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Draw labels from a softmax, and give the softmax of the same logits times ``scale``."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((n, c))
    honest = softmax(logits, axis=1)
    labels = np.array([rng.choice(c, p=row) for row in honest])
    return softmax(scale * logits, axis=1), labels


@given(st.integers(0, 10_000))
def test_bins_sum_to_the_metric(seed):
    probabilities, labels = sample(seed, n=60)
    bins = reliability_bins(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)
    assert calibration_error(bins) == pytest.approx(expected_calibration_error(probabilities, labels))
    assert sum(b.count for b in bins) == len(labels)
    assert all(b.low - 1e-12 <= b.confidence <= b.high + 1e-12 for b in bins if b.count)


@pytest.mark.parametrize("seed", range(3))
def test_temperature_is_that_of_an_optimiser(seed):
    probabilities, labels = sample(seed)
    fitted = fit_temperature(probabilities, labels)

    def loss(log_t: float) -> float:
        return negative_log_likelihood(softmax(np.log(probabilities) / np.exp(log_t), axis=1), labels)

    expected = np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-7}).x)
    assert fitted == pytest.approx(expected, rel=1e-4)


def test_temperature_undoes_what_was_done():
    """Logits were tripled, so the temperature is 3, within the spread that 20,000 labels leave."""
    probabilities, labels = sample(0, n=20_000)
    temperature = fit_temperature(probabilities, labels)
    assert temperature == pytest.approx(3, abs=0.15)
    after = tempered(probabilities, temperature)
    assert expected_calibration_error(after, labels) < 0.3 * expected_calibration_error(probabilities, labels)
    np.testing.assert_array_equal(after.argmax(axis=1), probabilities.argmax(axis=1))


def test_what_no_temperature_can_calibrate_ends_at_a_bound():
    p = np.array([[0.9, 0.1], [0.8, 0.2]])
    assert fit_temperature(p, np.array([0, 0])) == pytest.approx(LOWEST_TEMPERATURE)
    assert fit_temperature(p, np.array([1, 1])) == pytest.approx(HIGHEST_TEMPERATURE)


def test_a_class_that_cannot_be_stays_so():
    p = np.array([[0.7, 0.3, 0.0]], dtype=np.float32)
    assert tempered(p, 10.0)[0, 2] == 0 and tempered(p, 1.0)[0, :2] == pytest.approx(p[0, :2])
    assert np.isfinite(fit_temperature(p, np.array([2])))
