"""Is one method better than another? A test over both samples: the test images and the seeds.

Two methods are scored on the same n test images after training on the same S draws of shots. What is tested is
whether one would be better on *new images after new draws*, so both are random:

    d[s, i] = (method A right on image i, seed s) - (method B right there)        in -1, 0, 1
    d[s, i] = mean + seed[s] + image[i] + rest[s, i]

A t-test over the S seed means alone would forget that the images are a sample (and has two degrees of freedom with
three seeds); McNemar's test of one seed forgets that the draw is. The two-way analysis of variance for crossed random
readers and cases, which radiology uses for the same question, takes both into account:

    MS_seed  = n sum_s (d[s, .] - d[., .])^2 / (S - 1)
    MS_image = S sum_i (d[., i] - d[., .])^2 / (n - 1)
    MS_rest  = sum_si (d[s, i] - d[s, .] - d[., i] + d[., .])^2 / ((S - 1) (n - 1))

    Var d[., .] = ( E MS_seed + E MS_image - E MS_rest ) / (S n)

Of the two parts, that of the seeds is known from S - 1 degrees of freedom only. A t-test with one number of degrees of
freedom for the sum of both takes a small MS_seed at its word just when it is too small by chance, and errs too often:
with three seeds in up to 8 % of experiments at 0.05 and 3 % at 0.01, and a lower bound on MS_seed mends that only where
draws hardly matter. So each part keeps its own distribution: under equality, d[., .] is distributed as

    T = sqrt(A) t(S - 1) + sqrt(B) t(n - 1)         two independent Student's t
    A = MS_seed / (S n),     B = max(MS_image - MS_rest, MS_rest - MS_seed, 0) / (S n)

which is Behrens' and Fisher's distribution. The second term of B keeps the sum from falling below MS_rest / (S n),
under which its expectation cannot be. The p-value is P(|T| >= |d[., .]|), and the interval is d[., .] -+ T's 97.5 %
quantile. tests/protocol/test_paired_simulation.py simulates how often it errs and how often its interval holds.

With one seed only images vary, A = 0, B = MS_image / n, and the answer holds for that draw alone. McNemar's exact test
of each seed is given beside it. Several comparisons in one column are corrected by Holm's method.

Sources: Dorfman, Berbaum and Metz (1992), Investigative Radiology 27, for the analysis of variance; Fisher (1935),
Annals of Eugenics 6, and Robinson (1976), Annals of Statistics 4, for the distribution and that its test errs on the
safe side; McNemar (1947), Psychometrika 12; Holm (1979), Scandinavian Journal of Statistics 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import InputError

CONFIDENCE = 0.95
# Variances of means of -1, 0 and 1 below this are rounding.
ROUNDING = 1e-24


@dataclass(frozen=True)
class PairedTest:
    """Result of a paired test.

    Attributes
    ----------
    difference : float
        Mean accuracy of A minus that of B, 0 to 1.
    ci95 : tuple of float
        95 % interval of the difference, for new images and new draws.
    p_value : float
        Two-sided.
    n_seeds : int
        1 says that the answer holds for one draw.
    mcnemar : tuple of (int, int, float)
        For each seed: images that only A has right, those that only B has right, and McNemar's exact p.
    """

    difference: float
    ci95: tuple[float, float]
    p_value: float
    n_seeds: int
    mcnemar: tuple[tuple[int, int, float], ...]


def paired_test(a: NDArray[Any], b: NDArray[Any]) -> PairedTest:
    """Compare two methods over test images and seeds.

    Parameters
    ----------
    a, b : ndarray of bool, shape (S, n)
        Whether each method is right on each image, after training with each seed. A method without seeds (zero-shot)
        has shape (1, n) and is compared with every seed of the other.

    Returns
    -------
    PairedTest

    Raises
    ------
    InputError
        If the shapes do not belong together.

    Examples
    --------
    >>> right = np.tile([True, True, True, False], (2, 25))
    >>> test = paired_test(right, np.zeros((1, 100), dtype=bool))
    >>> test.difference, test.p_value < 1e-6
    (0.75, True)
    """
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if (
        a.ndim != 2
        or b.ndim != 2
        or a.shape[1] != b.shape[1]
        or not a.size
        or (len(a) != len(b) and 1 not in (len(a), len(b)))
    ):
        raise InputError(
            f"a paired test needs two arrays (seeds, images) of the same seeds and images, got {a.shape} and {b.shape}"
        )
    a, b = np.broadcast_arrays(a, b)
    d = a.astype(np.float64) - b
    mean = float(d.mean())
    parts = (mean, *_variances(d), *d.shape)
    exact = tuple(_mcnemar(x, y) for x, y in zip(a, b, strict=True))
    return PairedTest(mean, _interval(*parts), _p_value(*parts), len(d), exact)


def _variances(d: NDArray[np.float64]) -> tuple[float, float]:
    """Return two parts of the variance of d's mean, d (S, n): A from seeds and B from images (formulas above)."""
    seeds, n = d.shape
    of_images, of_seeds, mean = d.mean(axis=0), d.mean(axis=1), d.mean()
    ms_image = seeds * float(((of_images - mean) ** 2).sum()) / max(n - 1, 1)
    if seeds == 1:
        return 0.0, ms_image / n
    ms_seed = n * float(((of_seeds - mean) ** 2).sum()) / (seeds - 1)
    residual = d - of_seeds[:, None] - of_images[None, :] + mean
    ms_rest = float((residual**2).sum()) / ((seeds - 1) * max(n - 1, 1))
    return ms_seed / (seeds * n), max(ms_image - ms_rest, ms_rest - ms_seed, 0.0) / (seeds * n)


def _p_value(mean: float, of_seeds: float, of_images: float, seeds: int, n: int) -> float:
    """Return the two-sided p-value of a mean whose variance has the parts ``of_seeds`` (A) and ``of_images`` (B)."""
    if n == 1:
        return 1.0  # one image says nothing
    if of_seeds + of_images <= ROUNDING:
        return 1.0 if mean**2 <= ROUNDING else 0.0  # the same answer for every image and seed
    return sum_of_t_beyond(abs(mean), of_seeds, max(seeds - 1, 1), of_images, n - 1)


def _interval(mean: float, of_seeds: float, of_images: float, seeds: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a mean whose variance has the parts ``of_seeds`` (A) and ``of_images`` (B)."""
    from scipy.optimize import brentq

    if n == 1:
        return -1.0, 1.0
    if of_seeds + of_images <= ROUNDING:
        return mean, mean
    error = float(np.sqrt(of_seeds + of_images))

    def excess_outside(half: float) -> float:
        return sum_of_t_beyond(half, of_seeds, max(seeds - 1, 1), of_images, n - 1) - (1 - CONFIDENCE)

    highest = 2 * error
    while excess_outside(highest) > 0:
        highest *= 2
    half = float(brentq(excess_outside, 0.0, highest, xtol=1e-9 * error))
    return max(-1.0, mean - half), min(1.0, mean + half)


def sum_of_t_beyond(x: float, a: float, df_a: float, b: float, df_b: float) -> float:
    """Return P(|sqrt(a) t(df_a) + sqrt(b) t(df_b)| >= x) for independent Student's t (Behrens and Fisher).

    Examples
    --------
    >>> round(sum_of_t_beyond(4.302653, 1.0, 2, 0.0, 9), 6)  # Student's t(2) alone: its 97.5 % quantile is 4.302653
    0.05
    """
    from scipy import stats

    if a == 0 or b == 0:
        scale, df = (np.sqrt(b), df_b) if a == 0 else (np.sqrt(a), df_a)
        return float(2 * stats.t.sf(x / scale, df))
    if a < b:  # the mean is taken over the narrower of the two, so that the other's tail is smooth from node to node
        a, df_a, b, df_b = b, df_b, a, df_a
    # P = E over v = t(df_b) of P(t(df_a) >= (x - sqrt(b) v) / sqrt(a)), and the same for -x, which is equally likely.
    nodes, weights = _nodes_of_t(df_b)
    tail = stats.t.sf((x - np.sqrt(b) * nodes) / np.sqrt(a), df_a)
    return min(1.0, float(2 * (weights * tail).sum()))


@lru_cache(maxsize=32)
def _nodes_of_t(df: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return nodes and weights of a mean over Student's t: the trapezoid rule in the logit of its probability.

    The integrand falls off like exp(-|logit|) on both sides, where that rule converges faster than any power.
    """
    from scipy import stats

    half = np.linspace(-36, 0, 181)  # from a probability of 2e-16
    logits = np.concatenate([half, -half[-2::-1]])
    lower = stats.t.ppf(1 / (1 + np.exp(-half)), df)
    nodes = np.concatenate([lower, -lower[-2::-1]])
    weights = np.exp(-np.abs(logits)) / (1 + np.exp(-np.abs(logits))) ** 2 * (half[1] - half[0])
    return nodes, weights / weights.sum()


def _mcnemar(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> tuple[int, int, float]:
    """Return McNemar's exact test: the images that only A has right, those that only B has right, and the p-value."""
    from scipy import stats

    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    p = 2 * float(stats.binom.cdf(min(only_a, only_b), only_a + only_b, 0.5))
    return only_a, only_b, min(1.0, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for the number of comparisons, by Holm's step-down method.

    ``p_(k)`` in ascending order becomes ``max_{j <= k} min(1, (m - j + 1) p_(j))`` with j from 1.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    m = len(p_values)
    corrected = [1.0] * m
    largest = 0.0
    for rank, i in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (m - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def interval95(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean over seeds, by Student's t: mean -+ t(0.975, n - 1) sd / sqrt(n).

    None for a single value. It says where the mean over *seeds* on these test images lies; other test images would
    add to it, which :func:`paired_test` counts and this does not.

    Examples
    --------
    >>> low, high = interval95([0.5, 0.7])
    >>> round(low, 2), round(high, 2)  # t(0.975, 1) = 12.71, standard error 0.1
    (-0.67, 1.87)
    """
    n = len(values)
    if n < 2:
        return None
    from scipy import stats

    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(n))
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * error
    return mean - half, mean + half
