"""Stacked optimisers against those of torch."""

import numpy as np
import pytest
import torch

from cafe.kernels.optimizers import copied_in_a_row, in_a_row, make_update


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_stacked_optimisers_are_torchs(name):
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(3, 4, 2, generator=generator, dtype=torch.float64)
    gradients = torch.randn(6, 3, 4, 2, generator=generator, dtype=torch.float64)
    rates, decays = torch.tensor([1e-2, 3e-3, 0.1]).double(), torch.tensor([0.0, 0.1, 0.5]).double()
    stacked = {"w": start.clone()}
    update = make_update(name, stacked, decays)
    for gradient in gradients:
        update(stacked, {"w": gradient}, rates)
    for k in range(3):
        weight = torch.nn.Parameter(start[k].clone())
        arguments = {"lr": rates[k].item(), "weight_decay": decays[k].item()}
        if name == "adamw":
            plain: torch.optim.Optimizer = torch.optim.AdamW([weight], **arguments)
        else:
            plain = torch.optim.SGD([weight], momentum=0.9, **arguments)
        for gradient in gradients:
            weight.grad = gradient[k].clone()
            plain.step()
        np.testing.assert_allclose(stacked["w"][k].numpy(), weight.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("rates", [(0.1, 0.1), (0.1, 0.2)], ids=["equal", "each its own"])
def test_tensors_in_a_row_are_updated_as_tensors_apart(name, rates):
    generator = torch.Generator().manual_seed(0)
    sizes = {"down": (2, 5, 3), "bias": (2,), "up": (2, 3, 5)}

    def draw():
        return {key: torch.randn(*size, generator=generator) for key, size in sizes.items()}

    apart = draw()
    together = copied_in_a_row(apart)
    assert in_a_row(together) is not None
    assert in_a_row(apart) is None
    decay, lr = torch.tensor([0.1, 0.1]), torch.tensor(rates)
    updates = [make_update(name, parameters, decay) for parameters in (apart, together)]
    for _ in range(3):
        gradients = draw()
        updates[0](apart, gradients, lr)
        updates[1](together, copied_in_a_row(gradients), lr)
    for key, value in apart.items():
        torch.testing.assert_close(together[key], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("rates", [(0.1, 0.1), (0.1, 0.2)], ids=["equal", "each its own"])
@pytest.mark.parametrize("same", [True, False], ids=["gradients in the same order", "in another"])
def test_parameters_may_have_their_axes_in_another_order_in_memory(name, rates, same):
    """The fused kernels walk memory, whatever the strides say."""
    generator = torch.Generator().manual_seed(0)
    plain = {"down": torch.randn(2, 5, 3, generator=generator), "up": torch.randn(2, 3, 5, generator=generator)}
    swapped = copied_in_a_row({"down": plain["down"].mT.contiguous().mT, "up": plain["up"]})
    assert in_a_row(swapped) is not None
    assert swapped["down"].mT.is_contiguous()
    decay, lr = torch.tensor([0.1, 0.1]), torch.tensor(rates)
    updates = [make_update(name, parameters, decay) for parameters in (plain, swapped)]
    for _ in range(3):
        gradients = {key: torch.randn(value.shape, generator=generator) for key, value in plain.items()}
        updates[0](plain, gradients, lr)
        own = {"down": gradients["down"].mT.contiguous().mT, "up": gradients["up"]} if same else gradients
        updates[1](swapped, copied_in_a_row(own), lr.tolist() if same else lr)
    for key, value in plain.items():
        torch.testing.assert_close(swapped[key], value, rtol=1e-6, atol=1e-7)
