"""The projection's step against autograd in float64 and finite differences, in blocks, in every precision."""

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from cafe.kernels.projection import ProjectionStep


def problem(g=2, b=13, p=11, d=9, c=7, seed=0):
    """Arguments of a step, the changes of its projections, and the rows of its batches."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    n, each = 2 * b, torch.arange(g, dtype=torch.float64)
    hyper = {"logit_scale": 5 + 3 * each, "strength": 0.1 * each}
    start, bias, text = draw(p, d) / p**0.5, 0.1 * draw(d), draw(c, d)
    y = torch.randint(0, c, (n,), generator=generator)
    index = torch.stack([torch.randperm(n, generator=generator)[:b] for _ in range(g)])
    return (hyper, draw(n, p), y, start, bias, text), 0.1 * draw(g, p, d), index


def losses_of(arguments, change, index):
    """The equation in plain torch."""
    hyper, X, y, start, bias, text = arguments
    losses = []
    for k, rows in enumerate(index):
        cosines = normalize(X[rows] @ (start + change[k]) + bias, dim=-1) @ normalize(text, dim=-1).T
        pull = hyper["strength"][k] * change[k].square().sum()
        losses.append(cross_entropy(hyper["logit_scale"][k] * cosines, y[rows]) + pull)
    return torch.stack(losses)


def autograd(arguments, change, index):
    change = change.detach().requires_grad_()
    losses = losses_of(arguments, change, index)
    losses.sum().backward()
    return losses.detach(), change.grad


@pytest.mark.parametrize("block", [{}, {"block_bytes": 1, "least_rows": 5}], ids=["whole", "blocks"])
def test_float64_is_autograd_at_every_step(block):
    arguments, change, index = problem()
    step = ProjectionStep(*arguments, **block)
    for _ in range(2):
        losses, gradients = step({"change": change}, index)
        for own, truth in zip((losses, gradients["change"]), autograd(arguments, change, index), strict=True):
            torch.testing.assert_close(own, truth, rtol=1e-10, atol=1e-10)
        # The next batch has the same rows in another order.
        change, index = 2 * change, index.flip(1)
    assert step({"change": change}, index, with_losses=False)[0] is None


def test_the_gradient_is_the_finite_difference():
    arguments, change, index = problem(b=5, p=4, d=3, c=3)
    gradient, h = ProjectionStep(*arguments)({"change": change}, index)[1]["change"], 1e-6
    for k, i, j in torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(3)).tolist():
        move = torch.zeros_like(change)
        move[k, i, j] = h
        difference = losses_of(arguments, change + move, index) - losses_of(arguments, change - move, index)
        # Central differences: truncation about h^2, rounding about 1e-16 / h.
        assert gradient[k, i, j].item() == pytest.approx(difference.sum().item() / (2 * h), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block", [{}, {"block_bytes": 1, "least_rows": 32}], ids=["whole", "blocks"])
def test_lower_precisions_round_no_more_than_autograd_would(dtype, block):
    """As far from float64 as autograd whose operands have that precision, and what lies between them, allow."""
    (hyper, X, y, start, bias, text), change, index = problem(b=64, p=96, d=80, c=40)
    arguments = (hyper, X, y, start, bias, text)
    truth = autograd(arguments, change, index)[1]
    rounded = (hyper, X.to(dtype).double(), y, start, bias, normalize(text, dim=-1).to(dtype).double())
    coarse = autograd(rounded, change.to(dtype).double(), index)[1]
    narrow = [hyper | {k: v.float() for k, v in hyper.items()}, X.float(), y, start.float(), bias.float(), text.float()]
    gradient = ProjectionStep(*narrow, dtype, **block)({"change": change.float()}, index)[1]["change"]
    assert gradient.dtype == torch.float32
    # Rounded beside the operands: v, V and logits of at most s, each of which moves a probability by a part of s; the
    # error, its product with T, dv and the sums of products.
    part = (1.5 * float(hyper["logit_scale"].max()) + 4) * torch.finfo(dtype).eps
    assert (gradient.double() - truth).norm() <= 2 * ((coarse - truth).norm() + part * truth.norm())


def test_a_change_far_below_the_projection_is_not_rounded_away_in_bfloat16():
    """A tenth of a percent of the identity is below half of bfloat16's spacing at one, 2^-8."""
    generator = torch.Generator().manual_seed(0)
    X, eye = torch.randn(200, 64, generator=generator), torch.eye(64)
    y, text = torch.arange(200) % 20, torch.randn(20, 64, generator=generator)
    hyper = {"logit_scale": torch.tensor([100.0]), "strength": torch.zeros(1)}

    def loss(products, change):
        step = ProjectionStep(hyper, X, y, eye, torch.zeros(64), text, products)
        return step({"change": change}, torch.arange(200)[None])[0].item()

    # Along the diagonal and against the gradient: the loss falls by as much as in float32.
    zero = torch.zeros(1, 64, 64)
    gradient = ProjectionStep(hyper, X, y, eye, torch.zeros(64), text)({"change": zero}, torch.arange(200)[None])[1]
    change = torch.diag_embed(-1e-3 * gradient["change"][0].diagonal().sign())[None]
    exact = loss(torch.float32, change) - loss(torch.float32, zero)
    assert exact < -1e-3
    assert loss(torch.bfloat16, change) - loss(torch.bfloat16, zero) == pytest.approx(exact, rel=0.3)


def test_a_row_that_is_projected_to_zero_has_no_gradient():
    arguments, change, index = problem(g=1)
    arguments[1][:], arguments[4][:] = 0, 0
    losses, gradients = ProjectionStep(*arguments)({"change": change}, index)
    assert torch.isfinite(losses).all() and (gradients["change"] == 2 * arguments[0]["strength"][0] * change).all()
