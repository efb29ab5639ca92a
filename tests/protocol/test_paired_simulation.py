"""Experiments without a true difference: how often the paired test finds one, and how often its interval holds zero.

Right or wrong is a threshold of ``difficulty[i] + method x image + method x draw + rest``, all normal, for two methods
that are equal on average over images and draws. 500 images, three draws. The short form runs in the suite;
``CAFE_LONG_TESTS=1 pytest tests/protocol/test_paired_simulation.py`` runs 20,000 experiments of each kind.
"""

import os

import numpy as np
import pytest
from paired_experiments import KINDS, correct

from cafe.protocol.paired import paired_test

LONG = bool(os.environ.get("CAFE_LONG_TESTS"))
EXPERIMENTS = 20_000 if LONG else 400


@pytest.mark.parametrize("kind", KINDS if LONG else KINDS[1::2])
def test_under_equality_it_rejects_no_more_often_than_it_says_and_its_interval_holds(kind):
    rng = np.random.default_rng(0)
    tests = [paired_test(*correct(rng, *kind)) for _ in range(EXPERIMENTS)]
    p_values = np.array([test.p_value for test in tests])
    missed = np.mean([not test.ci95[0] <= 0 <= test.ci95[1] for test in tests])
    for level in (0.05, 0.01):
        # Three binomial standard deviations above what it says.
        assert np.mean(p_values < level) <= level + 3 * np.sqrt(level * (1 - level) / EXPERIMENTS), level
    assert missed == pytest.approx(np.mean(p_values < 0.05), abs=2 / EXPERIMENTS)
    if LONG:
        print(kind, {level: float(np.mean(p_values < level)) for level in (0.05, 0.01)}, "interval missed", missed)


def test_a_true_difference_is_found():
    """A test that never rejects would pass the one above: nine points between methods of the same draws."""
    rng = np.random.default_rng(1)
    better = 0
    for _ in range(100):
        a, b = correct(rng, 0.3, 0.03)
        b &= rng.random(b.shape) > 0.12
        better += paired_test(a, b).p_value < 0.05
    assert better >= 80
