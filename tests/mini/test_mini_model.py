"""The shipped model loads offline, is small and answers sensibly."""

import json
import pathlib

import pytest
import torch
from transformers import AutoModel, AutoTokenizer
from transformers.models.auto.image_processing_auto import (
    AutoImageProcessor,
)  # the short import may ask for torchvision

from cafe.mini import MODEL_FOLDER

LIMIT_BYTES = 8 * 1024 * 1024


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return AutoModel.from_pretrained(MODEL_FOLDER).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL_FOLDER)


def text_features(model, tokens):
    with torch.no_grad():
        return model.get_text_features(**tokens).pooler_output


def test_folder_is_complete_and_at_most_8_mib():
    names = {file.name for file in MODEL_FOLDER.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "preprocessor_config.json",
        "README.md",
    } <= names
    total = sum(file.stat().st_size for file in MODEL_FOLDER.iterdir())
    assert total <= LIMIT_BYTES


def test_loads_as_clip_with_the_auto_classes(model, tokenizer):
    processor = AutoImageProcessor.from_pretrained(MODEL_FOLDER, backend="pil")
    assert type(model).__name__ == "CLIPModel"
    assert type(tokenizer).__name__ == "CLIPTokenizer"
    assert type(processor).__name__ == "CLIPImageProcessorPil"
    assert processor.crop_size["height"] == model.config.vision_config.image_size


def test_scale_is_at_most_100(model):
    assert 1 < model.logit_scale.exp().item() <= 100.001


def test_special_tokens_agree_with_the_config(model, tokenizer):
    text = model.config.text_config
    assert tokenizer.eos_token_id == text.eos_token_id
    assert tokenizer.bos_token_id == text.bos_token_id
    assert tokenizer.pad_token_id == text.pad_token_id
    assert len(tokenizer) == text.vocab_size
    tokens = tokenizer("The Digit Three")["input_ids"]
    assert tokens[0] == text.bos_token_id
    assert tokens[-1] == text.eos_token_id


def test_padding_does_not_change_text_features(model, tokenizer):
    prompts = ["a photo of the digit three.", "7", "a white circle on black"]
    padded = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
    together = text_features(model, padded)
    for prompt, expected in zip(prompts, together, strict=True):
        alone = text_features(model, tokenizer(prompt, return_tensors="pt"))
        torch.testing.assert_close(alone[0], expected, atol=1e-5, rtol=1e-5)


def test_lower_cases_and_encodes_any_text(tokenizer):
    assert tokenizer("A RED Circle")["input_ids"] == tokenizer("a red circle")["input_ids"]
    unusual = tokenizer("naïve ☃ 数字")["input_ids"]
    assert tokenizer.unk_token_id not in unusual[1:-1]


def test_long_prompts_truncate_and_keep_the_end_token(model, tokenizer):
    tokens = tokenizer("a red circle " * 50, truncation=True, return_tensors="pt")
    length = model.config.text_config.max_position_embeddings
    assert tokens["input_ids"].shape == (1, length)
    assert tokens["input_ids"][0, -1] == tokenizer.eos_token_id
    assert torch.isfinite(text_features(model, tokens)).all()


def test_no_absolute_path_in_the_folder():
    for file in pathlib.Path(MODEL_FOLDER).glob("*.json"):
        settings = json.loads(file.read_text(encoding="utf-8"))
        assert "/" not in str(settings.get("_name_or_path", ""))
        assert "/home/" not in json.dumps(settings)
