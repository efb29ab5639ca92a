"""Which kernel runs, and in which precision."""

import pytest
import torch

from cafe.errors import InputError
from cafe.kernels.choose import choose_kernel, has_bfloat16_products, precisions


def test_wishes_are_met_or_refused(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert choose_kernel("auto", "cpu") == "cpu"
    assert choose_kernel("auto", "mps") == "reference"
    assert choose_kernel("reference", "cuda:0") == "reference"
    with pytest.raises(InputError, match="cannot run on device 'cuda:0'"):
        choose_kernel("cpu", "cuda:0")
    with pytest.raises(InputError, match="kernel 'triton'"):
        choose_kernel("triton", "cpu")
    with pytest.raises(InputError, match="no bfloat16 products"):
        precisions("bfloat16", "reference", 1)
    with pytest.raises(InputError, match="kernel 'cpu' has no tf32 products"):
        precisions("tf32", "cpu", 1)
    with pytest.raises(InputError, match="sums in float32"):
        precisions("float64", "triton", 1)
    assert precisions("tf32", "triton", 1) == (torch.float32, torch.float32)
    assert precisions("bfloat16", "cpu", 1) == (torch.float32, torch.bfloat16)
    assert precisions("auto", "cpu", 1) == (torch.float32, torch.float32)
    large = torch.bfloat16 if has_bfloat16_products() else torch.float32
    assert precisions("auto", "cpu", 10**9) == (torch.float32, large)
    assert precisions("auto", "reference", 10**9) == (torch.float32, torch.float32)
