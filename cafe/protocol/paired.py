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
    V        = MS_seed + max(MS_image - MS_rest, 0)
    t        = d[., .] / sqrt(V / (S n))          df = V^2 / (MS_seed^2 / (S - 1)), at most n - 1

With one seed only images vary, t = d / (sd / sqrt(n)) with df = n - 1, and the answer holds for that draw alone.
McNemar's exact test of each seed stands beside it. Several comparisons in one column are corrected by Holm's method.

Sources: Dorfman, Berbaum and Metz (1992), Investigative Radiology 27; Hillis (2007), Statistics in Medicine 26,
for the degrees of freedom; McNemar (1947), Psychometrika 12; Holm (1979), Scandinavian Journal of Statistics 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import InputError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class PairedTest:
    """What a paired test found.

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
    error, df = _standard_error(d)
    return PairedTest(mean, *_t_test(mean, error, df), len(d), tuple(_mcnemar(x, y) for x, y in zip(a, b, strict=True)))


def _standard_error(d: NDArray[np.float64]) -> tuple[float, float]:
    """Return the standard error of the mean of d (S, n) and its degrees of freedom; formulas above."""
    seeds, n = d.shape
    if n == 1:
        return np.inf, 1.0  # one image says nothing
    of_images, of_seeds, mean = d.mean(axis=0), d.mean(axis=1), d.mean()
    ms_image = seeds * float(((of_images - mean) ** 2).sum()) / (n - 1)
    if seeds == 1:
        return float(np.sqrt(ms_image / n)), n - 1.0
    ms_seed = n * float(((of_seeds - mean) ** 2).sum()) / (seeds - 1)
    rest = d - of_seeds[:, None] - of_images[None, :] + mean
    ms_rest = float((rest**2).sum()) / ((seeds - 1) * (n - 1))
    v = ms_seed + max(ms_image - ms_rest, 0.0)
    df = v**2 / (ms_seed**2 / (seeds - 1)) if ms_seed > 0 else np.inf
    return float(np.sqrt(v / (seeds * n))), min(df, n - 1.0)


def _t_test(mean: float, error: float, df: float) -> tuple[tuple[float, float], float]:
    """Return the 95 % interval and the two-sided p-value."""
    from scipy import stats

    if error == 0:
        # Nothing varies: the same answer for every image and seed.
        return (mean, mean), 1.0 if mean == 0 else 0.0
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, df)) * error
    return (max(-1.0, mean - half), min(1.0, mean + half)), float(2 * stats.t.sf(abs(mean) / error, df))


def _mcnemar(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> tuple[int, int, float]:
    """McNemar's exact test: of the images that one method alone has right, each is a fair coin under equality."""
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
