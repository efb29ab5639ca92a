"""The learning rate, and recorded steps: the logic around a CUDA graph, with a recorder that runs on a CPU."""

import pytest
import torch

from cafe.kernels.optimizers import AdamW
from cafe.training import steps
from cafe.training.steps import LossThenUpdate, RecordedSteps, drawn_ahead, learning_rates, schedule

G, B, N, STEPS, BLOCK, TAIL = 2, 3, 11, 10, 4, 3


class Counted(AdamW):
    """AdamW that can be put back, as a recorder asks; its count lives in a tensor."""

    def __init__(self, parameters, decay):
        super().__init__(parameters, decay)
        self.count = torch.zeros(1, dtype=torch.int64)

    def state(self):
        return [*self.first.values(), *self.second.values(), self.count]

    def __call__(self, parameters, gradients, lr):
        self.t = int(self.count)
        super().__call__(parameters, gradients, lr)
        self.count += 1


def problem():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(N, 5, generator=generator, dtype=torch.float64)
    index = torch.randint(0, N, (G, STEPS, B), generator=generator)
    parameters = {"w": torch.randn(G, 5, generator=generator, dtype=torch.float64)}
    lr = torch.tensor([0.1, 0.02], dtype=torch.float64)

    def take(p, rows, with_losses):
        error = (X[rows] @ p["w"][:, :, None])[..., 0] - 1  # (g, b)
        return error.square().mean(1), {"w": 2 * (error[..., None] * X[rows]).mean(1)}

    return take, index, parameters, lr, torch.tensor([0.0, 0.3], dtype=torch.float64)


def plain():
    take, index, parameters, lr, decay = problem()
    update, factor, losses = AdamW(parameters, decay), schedule(STEPS, 2), []
    for step in range(STEPS):
        loss, gradients = take(parameters, index[:, step], True)
        update(parameters, gradients, factor(step, lr))
        losses.append(loss)
    return parameters["w"], torch.stack(losses[-TAIL:]).mean(0)


def test_replayed_steps_are_the_plain_loop():
    take, index, parameters, lr, decay = problem()
    factor = schedule(STEPS, 2)
    rates = torch.stack([factor(step, lr) for step in range(STEPS)])
    recorded = []

    def record(body, state):
        before = [value.clone() for value in state]
        steps._undone(body, state)  # a warm-up
        # It leaves nothing behind: neither in parameters nor in moments and counters.
        assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))
        recorded.append(body)
        return body

    blocks = [index[:, start : start + BLOCK] for start in range(0, STEPS, BLOCK)]  # 4, 4 and 2 steps
    start = parameters["w"].clone()
    whole_step = LossThenUpdate(take, Counted(parameters, decay), parameters)
    whole = RecordedSteps(whole_step, parameters, rates, TAIL, record, graph_steps=3)
    tail = whole(blocks)
    weights, losses = plain()
    assert len(recorded) == 2  # three steps together, and one alone
    torch.testing.assert_close(parameters["w"], weights, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(tail, losses, rtol=1e-12, atol=1e-12)
    # Another stack of the same form is trained by the same recordings.
    parameters["w"].copy_(start)
    whole.restart(rates.clone())
    torch.testing.assert_close(whole(blocks), losses, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parameters["w"], weights, rtol=1e-12, atol=1e-12)
    assert len(recorded) == 2


def test_a_replay_reads_what_the_first_call_read():
    """A graph replays on the same memory: the same tensors are read and written at every step."""
    take, index, parameters, lr, decay = problem()
    rates, seen = lr.expand(STEPS, G).contiguous(), []

    def record(body, state):
        places = [value.data_ptr() for value in state]

        def replay():
            body()
            seen.append([value.data_ptr() for value in state] == places)

        return replay

    blocks = [index[:, start : start + BLOCK] for start in range(0, STEPS, BLOCK)]
    whole_step = LossThenUpdate(take, Counted(parameters, decay), parameters)
    RecordedSteps(whole_step, parameters, rates, TAIL, record)(blocks)
    assert seen == [True] * STEPS


def test_a_table_of_rates_is_the_schedule():
    peak = torch.tensor([1e-3, 0.3])
    for n, warm_up in ((10, 0), (10, 3), (2, 5), (1, 0)):
        factor = schedule(n, warm_up)
        assert torch.equal(learning_rates(n, warm_up, peak), torch.stack([factor(step, peak) for step in range(n)]))


def test_blocks_are_drawn_ahead_in_order():
    drawn = []

    def blocks():
        for number in range(4):
            drawn.append(number)
            yield torch.tensor([number])

    for used, block in enumerate(drawn_ahead(blocks(), False)):
        assert int(block) == used
        assert len(drawn) <= used + 2  # one more than is used, at most

    def failing():
        yield torch.tensor([0])
        raise ValueError("no more rows")

    with pytest.raises(ValueError, match="no more rows"):
        list(drawn_ahead(failing(), False))


def test_warm_up_is_constant_then_cosine():
    factor, peak = schedule(10, 2), torch.tensor([1.0])
    assert [round(factor(t, peak).item(), 6) for t in (0, 1, 2, 6)] == [1e-05, 1e-05, 1.0, 0.5]
