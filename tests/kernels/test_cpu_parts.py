"""The adapter's step in parts, each thread with rows of its own, against the whole step."""

import threading
from functools import partial

import pytest
import torch

from cafe.compute import run_each
from cafe.kernels.cpu import CpuAdapterStep
from cafe.kernels.cpu_parts import Barrier, BarrierBrokenError, CpuPartedSteps, parts_of
from cafe.kernels.optimizers import copied_in_a_row
from cafe.kernels.reference import AdapterShape
from cafe.training.steps import Configuration, train_in_parts, train_step_by_step

N, D, C, H, B, STEPS = 300, 24, 9, 7, 150, 12


@pytest.fixture(autouse=True)
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def problem(form, folded, dtype):
    """Return a fresh step of random rows, and parameters, always the same."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32

    def draw(*size):
        return torch.randn(*size, generator=generator).to(wide)

    X, text = torch.nn.functional.normalize(draw(N, D), dim=-1), draw(1, C, D)
    X[3] = 0  # has no direction
    y = torch.randint(0, C, (N,), generator=generator)
    hyper = {"alpha": torch.tensor([0.3]), "beta": torch.tensor([0.2]), "logit_scale": torch.tensor([20.0])}
    hyper = {name: value.to(wide) for name, value in hyper.items()}
    parameters = copied_in_a_row({"image_down": draw(1, D, H) / D**0.5, "image_up": draw(1, H, D) / H**0.5})
    shape = AdapterShape("image", form, H)
    return CpuAdapterStep(shape, hyper, X.to(dtype), y, text, X.mean(0)[None, None], folded), parameters


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("form", ["paper", "released"])
@pytest.mark.parametrize("folded", [False, True], ids=["direct", "folded"])
@pytest.mark.parametrize(
    ("dtype", "apart"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.02)], ids=str
)
@pytest.mark.parametrize("threads", [2, 4])
def test_parts_take_the_steps_of_the_whole(form, folded, dtype, apart, optimizer, threads):
    generator = torch.Generator().manual_seed(1)
    batches = torch.randint(0, N, (1, STEPS, B), generator=generator)
    blocks = batches[:, :7], batches[:, 7:]
    first = Configuration(None, 0, None, {}, STEPS, B, 0.01, 0.1, optimizer)
    rates, decay = torch.tensor([0.01]), torch.tensor([0.1])
    step, whole = problem(form, folded, dtype)
    start = {name: value.clone() for name, value in whole.items()}
    rates, decay = rates.to(start["image_up"]), decay.to(start["image_up"])
    losses = train_step_by_step(step, first, whole, blocks, rates, decay)
    step, parted = problem(form, folded, dtype)
    of_parts = train_in_parts(CpuPartedSteps(step, threads, least_rows=32), first, parted, blocks, rates, decay)
    torch.testing.assert_close(of_parts, losses, rtol=apart, atol=0)
    for name, value in whole.items():
        moved = (value - start[name]).norm()
        assert moved > 0
        assert (parted[name] - value).norm() <= apart * moved
    assert torch.get_num_threads() == 4


def test_an_adapter_of_text_or_a_trained_ratio_has_no_parts_and_few_rows_are_not_cut():
    image = AdapterShape("image", "paper", 128)
    assert [parts_of(image, 256, 512, 1000, threads) for threads in (1, 2, 3, 4, 64)] == [1, 2, 2, 4, 4]
    assert [parts_of(image, b, 512, 1000, 8) for b in (1, 64, 127, 128, 256)] == [1, 1, 1, 2, 4]
    assert parts_of(image, 256, 512, 20_000, 2) == 1  # logits of a part would not stay in cache
    for variant, mode in (("text", "fixed"), ("both", "fixed"), ("image", "scalar"), ("image", "learned")):
        assert parts_of(AdapterShape(variant, "paper", 128, mode), 256, 512, 1000, 2) == 1


def test_no_thread_passes_a_barrier_before_all_have_arrived():
    """Each thread counts its turns; behind the barrier all counts are equal."""
    barrier, turns, are_equal = Barrier(3), [0, 0, 0], []

    def count_turns(thread):
        for turn in range(200):
            turns[thread] += 1
            barrier(thread)
            are_equal.append(set(turns) == {turn + 1})
            barrier(thread)

    run_each([partial(count_turns, thread) for thread in range(3)])
    assert len(are_equal) == 600
    assert all(are_equal)


def test_a_failure_of_one_thread_ends_all():
    step, parameters = problem("paper", True, torch.float32)
    batches = torch.zeros(1, STEPS, B, dtype=torch.int64)
    batches[0, 5, 0] = N  # no such row: only the first thread has it
    first = Configuration(None, 0, None, {}, STEPS, B, 0.01, 0.1, "adamw")
    with pytest.raises((IndexError, RuntimeError), match="index"):
        steps = CpuPartedSteps(step, 2, least_rows=32)
        train_in_parts(steps, first, parameters, [batches], torch.ones(1), torch.ones(1))
    assert threading.active_count() < 20
    barrier = Barrier(2)
    barrier.is_broken = True
    with pytest.raises(BarrierBrokenError):
        barrier(0)
