"""Fixtures that several rooms share: tiny random CLIPs in the hub's layout, real data where it is at hand."""

from __future__ import annotations

import os

# Tests run in several processes; each of them, and each program it starts, gets one thread, before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

START, END = "<|startoftext|>", "<|endoftext|>"


def byte_alphabet() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def save_tokenizer(folder: Path, context: int) -> Any:
    """Save a real CLIP tokenizer, lower-casing byte-level BPE with three merges."""
    from transformers import CLIPTokenizer

    merges = [("a", "t</w>"), ("p", "h"), ("ph", "o")]
    alphabet = byte_alphabet()
    pieces = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges), START, END]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=context)
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_processor(folder: Path, size: int) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=[0.48, 0.46, 0.41],
        image_std=[0.27, 0.26, 0.28],
    )
    processor.save_pretrained(folder)


def save_tiny_clip(folder: Path, *, seed: int = 0, projection_dim: int = 24, **text_overrides: Any) -> Path:
    """Save a randomly initialised CLIP: 32 x 32 pixels, patches of 8, text tower 24 wide, context 16."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = save_tokenizer(folder, context=16)
    save_processor(folder, size=32)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 16,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **text_overrides,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=projection_dim))
    model.save_pretrained(folder)
    return folder


def save_tiny_siglip(folder: Path) -> Path:
    """Save a randomly initialised SigLIP: an end token but no start token, and prompts padded to 16 without a mask."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    known = ["<pad>", "</s>", "<unk>", *["a", "x", "b", "c", "cat", "hot", "dog", "phone", "at", "photo", "of", "."]]
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(known)}, "<unk>"))
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=16
    )
    tokenizer.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    small = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = SiglipConfig(
        text_config={**small, "vocab_size": len(known), "max_position_embeddings": 16, "projection_size": 24},
        vision_config={**small, "image_size": 32, "patch_size": 8},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SiglipModel(config)
    with torch.no_grad():
        model.logit_scale.fill_(2.0)
        model.logit_bias.fill_(-7.5)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_tiny_siglip() -> Callable[..., Path]:
    """The function that saves a tiny SigLIP: ``make_tiny_siglip(folder)``."""
    return save_tiny_siglip


@pytest.fixture(scope="session")
def make_tiny_clip() -> Callable[..., Path]:
    """The function that saves a tiny CLIP: ``make_tiny_clip(folder, seed=0, projection_dim=24, **text_config)``."""
    return save_tiny_clip


@pytest.fixture(scope="session")
def tiny_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tiny CLIP for the whole session; only read it."""
    return save_tiny_clip(tmp_path_factory.mktemp("models") / "tiny-clip")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real data; the test is skipped where ``CAFE_REAL_DATA`` is unset."""
    folder = os.environ.get("CAFE_REAL_DATA")
    if not folder:
        pytest.skip("CAFE_REAL_DATA is unset: it names the folder of real features, photographs and published draws")
    return Path(folder)


@pytest.fixture(autouse=True, scope="session")
def float32_encoders():
    """On every processor `auto` encodes in float32: tolerances are derived for it, and other libraries' forward has it.

    What `auto` takes by itself is the business of tests/test_compute.py, which puts the function back.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cafe.compute.has_matrix_units", lambda: False)
        yield
