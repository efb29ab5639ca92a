"""APE and APE-T against loops written from their equations."""

import numpy as np
import pytest
import torch
from made_up_rows import rows_around_text, unit

from cafe import APE, APET, fit_many
from cafe.errors import InputError
from cafe.methods.ape import chosen_channels, similarity_between_classes
from cafe.methods.objectives.ape_t import KEPT_BYTES, KeyedRows, ResidualKeysObjective
from cafe.methods.objectives.base import Result
from cafe.training.trainer import Batch


@pytest.fixture
def problem():
    return rows_around_text([3, 0, 1, 1, 3, 0, 3], width=10)  # unsorted, unbalanced, no row of class 2


def test_similarity_is_the_four_nested_loops(problem):
    X, y, text, _ = problem
    rows = [[text[c], *X[y == c]] for c in range(4)]
    total, count = np.zeros(10), 0
    for i in range(4):
        for j in range(4):
            for m in rows[i]:
                for n in rows[j]:
                    if i != j:
                        total, count = total + m * n, count + 1
    np.testing.assert_allclose(similarity_between_classes(X, y, text), total / count, rtol=1e-12)


def test_ape_is_its_equations(problem):
    X, y, text, queries = problem
    f, k, t = unit(queries), unit(X), unit(text)
    kept = chosen_channels(k, y, t, 0.5, 0.3)
    criterion = 0.3 * t.var(axis=0, ddof=1) - 0.7 * similarity_between_classes(k, y, t)
    assert set(kept) == set(np.argsort(criterion)[-5:])
    expected = 50 * f @ t.T
    for q in range(5):
        for i in range(7):
            prior = np.exp(unit(k[i, kept]) @ unit(t[:, kept]).T)
            weight = np.exp(0.4 * np.log2(prior.sum() / prior[y[i]]))
            expected[q, y[i]] += 2.0 * np.exp(-3.0 * (1 - unit(f[q, kept]) @ unit(k[i, kept]))) * weight
    model = APE(text, alpha=2.0, beta=3.0, gamma=0.4, logit_scale=50.0).fit(X, y)
    np.testing.assert_allclose(model.logits(queries), expected, rtol=1e-9)


def test_ape_grid_shares_the_prior_and_gives_what_single_fits_give(problem):
    X, y, text, queries = problem
    for fit in fit_many(X, y, [APE(text, alpha=a, gamma=g, share=s) for a in (1, 2) for g in (0, 1) for s in (0.3, 1)]):
        single = APE(**fit.get_params()).fit(X, y)
        np.testing.assert_array_equal(fit.logits(queries), single.logits(queries))


def test_ape_scores_a_grid_together_as_one_by_one(problem):
    from cafe.protocol.selection import score_fitted

    X, y, text, queries = problem
    labels = np.array([0, 1, 3, 2, 0])
    grid = [
        APE(text, alpha=a, beta=b, gamma=g, logit_scale=10.0)
        for a in (0.1, 7.0)
        for b in (0.1, 4.0)
        for g in (0.0, 1.0)
    ]
    for rows in (np.arange(7), np.array([0, 2, 3, 6])):  # the second without class 0
        fits = fit_many(X, y, grid, [rows] * len(grid))
        for score, fit in zip(APE.score_grid(fits, queries, labels), fits, strict=True):
            alone = score_fitted(fit, queries, labels)
            assert score == alone
            np.testing.assert_array_equal(score.correct, alone.correct)
    apart = fit_many(X, y, [APE(text), APE(text, share=0.3)], [rows, rows])
    assert APE.score_grid(apart, queries, labels) is None


@pytest.mark.parametrize(
    "key_labels",
    [[2, 0, 1, 2], [1, 0, 0, 1, 2, 2], [2, 2, 0, 2, 1, 2, 2, 2]],
    ids=["layers with gaps", "balanced", "sorted by class"],
)
@pytest.mark.parametrize("kept_bytes", [KEPT_BYTES, 0])
@pytest.mark.parametrize("small", [False, True])
def test_ape_t_loss_and_gradients_are_its_equation_and_inference_agrees(key_labels, kept_bytes, small):
    sizes = {"kept_bytes": kept_bytes}
    if small:  # blocks of one row, and layers one by one
        sizes |= {"block_bytes": 1, "product_block_bytes": 1, "least_layer": 0}
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    n, key_labels = len(key_labels), torch.tensor(key_labels)
    text, keys, queries = draw(3, 6), draw(n, 6), draw(1, 5, 6)
    labels = torch.tensor([[0, 1, 2, 2, 0]])
    kept = torch.tensor([0, 2, 3, 5])
    x, v = 0.3 * draw(1, 3, 4), 1 + 0.1 * draw(1, n)
    hyper = {
        k: torch.tensor([a], dtype=torch.float64)
        for k, a in (("alpha", 2.0), ("beta", 0.7), ("logit_scale", 4.0), ("index", 0))
    }
    objective = ResidualKeysObjective(text, [KeyedRows.of(keys, key_labels, kept)], **sizes)
    parameters = {"residual": x, "values": v}
    losses, gradients = objective.losses_and_gradients(Batch((n, 4), parameters, hyper, queries, labels, None))
    step = objective.stepper((n, 4), hyper, queries[0], labels[0], None)
    for _ in range(2):  # buffers are used again
        own = step(parameters, torch.arange(5)[None], True)
        torch.testing.assert_close(own, (losses, gradients), rtol=1e-11, atol=1e-12)
    residual = torch.zeros(3, 6).double()
    residual[:, kept] = x[0]
    logits = torch.zeros(5, 3).double()
    for q in range(5):
        for c in range(3):
            logits[q, c] = 4.0 * queries[0, q] @ (text[c] + residual[c])
        for i, c in enumerate(key_labels):
            affinity = queries[0, q] @ (keys[i] + residual[c])
            logits[q, c] += 2.0 * torch.exp(-0.7 * (1 - affinity)) * v[0, i]
    expected = (torch.logsumexp(logits, 1) - logits[torch.arange(5), labels[0]]).mean()
    assert losses.item() == pytest.approx(expected.item(), rel=1e-12)
    model = APET(text.numpy(), alpha=2.0, beta=0.7, logit_scale=4.0, normalize=False, share=1.0, epochs=1, lr=0.0)
    model.fit(keys.numpy(), key_labels.numpy())
    model.channels_ = kept.numpy()[::-1].copy()

    class Problem:
        X, y, class_embeddings = keys.numpy(), key_labels.numpy(), text.numpy()

    model._store(Result(Problem, None, {"residual": x[0].numpy(), "values": v[0].numpy()}, objective))
    np.testing.assert_allclose(model.logits(queries[0].numpy()), logits.numpy(), rtol=1e-10)


def test_ape_t_starts_at_tip_adapter_and_learns(problem):
    from cafe import TipAdapter

    X, y, text, queries = problem
    start = APET(text, lr=0.0, weight_decay=0.0, dtype="float64").fit(X, y)
    np.testing.assert_allclose(start.logits(queries), TipAdapter(text, alpha=2.0).fit(X, y).logits(queries), rtol=1e-9)
    long = APET(text, epochs=200, random_state=0).fit(X, y[::-1])
    assert long.loss_ < APET(text, epochs=1, random_state=0).fit(X, y[::-1]).loss_


def test_bad_parameters(problem):
    X, y, text, _ = problem
    with pytest.raises(InputError, match="share of ape must be"):
        APE(text, share=0.0).fit(X, y)
    with pytest.raises(InputError, match="share of ape-t must be"):
        APET(text, share=2).fit(X, y)
    with pytest.raises(InputError, match="beta"):
        APE(text, beta=-1.0).fit(X, y)
