"""One training step of CoOp through the text tower of ViT-B/32, full size, against the straight loop.

    CAFE_REAL_DATA=... python benchmarks/bench_coop_speed.py [--classes 100,1000] [--repeats 3]

A step is loss and gradient in 16 context vectors in front of all classes' names, 32 image features, float32 on both
sides. The tower is transformers' CLIP in its default configuration (12 blocks, width 512) with random weights, which
cost what trained ones cost; names are ImageNet's, tokens CLIP's.

The straight side is what the published CoOp code does: prompts padded to 77 tokens, all through the tower, autograd,
frozen weights without gradients; its attention is the library's causal one. From 200 classes on its activations do
not fit in memory (40 GB for 1,000), so it goes in chunks of 100 classes: the loss couples classes only through their
features, so each chunk is encoded and sent back with the loss's gradient in its features. The pass that finds that
gradient is not counted.

Loss and gradient of both sides are compared in the same run. The tolerance is the straight loop's own rounding: its
distance from itself in float64, measured on the smallest number of classes, times 10.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from harness import is_smoke, parse, real_features, report, side_by_side
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from cafe.encoders.text_towers.transformers import TransformersTextTower
from cafe.methods.learned_prompts.prompts import ContextPrompts, make_prompts
from cafe.methods.objectives.coop import ContextObjective
from cafe.training.trainer import Batch

M, BATCH, SCALE, FULL, CHUNK, TARGET = 16, 32, 100.0, 77, 100, 1.5


def make_tower() -> TransformersTextTower:
    """Return the tower with random weights, and CLIP's own tokens."""
    from open_clip import SimpleTokenizer
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    published = SimpleTokenizer()
    renamed = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {renamed.get(piece, piece): number for piece, number in published.encoder.items()}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=list(published.bpe_ranks), model_max_length=FULL)
    torch.manual_seed(0)
    width = len(real_features("imagenet_vitb32")["text_features"][0])
    text = {"num_hidden_layers": 1} if is_smoke() else {}
    config = CLIPConfig(text_config=text, vision_config={"num_hidden_layers": 1}, projection_dim=width)
    model = CLIPModel(config).eval().requires_grad_(False)
    return TransformersTextTower("CLIP ViT-B/32, random", model, "", tokenizer, FULL)


class Straight:
    """The published loop's step, on tokens padded to the tower's full length."""

    def __init__(self, prompts: ContextPrompts, dtype: torch.dtype) -> None:
        tower: Any = prompts.tower.placed("cpu", dtype)
        self.model = tower.model
        ids = prompts.tokens["input_ids"]
        end = int(self.model.text_model.eos_token_id)
        self.ids = torch.cat([ids, torch.full((len(ids), FULL - ids.shape[1]), end)], dim=1)
        self.embeddings = tower.table(self.ids)
        self.ends = (self.ids == end).int().argmax(1)

    def features(self, contexts: Tensor, start: int, stop: int) -> Tensor:
        """Encode the prompts of classes start to stop whole."""
        text, own = self.model.text_model, self.embeddings[start:stop]
        given = torch.cat([own[:, :1], contexts.expand(len(own), -1, -1), own[:, 1 + M :]], dim=1)
        hidden = given + text.embeddings.position_embedding.weight
        hidden = text.encoder(inputs_embeds=hidden, attention_mask=None, is_causal=True).last_hidden_state
        hidden = text.final_layer_norm(hidden)
        return self.model.text_projection(hidden[torch.arange(len(own)), self.ends[start:stop]])

    def step(self, contexts: Tensor, f: Tensor, y: Tensor) -> tuple[float, Tensor, float]:
        """Return loss, gradient, and the seconds of what counts."""
        c = len(self.ids)
        chunks = [(i, min(i + CHUNK, c)) for i in range(0, c, CHUNK)]
        contexts = contexts.detach().requires_grad_()
        if len(chunks) == 1:
            start = time.perf_counter()
            loss = loss_of(self.features(contexts, 0, c), f, y)
            (gradient,) = torch.autograd.grad(loss, contexts)
            return loss.item(), gradient, time.perf_counter() - start
        with torch.no_grad():
            classes = torch.cat([self.features(contexts, *chunk) for chunk in chunks])
        classes.requires_grad_()
        loss = loss_of(classes, f, y)
        (upstream,) = torch.autograd.grad(loss, classes)
        start = time.perf_counter()
        gradient = torch.zeros_like(contexts)
        for i, j in chunks:
            gradient += torch.autograd.grad(self.features(contexts, i, j), contexts, upstream[i:j])[0]
        return loss.item(), gradient, time.perf_counter() - start


def loss_of(classes: Tensor, f: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of unit image features against class features."""
    return cross_entropy(SCALE * f @ normalize(classes, dim=-1).T, y)


def distance(own: Tensor, other: Tensor) -> float:
    """Return the largest difference, relative to the largest entry."""
    return float((own - other).abs().max() / other.abs().max())


def images(n_classes: int) -> tuple[Tensor, Tensor]:
    """Return a batch of real features of those classes, and labels."""
    data = real_features("imagenet_vitb32")
    X, y = torch.from_numpy(data["features_4shot"]).float(), torch.from_numpy(data["labels_4shot"]).long()
    rows = torch.nonzero(y < n_classes)[:, 0]
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:BATCH]]
    return normalize(X[rows], dim=-1), y[rows]


def measure(tower: TransformersTextTower, n_classes: int, repeats: int, rounding: float | None) -> float:
    """Time and compare one number of classes; return the straight loop's own rounding."""
    names = [str(name) for name in real_features("imagenet_vitb32")["class_names"][:n_classes]]
    prompts = make_prompts(tower, names, M, "end")
    objective = ContextObjective(prompts, None, False, None, None)
    f, y = images(n_classes)
    contexts = 0.02 * torch.randn((M, tower.width), generator=torch.Generator().manual_seed(1))
    straight = Straight(prompts, torch.float32)
    if rounding is None:
        exact = Straight(prompts, torch.float64).step(contexts.double(), f.double(), y)
        rounding = distance(straight.step(contexts, f, y)[1].double(), exact[1])
    results: dict[str, Any] = {}
    scale = {"logit_scale": torch.tensor([SCALE])}

    def theirs() -> None:
        results["straight"] = straight.step(contexts, f, y)

    def ours() -> None:
        given = {"contexts": contexts[None]}
        results["cafe"] = objective.losses_and_gradients(Batch(None, given, scale, f[None], y[None], f[None, :1]))

    ours()
    large = n_classes > CHUNK  # a minute or more: once, and what is not counted is taken off
    seconds = side_by_side({"straight": theirs, "cafe": ours}, 1 if large else repeats, warm_up=not large)
    if large:
        seconds["straight"] = results["straight"][2]
    apart = distance(results["cafe"][1]["contexts"][0], results["straight"][1])
    loss_apart = abs(float(results["cafe"][0][0]) / results["straight"][0] - 1)
    if apart > 10 * rounding or loss_apart > 10 * rounding:
        raise SystemExit(f"loss {loss_apart:.1e} and gradient {apart:.1e} apart, rounding is {rounding:.1e}")
    parts, recomputed = objective.parts_of(1)
    row = {
        "shape": f"{n_classes} classes, {M} context vectors, batch {BATCH}",
        "tower": "12 blocks x 512, random weights",
        "straight_tokens": FULL * n_classes,
        "cafe_tokens": sum(part.tokens for part in parts),
        "recomputed": recomputed,
        "straight_chunks": -(-n_classes // CHUNK),
        "straight_seconds": seconds["straight"],
        "cafe_seconds": seconds["cafe"],
        "ratio": seconds["straight"] / seconds["cafe"],
        "loss_apart": loss_apart,
        "gradient_apart": apart,
        "straight_rounding": rounding,
        "kernel": "autograd",
        "dtype": "float32",
    }
    report("coop_speed", TARGET, [row])
    return rounding


def main() -> None:
    """Measure every number of classes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", default="100,1000")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parse(parser, {"classes": "3", "repeats": 1})
    tower, rounding = make_tower(), None
    for n_classes in sorted(map(int, arguments.classes.split(","))):
        rounding = measure(tower, n_classes, arguments.repeats, rounding)


if __name__ == "__main__":
    main()
