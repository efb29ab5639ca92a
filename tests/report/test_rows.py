"""Values of rows become what JSON can hold, or are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cafe.report.rows import plain


def test_numpy_values_become_plain():
    value = {"a": np.float32(0.5), "b": np.array([1, 2]), "c": np.float64("inf"), "d": np.bool_(True), "e": np.int64(3)}
    assert json.dumps(plain(value), allow_nan=False) == '{"a": 0.5, "b": [1, 2], "c": null, "d": true, "e": 3}'


def test_what_is_not_plain_is_refused():
    with pytest.raises(TypeError, match="object"):
        plain({"x": object()})
