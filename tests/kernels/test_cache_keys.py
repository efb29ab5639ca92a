"""The step of Tip-Adapter-F's keys against autograd in float64 and finite differences, in every precision."""

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize, one_hot

from cafe.kernels.cache_keys import KeysStep

BLOCKS = [{}, {"block_bytes": 1, "least_keys": 4}]


def problem(g=2, b=13, d=9, c=7, n=30, K=17, seed=0):
    """Arguments of a step, its keys, and the rows of its batches; some classes have no key."""
    generator = torch.Generator().manual_seed(seed)

    def unit(*size):
        return normalize(torch.randn(*size, generator=generator, dtype=torch.float64), dim=-1)

    each = torch.arange(g, dtype=torch.float64)
    hyper = {"alpha": 1.5 + each, "beta": 2.0 - 0.7 * each, "logit_scale": 10 + 5 * each}
    y = torch.randint(0, c, (n,), generator=generator)
    owner = torch.randint(0, c - 1, (K,), generator=generator).sort().values
    index = torch.stack([torch.randperm(n, generator=generator)[:b] for _ in range(g)])
    return (hyper, unit(n, d), y, unit(c, d), owner), 1.1 * unit(g, K, d), index


def losses_of(arguments, keys, index):
    """The equation in plain torch, with one-hot values."""
    hyper, X, y, text, owner = arguments
    values = one_hot(owner, len(text)).to(X.dtype)
    losses = []
    for k, rows in enumerate(index):
        alpha, beta, s = (hyper[name][k] for name in ("alpha", "beta", "logit_scale"))
        affinities = torch.exp(-beta * (1 - X[rows] @ keys[k].T))
        losses.append(cross_entropy(s * X[rows] @ text.T + alpha * affinities @ values, y[rows]))
    return torch.stack(losses)


def autograd(arguments, keys, index):
    keys = keys.detach().requires_grad_()
    losses = losses_of(arguments, keys, index)
    losses.sum().backward()
    return losses.detach(), keys.grad


@pytest.mark.parametrize("block", BLOCKS, ids=["whole", "blocks"])
@pytest.mark.parametrize("known", [False, True], ids=["each batch", "cosines of all rows"])
def test_float64_is_autograd_at_every_step(block, known):
    arguments, keys, index = problem()
    _, X, _, text, _ = arguments
    step = KeysStep(*arguments, X @ text.T if known else None, **block)
    for _ in range(2):
        losses, gradients = step({"keys": keys}, index)
        for own, truth in zip((losses, gradients["keys"]), autograd(arguments, keys, index), strict=True):
            torch.testing.assert_close(own, truth, rtol=1e-10, atol=1e-10)
        keys, index = 0.9 * keys.flip(1), (index + 3) % 30
    assert step({"keys": keys}, index, with_losses=False)[0] is None


def test_without_alpha_keys_have_no_gradient():
    arguments, keys, index = problem(g=1)
    arguments[0]["alpha"][:] = 0
    losses, gradients = KeysStep(*arguments)({"keys": keys}, index)
    torch.testing.assert_close(losses, losses_of(arguments, keys, index))
    assert not gradients["keys"].any()


def test_the_gradient_is_the_finite_difference():
    arguments, keys, index = problem(b=5, d=3, c=3, K=4)
    gradient, h = KeysStep(*arguments)({"keys": keys}, index)[1]["keys"], 1e-6
    for k, i, j in torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(3)).tolist():
        move = torch.zeros_like(keys)
        move[k, i, j] = h
        difference = losses_of(arguments, keys + move, index) - losses_of(arguments, keys - move, index)
        # Central differences: truncation about h^2, rounding about 1e-16 / h.
        assert gradient[k, i, j].item() == pytest.approx(difference.sum().item() / (2 * h), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block", BLOCKS, ids=["whole", "blocks"])
def test_lower_precisions_round_no_more_than_autograd_would(dtype, block):
    """As far from float64 as autograd whose operands have that precision, and what lies between them, allow."""
    (hyper, X, y, text, owner), keys, index = problem(b=64, d=80, c=40, n=200, K=120)
    truth = autograd((hyper, X, y, text, owner), keys, index)[1]
    rounded = (hyper, X.to(dtype).double(), y, text.to(dtype).double(), owner)
    coarse = autograd(rounded, keys.to(dtype).double(), index)[1]
    narrow = {k: v.float() for k, v in hyper.items()}, X.to(dtype), y, text.float(), owner
    # Rounded beside the operands: logits of text, of at most s; beta f and its product with a key, which the affinity
    # has in its exponent; the affinity, which alpha adds to logits; the error, its product with it, and the sums.
    alpha, beta, s = (float(hyper[name].max()) for name in ("alpha", "beta", "logit_scale"))
    for cosines in (None, (X @ text.T).float()):
        gradient = KeysStep(*narrow, cosines, **block)({"keys": keys.float()}, index)[1]["keys"]
        assert gradient.dtype == torch.float32
        part = (s / 2 * (cosines is None) + (1 + alpha) * (2 * beta + 1) + 3) * torch.finfo(dtype).eps
        assert (gradient.double() - truth).norm() <= 2 * ((coarse - truth).norm() + part * truth.norm())
