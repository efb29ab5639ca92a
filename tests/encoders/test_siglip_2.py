"""SigLIP 2 reads lower-cased prompts, whatever type its checkpoints claim: small and random in the hub's layout."""

import json
import string

import numpy as np
import pytest
import torch
from PIL import Image

from cafe.encoders import open_encoder
from cafe.encoders.text_towers import lower_case

PROMPTS = ["A Photo of a CAT", "a dog.", "ABC Übermut"]
TOWER = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>"]


def save_gemma_tokenizer(folder):
    """Gemma's kind: byte-pair encoding of cased letters, spaces as ▁, an end token, no lower-casing."""
    from transformers import GemmaTokenizer

    letters = [*string.ascii_letters, "ü", "Ü", "▁", "."]
    merges = [("a", "t"), ("c", "at"), ("▁", "a"), ("A", "B")]
    tokens = [*SPECIAL, *letters, *("".join(pair) for pair in merges)]
    GemmaTokenizer(
        vocab={token: number for number, token in enumerate(tokens)}, merges=merges, padding_side="right",
        add_bos_token=False, add_eos_token=True,
    ).save_pretrained(folder)  # fmt: skip
    return len(tokens)


def save(kind, folder):
    import transformers
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    n_tokens = save_gemma_tokenizer(folder)
    text = {**TOWER, "vocab_size": n_tokens, "max_position_embeddings": 16, "projection_size": 24}
    vision = {**TOWER, "patch_size": 8, "image_size": 32}
    if kind == "gopt":  # the giant's image tower is wider than its text tower, which has a projection
        vision["hidden_size"] = text["projection_size"] = 32
    if kind == "naflex":
        config = transformers.Siglip2Config(text_config=text, vision_config={**vision, "num_patches": 16})
        Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16).save_pretrained(folder)
    else:
        config = transformers.SiglipConfig(text_config=text, vision_config=vision)
        SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = (transformers.Siglip2Model if kind == "naflex" else transformers.SiglipModel)(config).eval()
    model.save_pretrained(folder)
    return model


def picture(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (50, 70, 3), dtype=np.uint8))


def change(folder, file, **entries):
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, **entries}))


@pytest.mark.parametrize("kind", ["fixed", "gopt", "naflex"])
def test_features_equal_the_librarys_own_on_lower_cased_prompts(kind, tmp_path):
    """The library's own reading is that of the type that it lower-cases for, ``siglip2``."""
    from transformers import Siglip2Tokenizer
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    model = save(kind, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == (
        "siglip2" if kind == "naflex" else "siglip"
    )
    encoder = open_encoder(str(tmp_path), device="cpu")
    tokens = Siglip2Tokenizer.from_pretrained(tmp_path)(
        PROMPTS, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
    )
    pixels = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")(images=[picture()], return_tensors="pt")
    with torch.no_grad():
        text = model.get_text_features(input_ids=tokens["input_ids"]).pooler_output.numpy()
        image = model.get_image_features(**pixels).pooler_output.numpy()
    assert text.shape[1] == image.shape[1] == encoder.dim == (32 if kind == "gopt" else 24)
    # 64 float32 roundings of the largest entry; see test_transformers_clip.py.
    for actual, expected in (
        (encoder.encode_text(PROMPTS), text),
        (encoder.encode_images(encoder.cropper(picture())[None]), image),
    ):
        assert np.abs(actual - expected).max() <= 64 * np.finfo(np.float32).eps * np.abs(expected).max()
    assert np.array_equal(encoder.encode_text(PROMPTS), encoder.encode_text([prompt.lower() for prompt in PROMPTS]))
    assert encoder.identity()["text"]["lower_case"] is True
    assert "lower_case" not in encoder.identity()["image"]


def test_the_live_text_tower_reads_the_same(tmp_path):
    save("fixed", tmp_path)
    encoder = open_encoder(str(tmp_path), device="cpu")
    upper, lower = (encoder.text_tower().tokenize([text])["input_ids"] for text in ("A CAT", "a cat"))
    assert torch.equal(upper, lower)


@pytest.mark.parametrize("sign", ["tokenizer_class", "processor_class", "vocabulary"])
def test_any_of_these_files_tells(sign, tmp_path):
    """The class of the tokenizer, that of the processor, or Gemma's own tokens."""
    save("fixed", tmp_path)
    change(tmp_path, "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    if sign == "tokenizer_class":
        change(tmp_path, "tokenizer_config.json", tokenizer_class="GemmaTokenizerFast")
    if sign != "vocabulary":
        tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
        text = json.dumps(tokenizer).replace("<start_of_turn>", "<other>")
        (tmp_path / "tokenizer.json").write_text(text)
        assert lower_case.is_siglip_2(str(tmp_path), "siglip", {}) == (sign == "tokenizer_class")
    if sign == "processor_class":
        change(tmp_path, "preprocessor_config.json", processor_class="Siglip2Processor")
    assert lower_case.is_siglip_2(str(tmp_path), "siglip", {})
    assert not lower_case.is_siglip_2(str(tmp_path), "clip", {})


def test_others_are_left_as_they_are(tmp_path, tiny_clip_folder):
    """SigLIP 1 has a tokenizer of its own, and its identity has no new entry, so that caches stay what they are."""
    save("fixed", tmp_path)
    change(tmp_path, "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    tokenizer = (tmp_path / "tokenizer.json").read_text().replace("<start_of_turn>", "<other>")
    (tmp_path / "tokenizer.json").write_text(tokenizer)
    for folder in (tmp_path, tiny_clip_folder):
        assert "lower_case" not in open_encoder(str(folder), device="cpu").identity()["text"]


def test_of_caches_made_before_the_text_is_encoded_again(tmp_path, monkeypatch):
    from cafe.cache import extract
    from cafe.cache.format.reader import read_features
    from cafe.data import open_dataset

    for name in ("Cat", "Dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(6):
            picture(i + 10 * (name == "Dog")).save(tmp_path / "photos" / name / f"{i}.png")
    (tmp_path / "model").mkdir()
    save("fixed", tmp_path / "model")
    dataset = open_dataset(str(tmp_path / "photos"))

    def features():
        encoder = open_encoder(str(tmp_path / "model"), device="cpu")
        summary = extract(dataset, encoder, tmp_path / "photos.h5", templates=["a photo of a {}."])
        return summary, read_features(summary.path)

    with monkeypatch.context() as before:
        before.setattr("cafe.encoders.transformers.is_siglip_2", lambda *_: False)
        first, old = features()
    second, new = features()
    third, _ = features()
    assert (first.action, second.action, third.action) == ("extracted", "text encoded again", "already there")
    assert (second.encoded, second.kept) == (0, 12)
    for name, split in old.splits.items():
        assert split.image_features.tobytes() == new.splits[name].image_features.tobytes()
    assert not np.array_equal(old.text_features, new.text_features)
    assert new.provenance["text"]["encoder"]["lower_case"] is True
