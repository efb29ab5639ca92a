"""Unknown scores: each against loops over its formula, and the promised rate of false alarms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafe.errors import InputError
from cafe.evaluation.unknown import (
    combined_score,
    distance_score,
    far_texts,
    mcm_score,
    negatives_score,
    unknown_threshold,
)


def unit(rng: np.random.Generator, n: int, d: int = 8) -> np.ndarray:
    rows = rng.standard_normal((n, d))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@given(st.integers(0, 10_000))
def test_scores_follow_their_formulas(seed):
    rng = np.random.default_rng(seed)
    X, text, shots, negatives = unit(rng, 5), unit(rng, 3), unit(rng, 7), unit(rng, 4)
    for i, x in enumerate(X):
        own = [math.exp(x @ e) for e in text]
        assert mcm_score(X, text)[i] == pytest.approx(1 - max(own) / sum(own))
        nearest = sorted((x @ s for s in shots), reverse=True)
        assert distance_score(X, shots, 3)[i] == pytest.approx(1 - sum(nearest[:3]) / 3)
        cosines = [x @ e for e in text]
        plain = sum(cosines) / 3 - max(cosines)
        assert combined_score(X, text)[i] == pytest.approx(plain)
        assert combined_score(X, text, shots)[i] == pytest.approx(plain + (1 - nearest[0]) / 4)
        a, b = sum(math.exp(x @ e / 0.1) for e in text), sum(math.exp(x @ n / 0.1) for n in negatives)
        assert negatives_score(X, text, negatives, 0.1)[i] == pytest.approx(b / (a + b))


def test_a_copy_is_not_its_own_neighbour():
    rng = np.random.default_rng(0)
    shots = unit(rng, 6)
    shots[1] = shots[0]
    groups = np.array([0, 0, 1, 2, 3, 4])
    scores = distance_score(shots, shots, left_out=groups)
    assert scores[0] == pytest.approx(1 - max(shots[0] @ s for s in shots[2:]))
    assert scores[0] == scores[1] > 1e-3


def test_blocks_are_as_good_as_one():
    rng = np.random.default_rng(0)
    X, shots = unit(rng, 2500), unit(rng, 9)
    np.testing.assert_allclose(distance_score(X, shots), 1 - (X @ shots.T).max(axis=1), atol=1e-12)


def test_far_texts_are_the_farthest():
    rng = np.random.default_rng(0)
    texts, text = unit(rng, 50), unit(rng, 5)
    kept = far_texts(texts, text, 10)
    nearness = np.quantile(texts @ text.T, 0.95, axis=1)
    assert np.quantile(kept @ text.T, 0.95, axis=1).max() == pytest.approx(np.sort(nearness)[9])


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_false_alarms_are_as_rare_as_promised(rate):
    """2,000 draws of 39 images and a new one."""
    rng = np.random.default_rng(0)
    draws = rng.standard_exponential((2000, 40))
    alarms = [draw[-1] > unknown_threshold(draw[:-1], rate) for draw in draws]
    assert abs(np.mean(alarms) - rate) <= 1 / 40 + 3 * math.sqrt(rate * (1 - rate) / 2000)
    assert np.mean(alarms) <= rate + 3 * math.sqrt(rate * (1 - rate) / 2000)


def test_too_few_images_and_impossible_rates_are_refused():
    with pytest.raises(InputError, match="needs 19 images"):
        unknown_threshold(np.linspace(0, 1, 18), 0.05)
    assert unknown_threshold(np.linspace(0, 1, 19), 0.05) == 1
    for rate in (0, 1, 5):
        with pytest.raises(InputError, match="between 0 and 1"):
            unknown_threshold(np.linspace(0, 1, 100), rate)
