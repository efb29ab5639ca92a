"""One training step of CoOp on ``cafe:mini``: all classes at once against chunks that are encoded again backwards.

    python benchmarks/bench_coop_step.py [--classes 10,100,1000] [--contexts 4,16] [--repeats 3]

Prints processor seconds of a step (so that a busy machine does not count), the bytes that autograd keeps for the
backward pass, and the ratio of both; gradients of the two ways are compared first.
"""

from __future__ import annotations

import argparse
import functools
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from harness import parse, report

from cafe.encoders import open_encoder
from cafe.methods.learned_prompts.prompts import make_prompts
from cafe.methods.objectives.coop import ContextObjective
from cafe.training.trainer import Batch

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def class_names(n: int) -> list[str]:
    """Return n names of one to three words."""
    names = list(DIGITS)
    while len(names) < n:
        names = [f"{name} {digit}" for name in names for digit in DIGITS]
    return names[:n]


def step_of(objective: ContextObjective) -> Callable[[], Any]:
    """Return a function that takes one step on 32 random images."""
    generator = torch.Generator().manual_seed(0)
    contexts = 0.02 * torch.randn((1, *objective.shape), generator=generator)
    features = torch.randn((1, 32, objective.prompts.tower.dim), generator=generator)
    labels = torch.randint(objective.prompts.n_classes, (1, 32), generator=generator)
    scale = {"logit_scale": torch.tensor([100.0])}
    batch = Batch(None, {"contexts": contexts}, scale, features, labels, features)
    return lambda: objective.losses_and_gradients(batch)


def kept_bytes(step: Callable[[], Any], weights: set[int]) -> int:
    """Return the most bytes that autograd holds at once for the backward pass, without the tower's weights."""
    held = most = 0

    class Kept:
        def __init__(self, tensor: torch.Tensor) -> None:
            nonlocal held, most
            self.tensor = tensor
            self.size = 0 if tensor.data_ptr() in weights else tensor.numel() * tensor.element_size()
            held += self.size
            most = max(most, held)

        def __del__(self) -> None:
            nonlocal held
            held -= self.size

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        step()
    return most


def processor_seconds(step: Callable[[], Any], repeats: int) -> float:
    """Return the median processor time of a step."""
    step()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def main() -> None:
    """Measure every number of classes and contexts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", default="10,100,1000")
    parser.add_argument("--contexts", default="4,16")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parse(parser, {"classes": "10", "contexts": "4", "repeats": 1})
    tower = open_encoder("cafe:mini", device="cpu", dtype="float32").text_tower()
    weights = {p.data_ptr() for p in tower.model.parameters()}
    for classes in map(int, arguments.classes.split(",")):
        for m in map(int, arguments.contexts.split(",")):
            prompts = make_prompts(tower, class_names(classes), m, "end")
            whole = step_of(ContextObjective(prompts, None, False, classes, False))
            parts = step_of(ContextObjective(prompts, None, False, max(1, classes // 10), True))
            torch.testing.assert_close(whole()[1], parts()[1], rtol=1e-3, atol=1e-6)
            seconds = [processor_seconds(step, arguments.repeats) for step in (whole, parts)]
            kept = [kept_bytes(step, weights) for step in (whole, parts)]
            # What a chunk holds while it is encoded again is hidden from the outer hooks.
            contexts = torch.zeros((1, m, tower.width), requires_grad=True)
            part = prompts.parts(True, max(1, classes // 10), math.inf)[0]
            kept[1] += kept_bytes(functools.partial(prompts.features, contexts, part), weights)
            row = {
                "shape": f"{classes} classes, {m} context vectors, {prompts.embeddings.shape[1]} tokens",
                "whole_ms": 1e3 * seconds[0],
                "chunked_ms": 1e3 * seconds[1],
                "time_ratio": seconds[1] / seconds[0],
                "whole_MB": kept[0] / 1e6,
                "chunked_MB": kept[1] / 1e6,
                "memory_ratio": kept[0] / max(kept[1], 1),
            }
            report("coop_step", None, [row])


if __name__ == "__main__":
    main()
