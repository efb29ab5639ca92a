"""Rows of length one over the whole range of each dtype: an independent derivation in exact fractions."""

from fractions import Fraction
from math import isqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cafe.methods.inputs.cosines import cosine_logits, unit_length

DTYPES = [np.float16, np.float32, np.float64]
# Half a unit for each of: the largest entry's division, the square, the sum (pairwise), the root, the last division;
# a sum of a few terms adds one each. Eight roundings are never reached by rows of up to 16 entries.
ROUNDINGS = 8


def exact_unit(row: np.ndarray) -> list[float]:
    """Divide by the root of the sum of squares, in rational numbers of 200 bits."""
    entries = [Fraction(float(value)) for value in row]
    square = sum(value * value for value in entries)
    if square == 0:
        return [0.0] * len(entries)
    scale = 1 << 4000
    root = Fraction(isqrt(int(square * scale * scale)), scale)
    return [float(value / root) for value in entries]


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_rows_have_their_exact_direction(dtype: type, data: st.DataObject) -> None:
    limits = np.finfo(dtype)
    bits = {np.float16: 16, np.float32: 32, np.float64: 64}[dtype]
    size = data.draw(st.sampled_from([limits.smallest_subnormal, limits.tiny, 1.0, limits.max, None]))
    elements = st.floats(width=bits, allow_nan=False, allow_infinity=False)
    row = data.draw(arrays.arrays(dtype, st.integers(1, 16), elements=elements))
    if size is not None and np.any(row):  # every scale is tried, not only the one that is drawn most
        row = (row / np.abs(row).max() * dtype(size)).astype(dtype)
    got = unit_length(row[None])[0]
    assert got.dtype == dtype
    tolerance = ROUNDINGS * float(limits.eps)
    np.testing.assert_allclose(got.astype(float), exact_unit(row), rtol=tolerance, atol=float(limits.tiny))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_ends_of_the_range(dtype: type) -> None:
    limits = np.finfo(dtype)
    rows = np.array([[1, 0, 0, 1]], dtype=dtype) * np.array(
        [[limits.max], [limits.tiny], [limits.smallest_subnormal], [1]], dtype=dtype
    )
    np.testing.assert_allclose(unit_length(rows)[:, 0], np.sqrt(0.5), rtol=2 * float(limits.eps))
    with np.errstate(all="raise"):  # nor does anything warn
        unit_length(rows)


@pytest.mark.parametrize("dtype", DTYPES)
def test_scaling_a_row_by_a_power_of_two_changes_nothing(dtype: type) -> None:
    rows = np.random.default_rng(0).normal(size=(5, 7)).astype(dtype)
    power = np.finfo(dtype).maxexp // 2
    for exponent in (-power // 2, power):
        scaled = unit_length((rows * dtype(2.0) ** exponent).astype(dtype))
        np.testing.assert_allclose(scaled, unit_length(rows), rtol=4 * float(np.finfo(dtype).eps), atol=0)


def test_rows_of_zeros_stay_zeros_beside_others() -> None:
    rows = np.array([[0.0, 0.0], [1e20, 0.0], [0.0, 1e-25]], dtype=np.float32)
    assert unit_length(rows).tolist() == [[0, 0], [1, 0], [0, 1]]
    assert cosine_logits(rows, rows, 1.0).tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_other_shapes() -> None:
    assert unit_length(np.zeros((0, 3), np.float32)).shape == (0, 3)
    assert unit_length(np.full((2, 3, 4), 1e25, np.float32))[1, 2].tolist() == [0.5] * 4
    assert unit_length(np.array([0.0, 3e38], np.float32)).tolist() == [0, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_never_taken_for_a_direction(bad: float) -> None:
    got = unit_length(np.array([[1.0, bad], [3.0, 4.0]]))
    assert np.isnan(got[0]).any()
    assert got[1].tolist() == [0.6, 0.8]


def test_many_rows_are_scaled_as_each_alone():
    """Rows are scaled in blocks; neither their number nor their place changes a bit."""
    X = np.random.default_rng(0).standard_normal((10, 24)).astype(np.float32)
    together = unit_length(X, block=3 * 24)
    assert together.dtype == X.dtype
    for row, alone in zip(together, X, strict=True):
        np.testing.assert_array_equal(row, unit_length(alone[None])[0])
