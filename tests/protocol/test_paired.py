"""Paired tests: equal to textbook tests where they coincide, and wrong as often as they say where they do not."""

import numpy as np
import pytest
from scipy import stats

from cafe.errors import InputError
from cafe.protocol.paired import _interval, _p_value, _variances, holm, interval95, paired_test, sum_of_t_beyond


def test_with_one_seed_it_is_the_t_test_over_images():
    rng = np.random.default_rng(0)
    a, b = rng.random((1, 200)) < 0.7, rng.random((1, 200)) < 0.6
    expected = stats.ttest_rel(a[0].astype(float), b[0].astype(float))
    test = paired_test(a, b)
    assert test.p_value == pytest.approx(expected.pvalue)
    assert test.ci95 == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert test.n_seeds == 1


def test_mcnemar_is_the_exact_binomial_test():
    a = np.array([[1, 1, 1, 1, 1, 1, 0, 0, 1, 0]], dtype=bool)
    b = np.array([[0, 0, 0, 0, 0, 1, 1, 0, 1, 0]], dtype=bool)
    ((only_a, only_b, p),) = paired_test(a, b).mcnemar
    assert (only_a, only_b) == (5, 1)
    assert p == pytest.approx(stats.binomtest(1, 6).pvalue)


def test_variance_is_that_of_the_variance_components():
    """Compute the unbiased components by the law of total variance, then Var = i/n + s/S + e/(nS)."""
    rng = np.random.default_rng(1)
    d = 0.3 * rng.normal(size=(4, 1)) + 0.5 * rng.normal(size=(1, 60)) + rng.normal(size=(4, 60))
    seeds, n = d.shape
    centred = d - d.mean(0) - d.mean(1, keepdims=True) + d.mean()
    e = (centred**2).sum() / ((seeds - 1) * (n - 1))
    s, i = d.mean(1).var(ddof=1) - e / n, d.mean(0).var(ddof=1) - e / seeds
    assert i > 0
    assert sum(_variances(d)) == pytest.approx(i / n + s / seeds + e / (n * seeds))


def test_variance_is_at_least_the_residual_variance():
    """Seeds whose means are equal by chance must not give a variance below that of MS_rest, its least expectation."""
    d = np.array([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0]])
    rest = d - 0.25 - d.mean(0) + 0.25
    assert sum(_variances(d)) == pytest.approx((rest**2).sum() / (2 * 3) / 12)


@pytest.mark.parametrize(
    ("a", "df_a", "b", "df_b", "x"),
    [(1.0, 2, 1.0, 9, 3.0), (0.3, 2, 1.0, 499, 2.5), (1e-6, 2, 1.0, 49, 2.0), (9.0, 1, 1.0, 4, 40.0),
     (1.0, 4, 1e-4, 2, 3.0)],
)  # fmt: skip
def test_sum_of_two_ts_is_the_convolution(a, df_a, b, df_b, x):
    """Independent route: adaptive quadrature over the density of the wider one."""
    from scipy.integrate import quad

    (narrow, df_narrow), (wide, df_wide) = sorted([(np.sqrt(a), df_a), (np.sqrt(b), df_b)])

    def integrand(v):
        return stats.t.pdf(v, df_wide) * 2 * stats.t.sf((x - wide * v) / narrow, df_narrow)

    edges = [-1e3, -10, 0, x / wide - 0.01, x / wide, x / wide + 0.01, x / wide + 10, 1e5]
    expected = sum(quad(integrand, low, high, limit=200)[0] for low, high in zip(edges, edges[1:], strict=False))
    assert sum_of_t_beyond(x, a, df_a, b, df_b) == pytest.approx(expected, rel=1e-3)


def test_interval_ends_where_the_p_value_is_one_in_twenty():
    low, high = _interval(0.1, 1e-3, 2e-3, 3, 100)
    assert _p_value(high - 0.1, 1e-3, 2e-3, 3, 100) == pytest.approx(0.05, abs=1e-6)
    assert low + high == pytest.approx(0.2)


@pytest.mark.parametrize(("of_seed", "of_image"), [(0.0, 1.0), (0.15, 1.0), (0.3, 0.0)])
def test_equal_methods_are_told_apart_in_five_per_cent_of_experiments(of_seed, of_image):
    """1,000 experiments of 3 seeds and 150 images without a true difference: p < 0.05 in about 5 %.

    Student's t over the images of all seeds, for comparison, errs far more often once the draws matter.
    """
    rng = np.random.default_rng(2)
    wrong = naive = 0
    for _ in range(1000):
        d = of_seed * rng.normal(size=(3, 1)) + of_image * rng.normal(size=(1, 150)) + rng.normal(size=(3, 150))
        wrong += _p_value(d.mean(), *_variances(d), *d.shape) < 0.05
        naive += abs(d.mean()) / (d.std(ddof=1) / np.sqrt(d.size)) > 1.96
    # Binomial standard deviation at 5 % of 1,000 is 0.7 points; three of them.
    assert wrong / 1000 < 0.07
    if of_seed:
        assert naive / 1000 > 0.15


def test_zero_shot_has_no_seed_and_is_compared_with_every_one():
    rng = np.random.default_rng(3)
    a, zero = rng.random((3, 80)) < 0.8, rng.random((1, 80)) < 0.5
    assert paired_test(a, zero).difference == pytest.approx(a.mean() - zero.mean())
    assert paired_test(a, zero).p_value == paired_test(a, np.repeat(zero, 3, axis=0)).p_value
    assert len(paired_test(a, zero).mcnemar) == 3


def test_it_is_antisymmetric():
    rng = np.random.default_rng(4)
    a, b = rng.random((3, 50)) < 0.8, rng.random((3, 50)) < 0.5
    forward, other = paired_test(a, b), paired_test(b, a)
    assert forward.difference == -other.difference
    assert forward.p_value == other.p_value
    assert forward.ci95 == pytest.approx((-other.ci95[1], -other.ci95[0]))


def test_nothing_differs_or_everything_does():
    right = np.ones((2, 5), dtype=bool)
    assert paired_test(right, right).p_value == 1.0
    assert paired_test(right, ~right).p_value == 0.0
    assert paired_test(right[:, :1], ~right[:, :1]).p_value == 1.0  # one image says nothing


def test_arrays_that_do_not_belong_together():
    for a, b in (((2, 5), (3, 5)), ((2, 5), (2, 4)), ((5,), (5,)), ((1, 0), (1, 0))):
        with pytest.raises(InputError, match="paired test"):
            paired_test(np.zeros(a), np.zeros(b))


def test_holm_is_the_textbook_example():
    # Holm by hand: 4 x 0.005, 3 x 0.01, 2 x 0.03, then not below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_interval_over_seeds_is_students():
    values = [0.61, 0.64, 0.66]
    expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert interval95(values) == pytest.approx(expected)
    assert interval95([0.5]) is None
