"""Fixtures that several rooms share: tiny random models in the hub's layout, real data where it is at hand."""

from __future__ import annotations

import os

# Tests run in several processes; each of them, and each program it starts, gets one thread, before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path

import pytest

from cafe.encoders.examples import save_tiny_clip


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
        patch.setattr("cafe.compute.measured_encoding_dtype", lambda inputs, outputs: "float32")
        yield


@pytest.fixture(autouse=True, scope="session")
def measurements_of_the_session(tmp_path_factory):
    """What is timed here is kept for the session, and leaves nothing in the user's cache folder."""
    folder = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cafe.measured.cache_dir", lambda: folder)
        yield
