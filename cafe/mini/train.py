"""Train cafe:mini: ``python -m cafe.mini.train --out FOLDER``.

The loss is CLIP's symmetric contrastive loss with a learned scale, clipped
at 100, and with several positives: in a batch, every caption that is true
of a picture is a positive for it and shares the target equally with the
others, so captions that mean the same are never each other's negatives.
What is true is decided by `cafe.mini.captions.matches`, by meaning. A linear
layer on the image tower that predicts identity and colours guides training
and is thrown away afterwards (`build_guide`).

All pictures are drawn here; no data set is read.
"""

import argparse
import math
import pathlib
import time

import numpy as np
import torch
from torch.nn import functional
from transformers import CLIPModel, CLIPTokenizer

from cafe.compute import choose_device
from cafe.errors import InputError
from cafe.mini.architecture import build_model, build_tokenizer, save
from cafe.mini.augment import make_pictures
from cafe.mini.bank import Bank, build_bank
from cafe.mini.captions import caption, matches
from cafe.mini.vocabulary import COLOUR_NAMES, IDENTITIES, KINDS

_MAXIMUM_LOG_SCALE = math.log(100)
_PEAK_RATE = 1e-3
_WARM_UP = 0.04


def sample_codes(bank: Bank, count: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw pictures as codes: masks of the bank by their weights, and two colours for each.

    Parameters
    ----------
    bank : Bank
        Masks, their codes and their weights.
    count : int
        How many to choose.
    rng : numpy.random.Generator
        Chooses masks and colours.

    Returns
    -------
    (torch.Tensor, torch.Tensor)
        Positions of the masks in the bank, shape (count,); and the codes of the pictures in the order of
        `ATTRIBUTES`, shape (count, 6).
    """
    totals = np.cumsum(bank.weights.numpy())
    draws = rng.random(count) * totals[-1]
    places = torch.from_numpy(np.searchsorted(totals, draws).clip(0, len(totals) - 1))
    codes = bank.codes[places]
    ink = rng.integers(len(COLOUR_NAMES), size=count)
    ground = (ink + rng.integers(1, len(COLOUR_NAMES), size=count)) % len(COLOUR_NAMES)
    white, black = COLOUR_NAMES.index("white"), COLOUR_NAMES.index("black")
    plain = rng.random(count) < np.where(codes[:, 0].numpy() == KINDS.index("digit"), 0.75, 0.25)
    inverted = rng.random(count) < 0.25
    ink = np.where(plain, np.where(inverted, black, white), ink)
    ground = np.where(plain, np.where(inverted, white, black), ground)
    colours = torch.from_numpy(np.stack([ink, ground], axis=1))
    return places, torch.cat([codes, colours], dim=1)


def contrastive_loss(logits: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Return CLIP's symmetric loss; the true captions of a picture share its target equally, and so vice versa.

    Rows of `logits` and `true` (bool) are pictures, columns are captions.
    """
    target = true.float()
    to_text = functional.cross_entropy(logits, target / target.sum(1, keepdim=True))
    columns = target.T
    to_image = functional.cross_entropy(logits.T, columns / columns.sum(1, keepdim=True))
    return (to_text + to_image) / 2


def build_guide(model: CLIPModel) -> torch.nn.Linear:
    """Return the linear layer that guides the image tower while it trains.

    It predicts identity and colours from the image tower's output. Without
    it training starts slowly, since neither tower's output means anything
    yet that the other could be aligned with. It is not saved.
    """
    width = model.visual_projection.in_features
    return torch.nn.Linear(width, len(IDENTITIES) + 2 * len(COLOUR_NAMES))


def guide_loss(guide: torch.nn.Linear, pooled: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of the guide's predictions: identity, and foreground and background at a quarter."""
    sizes = [len(IDENTITIES), len(COLOUR_NAMES), len(COLOUR_NAMES)]
    parts = guide(pooled).split(sizes, dim=1)
    losses = [functional.cross_entropy(part, codes[:, column]) for part, column in zip(parts, (1, 4, 5), strict=True)]
    return losses[0] + 0.25 * (losses[1] + losses[2])


def learning_rate(progress: float) -> float:
    """Return the learning rate at a progress from 0 to 1: a linear warm-up, then a cosine."""
    if progress < _WARM_UP:
        return _PEAK_RATE * (progress + 1e-3) / _WARM_UP
    return _PEAK_RATE * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def train_step(
    model: CLIPModel,
    guide: torch.nn.Linear,
    tokenizer: CLIPTokenizer,
    bank: Bank,
    count: int,
    rng: np.random.Generator,
    difficulty: float = 1.0,
) -> torch.Tensor:
    """Draw a batch of pictures at a difficulty (see `make_pictures`), with captions, and return its loss."""
    places, codes = sample_codes(bank, count, rng)
    # One caption per meaning: a repeated one would only cost time.
    written = list({c.codes: c for c in (caption(row, rng) for row in codes.numpy())}.values())
    device = model.device
    codes = codes.to(device)
    stated = torch.tensor([c.codes for c in written], device=device)
    images = make_pictures(bank.masks[places].to(device), codes, difficulty)
    tokens = tokenizer([c.text for c in written], padding=True, truncation=True, return_tensors="pt").to(device)
    output = model(pixel_values=(images - 0.5) / 0.5, **tokens)
    loss = contrastive_loss(output.logits_per_image, matches(codes, stated))
    return loss + guide_loss(guide, output.vision_model_output.pooler_output, codes)


def train(options: argparse.Namespace) -> CLIPModel:
    """Train a model as the options say, save it and return it."""
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    tokenizer = build_tokenizer(options.seed)
    bank = build_bank(options.seed, options.bank_size)
    model: CLIPModel = build_model(tokenizer).to(options.device).train()
    guide = build_guide(model).to(options.device)
    parameters = [*model.parameters(), *guide.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=_PEAK_RATE, weight_decay=0.05, betas=(0.9, 0.98))
    start = time.monotonic()
    step, progress = 0, 0.0
    while progress < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress)
        difficulty = min(1.0, 0.2 + 2 * progress)
        loss = train_step(model, guide, tokenizer, bank, options.batch_size, rng, difficulty)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=_MAXIMUM_LOG_SCALE)
        step += 1
        elapsed = time.monotonic() - start
        progress = elapsed / options.seconds if options.seconds else step / options.steps
        if step % 50 == 0 or progress >= 1:
            print(f"step {step}: loss {loss.item():.4f}, {elapsed:.0f} s", flush=True)
    save(model, tokenizer, options.out)
    return model


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m cafe.mini.train", description="Train the small CLIP cafe:mini.")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to write")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument("--batch-size", type=int, default=128, help="default: 128")
    parser.add_argument("--bank-size", type=int, default=600, help="drawings per digit (default: 600)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, default=1100, help="default: 1100")
    length.add_argument("--seconds", type=float, help="train this long, not by steps")
    options = parser.parse_args(arguments)
    try:
        options.device = choose_device(options.device)
    except InputError as error:
        parser.error(str(error))
    return options


def main(arguments: list[str] | None = None) -> int:
    """Train from the command line."""
    train(parse_arguments(arguments))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
