"""ProKeR against its equation in float64, its published settings, and what it gives on real features."""

import numpy as np
import pytest
from made_up_rows import rows_around_text, unit

from cafe import ProKeR, ZeroShot
from cafe.errors import InputError
from cafe.methods.inference import scores


@pytest.fixture
def problem():
    return rows_around_text([0, 0, 1, 1, 3, 3, 3])


def derived(X, y, text, queries, beta, penalty, scale):
    """Pair by pair: coefficients by an explicit inverse, then one sum for each query and class."""
    X, text, queries = unit(X), unit(text), unit(queries)
    n, c = len(X), len(text)
    gram = np.array([[np.exp(-beta * (1 - X[i] @ X[j])) for j in range(n)] for i in range(n)])
    errors = np.array([[float(y[i] == k) - X[i] @ text[k] for k in range(c)] for i in range(n)])
    coefficients = np.linalg.inv(gram / penalty + np.eye(n)) @ errors
    return np.array(
        [
            [scale * (f @ text[k] + sum(np.exp(-beta * (1 - f @ X[i])) * coefficients[i, k] for i in range(n)))
             for k in range(c)]
            for f in queries
        ]
    )  # fmt: skip


@pytest.mark.parametrize("block", [2, 1024])
def test_is_its_equation(problem, block):
    X, y, text, queries = problem
    model = ProKeR(text, beta=2.0, penalty=0.3, logit_scale=30.0).fit(X, y)
    np.testing.assert_allclose(
        scores.proker(model, unit(queries), block), derived(X, y, text, queries, 2.0, 0.3, 30.0), rtol=1e-10
    )


def test_settings_follow_the_shots_as_published(problem):
    X, y, text, queries = problem
    model = ProKeR(text).fit(X[[0, 2, 4]], y[[0, 2, 4]])
    assert (model.beta_, model.penalty_) == (3.0, 0.05)
    expected = derived(X[[0, 2, 4]], y[[0, 2, 4]], text, queries, 3.0, 0.05, 100.0)
    np.testing.assert_allclose(model.logits(queries), expected, rtol=1e-10)
    many = ProKeR(text).fit(np.repeat(X, 40, axis=0), np.repeat(y, 40))
    assert (many.beta_, many.penalty_) == (1.7, 0.1)
    between = ProKeR(text).fit(X[[0, 1, 4, 5, 6]], y[[0, 1, 4, 5, 6]])  # 2.5 rows a class
    assert 1.5 < between.beta_ < 2.6


def test_a_vanishing_penalty_is_zero_shot(problem):
    X, y, text, queries = problem
    own = ProKeR(text, penalty=1e-12).fit(X, y).logits(queries)
    np.testing.assert_allclose(own, ZeroShot(text).fit(X, y).logits(queries), rtol=1e-6)


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_rows_stay_finite(problem, dtype):
    X, y, text, queries = (np.asarray(a) for a in problem)
    odd = np.concatenate([X, np.zeros((1, 9)), np.full((1, 9), 1e20), X[:1]]).astype(dtype)
    model = ProKeR(text).fit(odd, [*y, 0, 1, 1])
    assert np.isfinite(model.predict_proba(np.concatenate([odd, 1e-30 * queries]).astype(dtype))).all()


def test_too_many_rows_and_bad_settings(problem):
    X, y, text, _ = problem
    with pytest.raises(InputError, match="20,001 rows are too many .at most 20,000.; take fewer shots"):
        ProKeR(text).fit(np.resize(X, (20_001, X.shape[1])), np.resize(y, 20_001))
    with pytest.raises(InputError, match="beta of proker must be a number, above 0, or None, but is 0"):
        ProKeR(text, beta=0).fit(X, y)
    with pytest.raises(InputError, match="penalty of proker"):
        ProKeR(text, penalty=float("inf")).fit(X, y)
