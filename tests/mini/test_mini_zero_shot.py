"""Held-out renders are classified well above chance."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from cafe.mini import MODEL_FOLDER
from cafe.mini.augment import make_pictures
from cafe.mini.bank import Bank, build_bank
from cafe.mini.train import sample_codes
from cafe.mini.vocabulary import (
    COLOUR_NAMES,
    DIGIT_WORDS,
    IDENTITIES,
    KINDS,
    SHAPES,
    TEXTURES,
)

SEED = 90_210


@pytest.fixture(scope="module")
def parts():
    model = AutoModel.from_pretrained(MODEL_FOLDER).eval()
    return model, AutoTokenizer.from_pretrained(MODEL_FOLDER)


@pytest.fixture(scope="module")
def bank() -> Bank:
    pytest.importorskip("HersheyFonts")
    pytest.importorskip("font_lato")
    return build_bank(SEED, size=40, held_out=True)


def accuracy(parts, bank: Bank, kind: str, prompts: list[str], column: int) -> float:
    """Draw 400 pictures of a kind and classify them with the prompts."""
    model, tokenizer = parts
    torch.manual_seed(SEED)
    chosen = bank.codes[:, 0] == KINDS.index(kind)
    only = Bank(bank.masks[chosen], bank.codes[chosen], bank.weights[chosen])
    places, codes = sample_codes(only, 400, np.random.default_rng(SEED))
    pictures = make_pictures(only.masks[places], codes)
    with torch.no_grad():
        output = model(
            pixel_values=(pictures - 0.5) / 0.5,
            **tokenizer(prompts, padding=True, return_tensors="pt"),
        )
    first = next(i for i, (name, _) in enumerate(IDENTITIES) if name == kind)
    labels = codes[:, column] - (first if column == 1 else 0)
    return (output.logits_per_image.argmax(1) == labels).float().mean().item()


@pytest.mark.parametrize(
    ("kind", "names", "template", "margin"),
    [
        ("digit", DIGIT_WORDS, "a photo of the digit {}.", 5.0),
        ("letter", tuple("abcdefghijklmnopqrstuvwxyz"), "the letter {}", 4.0),
        ("shape", SHAPES, "a photo of a {}.", 4.0),
        ("texture", TEXTURES, "a photo of a {} texture.", 5.0),
    ],
)
def test_classes_are_found_well_above_chance(parts, bank, kind, names, template, margin):
    prompts = [template.format(name) for name in names]
    share = accuracy(parts, bank, kind, prompts, 1)
    assert share > margin / len(names)


def test_colours_are_found_well_above_chance(parts, bank):
    prompts = [f"a photo of a {name} shape." for name in COLOUR_NAMES]
    assert accuracy(parts, bank, "shape", prompts, 4) > 5 / len(COLOUR_NAMES)
