"""Which kernel runs."""

import pytest

from cafe.errors import InputError
from cafe.kernels.choose import choose_kernel


def test_a_kernel_asked_for_is_met_or_refused(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert choose_kernel("auto", "cpu") == "cpu"
    assert choose_kernel("auto", "mps") == "reference"
    assert choose_kernel("reference", "cuda:0") == "reference"
    with pytest.raises(InputError, match="cannot run on device 'cuda:0'"):
        choose_kernel("cpu", "cuda:0")
    with pytest.raises(InputError, match="kernel 'triton'"):
        choose_kernel("triton", "cpu")
