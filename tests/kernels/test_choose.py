"""Which kernel runs."""

import pytest
import torch

from cafe.errors import CafeWarning, InputError
from cafe.kernels import cards, choose
from cafe.kernels.cards import Card
from cafe.kernels.choose import choose_kernel, triton_products


def test_triton_is_taken_where_it_can_run_and_else_said_why_not(monkeypatch):
    card = {"capability": (9, 0), "shared": 227 * 1024, "compiler": True}
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(choose, "has_triton", lambda: True)
    monkeypatch.setattr(choose, "has_compiler", lambda: card["compiler"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: card["capability"])
    monkeypatch.setattr(cards, "card_of", lambda device: Card(card["shared"], 132))
    assert choose_kernel("auto", "cuda:0") == choose_kernel("triton", "cuda:0") == "triton"
    for change, words in (
        ({"capability": (7, 0)}, "compute capability 7.0"),
        ({"shared": 4096}, "4096 bytes of shared memory"),
        ({"compiler": False}, "C compiler"),
    ):
        before = {key: card[key] for key in change}
        card.update(change)
        with pytest.warns(CafeWarning, match=words):
            assert choose_kernel("auto", "cuda:0") == "reference"
        with pytest.raises(InputError, match=words):
            choose_kernel("triton", "cuda:0")
        card.update(before)


def test_auto_multiplies_in_bfloat16_where_a_gpu_has_matrix_units_for_it(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for capability, taken in (((9, 0), "bfloat16"), ((8, 0), "bfloat16"), ((7, 5), "float32")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, answer=capability: answer)
        assert triton_products("auto", "cuda:0") == taken
        assert [triton_products(dtype, "cuda:0") for dtype in ("float32", "tf32")] == ["float32", "tf32"]
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert triton_products("auto", "cuda:0") == "float32"


def test_a_compiler_is_looked_for_where_triton_looks(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert not choose.has_compiler()
    own = tmp_path / "mycc"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("CC", str(own))
    assert choose.has_compiler()


def test_a_kernel_asked_for_is_met_or_refused(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert choose_kernel("auto", "cpu") == "cpu"
    assert choose_kernel("auto", "mps") == "reference"
    assert choose_kernel("reference", "cuda:0") == "reference"
    with pytest.raises(InputError, match="cannot run on device 'cuda:0'"):
        choose_kernel("cpu", "cuda:0")
    with pytest.raises(InputError, match="kernel 'triton'"):
        choose_kernel("triton", "cpu")
