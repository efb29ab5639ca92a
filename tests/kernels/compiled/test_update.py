"""The compiled optimiser against the ones written in PyTorch, in float64."""

import pytest
import torch

from cafe.errors import InputError
from cafe.kernels.compiled.library import why_not_compiled
from cafe.kernels.compiled.update import CompiledUpdate
from cafe.kernels.cpu_sides import in_order_of_step
from cafe.kernels.optimizers import SGD, AdamW, copied_in_a_row, empty_in_a_row

pytestmark = pytest.mark.skipif(bool(why_not_compiled()), reason=why_not_compiled())
G = 3


def trained(dtype=torch.float32):
    """Return parameters of three configurations, two maps in a row in memory and a number each."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"image_down": (G, 19, 5), "image_up": (G, 5, 19), "alpha_bias": (G,)}
    drawn = {name: torch.randn(*shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    return copied_in_a_row(in_order_of_step({name: value.to(dtype) for name, value in drawn.items()}))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("rates", [[1e-2] * G, [1e-2, 1e-3, 0.0]], ids=["one rate", "rates"])
@pytest.mark.parametrize("decays", [[0.1] * G, [0.0, 0.1, 0.2]], ids=["one decay", "decays"])
@pytest.mark.parametrize("slopes", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rounds", [False, True])
def test_steps_are_those_of_the_formulas(name, rates, decays, slopes, rounds):
    own, exact = trained(), {key: value.double() for key, value in trained().items()}
    narrow = empty_in_a_row(own, torch.bfloat16) if rounds else None
    update = CompiledUpdate(name, own, torch.tensor(decays), 1e-8, narrow)
    decay = torch.tensor(decays, dtype=torch.float64)
    truth = AdamW(exact, decay) if name == "adamw" else SGD(exact, decay)
    generator = torch.Generator().manual_seed(1)
    gradients = empty_in_a_row(own, slopes)
    if slopes == torch.bfloat16:
        gradients["alpha_bias"] = torch.empty(G)  # a ratio's gradient stays in float32
    for _ in range(5):
        for value in gradients.values():
            value.copy_(torch.randn(value.shape, generator=generator))
        update(own, gradients, rates)
        exact_gradients = {key: value.double() for key, value in gradients.items()}
        truth(exact, exact_gradients, torch.tensor(rates, dtype=torch.float64))
    for key, value in own.items():
        # Ten roundings a step of a number of size 1, of a step of a hundredth.
        torch.testing.assert_close(value.double(), exact[key], rtol=5 * 2**-22, atol=5e-7)
        if narrow is not None:
            assert torch.equal(narrow[key], value.bfloat16())


def test_rates_may_be_a_tensor_and_names_are_checked():
    own, other = trained(), trained()
    gradients = {key: torch.ones_like(value) for key, value in own.items()}
    CompiledUpdate("adamw", own, torch.zeros(G), 1e-8, None)(own, gradients, torch.full((G,), 0.01))
    CompiledUpdate("adamw", other, torch.zeros(G), 1e-8, None)(other, gradients, [0.01] * G)
    assert all(torch.equal(own[key], other[key]) for key in own)
    with pytest.raises(InputError, match="adamw"):
        CompiledUpdate("adam", own, torch.zeros(G), 1e-8, None)


def test_gradients_that_lie_in_another_order_are_refused():
    """A pass walks memory, whatever strides say."""
    own = trained()
    gradients = {key: torch.ones(value.shape) for key, value in own.items()}  # W1 as (d, h)
    with pytest.raises(ValueError, match="image_down"):
        CompiledUpdate("sgd", own, torch.zeros(G), 1e-8, None)(own, gradients, [0.01] * G)
