"""Tiny models with random weights, in the layouts of both libraries: the examples that encoders write of themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_START, _END = "<|startoftext|>", "<|endoftext|>"
_OPEN_CLIP_VISION = {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8}
_OPEN_CLIP_TEXT = {"context_length": 16, "vocab_size": 49408, "width": 24, "heads": 4, "layers": 2}
_OPEN_CLIP_PREPROCESSING = {
    "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "interpolation": "bilinear", "resize_mode": "shortest",
}  # fmt: skip


def save_tiny_clip(folder: Path, *, seed: int = 0, projection_dim: int = 24, **text_overrides: Any) -> Path:
    """Save a CLIP of transformers: 32 x 32 pixels, patches of 8, text tower 24 wide, context 16.

    Parameters
    ----------
    folder : Path
        Made where it is not there.
    seed : int, default 0
        Of the weights.
    projection_dim : int, default 24
        Width of the features.
    **text_overrides
        Entries of the text tower's configuration.

    Returns
    -------
    Path
        The folder.
    """
    import torch
    from transformers import CLIPConfig, CLIPModel

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _save_clip_tokenizer(folder, context=16)
    _save_clip_processor(folder, size=32)
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


def _save_clip_tokenizer(folder: Path, context: int) -> Any:
    """Save a real CLIP tokenizer, lower-casing byte-level BPE with three merges."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    alphabet = sorted(ByteLevel.alphabet())
    merges: Any = [("a", "t</w>"), ("p", "h"), ("ph", "o")]  # the library annotates pairs as texts
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges), _START, _END]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=context)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _save_clip_processor(folder: Path, size: int) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=[0.48, 0.46, 0.41],
        image_std=[0.27, 0.26, 0.28],
    )
    processor.save_pretrained(folder)


def save_tiny_dinov2(folder: Path, *, seed: int = 0) -> Path:
    """Save a DINOv2 of transformers: 32 x 32 pixels, patches of 8, features 24 wide, no text.

    Parameters
    ----------
    folder : Path
        Made where it is not there.
    seed : int, default 0
        Of the weights.

    Returns
    -------
    Path
        The folder.
    """
    import torch
    from transformers import Dinov2Config, Dinov2Model
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

    folder.mkdir(parents=True, exist_ok=True)
    # As the published models': a resize a little larger than the crop.
    BitImageProcessorPil(
        size={"shortest_edge": 36},
        crop_size={"height": 32, "width": 32},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=4, mlp_ratio=2, image_size=32, patch_size=8
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Dinov2Model(config)
        # Fresh layer scales and weights are so small that every image would have nearly the same class token.
        for weight in model.parameters():
            if weight.ndim == 2:
                torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    return folder


def save_tiny_open_clip(
    folder: Path,
    *,
    vision: Mapping[str, Any] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    seed: int = 0,
    **changes: Any,
) -> Any:
    """Save a CLIP of open_clip as its ``push_to_hf_hub`` lays one out: 32 x 32 pixels, patches of 8, features 16 wide.

    Parameters
    ----------
    folder : Path
        Made where it is not there.
    vision : mapping, default None
        Configuration of another image tower.
    preprocess : mapping, default None
        Entries of the preprocessing that differ.
    seed : int, default 0
        Of the weights.
    **changes
        Entries of the model's configuration that differ.

    Returns
    -------
    torch.nn.Module
        The library's own model.
    """
    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "embed_dim": 16,
        "vision_cfg": vision or _OPEN_CLIP_VISION,
        "text_cfg": _OPEN_CLIP_TEXT,
        "quick_gelu": False,
        **changes,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIP(**config).eval()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    document = {"model_cfg": config, "preprocess_cfg": {**_OPEN_CLIP_PREPROCESSING, **(preprocess or {})}}
    (folder / "open_clip_config.json").write_text(json.dumps(document), encoding="utf-8")
    return model
