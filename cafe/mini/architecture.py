"""The model's shape, its tokenizer and its image processor."""

import json
import pathlib
from typing import Any

from tokenizers import (
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from cafe.mini.augment import IMAGE_SIZE
from cafe.mini.captions import corpus

CONTEXT_LENGTH = 32
START, END = "<|startoftext|>", "<|endoftext|>"
_MERGES = 500
# The same pieces that CLIP's tokenizer cuts text into.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def build_tokenizer(seed: int) -> CLIPTokenizer:
    """Train a small byte-level BPE tokenizer on the captions.

    Parameters
    ----------
    seed : int
        Chooses the captions it is trained on.

    Returns
    -------
    transformers.CLIPTokenizer
        Lower-cases like CLIP's; every byte has a token, alone and at the
        end of a word, so any prompt can be encoded.
    """
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(vocab_size=512 + _MERGES, end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator(corpus(20000, seed), trainer)
    learned = Tokenizer.from_str(learner.to_str())
    merges = _merges_of(learned)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [letter + "</w>" for letter in alphabet]
    tokens += [left + right for left, right in merges]
    vocabulary = {token: code for code, token in enumerate(dict.fromkeys(tokens))}
    vocabulary[START] = len(vocabulary)
    vocabulary[END] = len(vocabulary)
    # CLIPTokenizer's annotation says list of str, its backend wants pairs.
    pairs: Any = merges
    return CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=CONTEXT_LENGTH)


def _merges_of(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """Read the merges out of a trained tokenizer."""
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [(left, right) for left, right in merges]


def build_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Return an untrained model that fits the tokenizer."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT_LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": 8,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


def build_processor() -> CLIPImageProcessorPil:
    """Return the image processor that matches the training pictures."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def save(model: CLIPModel, tokenizer: CLIPTokenizer, folder: pathlib.Path) -> None:
    """Write the model, its tokenizer and its image processor to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    # Training switched padding on in the tokenizer; the saved one is without.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.save_pretrained(folder)
    build_processor().save_pretrained(folder)
