import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cafe.encoders import open_encoder
from cafe.encoders.base import Encoder
from cafe.errors import InputError

PROMPTS = ["a cat", "a photo of the digit seven.", "x"]


@pytest.fixture(scope="module")
def encoder(tiny_clip_folder: Path) -> Encoder:
    return open_encoder(str(tiny_clip_folder), device="cpu")


@pytest.fixture(scope="module")
def library(tiny_clip_folder: Path):
    """Model, tokenizer and image processor, loaded by the library alone."""
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    return (
        CLIPModel.from_pretrained(tiny_clip_folder).eval(),
        CLIPTokenizer.from_pretrained(tiny_clip_folder),
        AutoImageProcessor.from_pretrained(tiny_clip_folder, backend="pil"),
    )


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    sizes = [(50, 70), (32, 32), (8, 8), (90, 33)]
    return [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def close(actual: np.ndarray, expected: np.ndarray, steps: int = 64) -> bool:
    """Equal up to ``steps`` float32 roundings of the largest entry: both sides sum a few hundred products in
    float32, in another order, and rounding errors of a sum of k terms grow like the root of k.
    """
    return bool(np.abs(actual - expected).max() <= steps * np.finfo(np.float32).eps * np.abs(expected).max())


def test_images_equal_the_librarys_own_features(encoder, library, images) -> None:
    model, _, processor = library
    with torch.no_grad():
        expected = model.get_image_features(**processor(images=images, return_tensors="pt")).pooler_output.numpy()
    actual = encoder.encode_images(np.stack([encoder.cropper(image) for image in images]))
    assert actual.dtype == np.float32
    assert actual.shape == (4, encoder.dim)
    assert close(actual, expected)
    assert np.abs(expected[0] - expected[1]).max() > 0.01  # the images are told apart at all


def test_text_equals_the_librarys_own_features(encoder, library) -> None:
    model, tokenizer, _ = library
    for prompt, actual in zip(PROMPTS, encoder.encode_text(PROMPTS), strict=True):
        tokens = tokenizer([prompt], return_tensors="pt", truncation=True, max_length=16)
        with torch.no_grad():
            expected = model.text_projection(model.text_model(**tokens).pooler_output)[0].numpy()
        # The text tower is as wide as the projection here, so projecting twice would go through unnoticed.
        assert model.text_projection.weight.shape == (24, 24)
        assert close(actual, expected)


def test_logit_scale_is_exponentiated(encoder, library) -> None:
    assert encoder.logit_scale == pytest.approx(float(np.exp(library[0].logit_scale.item())), rel=1e-6)
    assert encoder.logit_bias == 0.0


def test_a_prompt_alone_and_in_a_padded_batch(encoder) -> None:
    together = encoder.encode_text([*PROMPTS, "a much longer prompt of many tokens"])
    for row, prompt in enumerate(PROMPTS):
        assert close(together[row], encoder.encode_text([prompt])[0])


def test_a_long_prompt_is_cut_at_the_context(encoder) -> None:
    long = "abc " * 100
    assert close(encoder.encode_text([long]), encoder.encode_text([long + "zzz"]))
    assert not close(encoder.encode_text(["abc "]), encoder.encode_text(["abc zzz"]))


def test_chunks_do_not_matter(encoder, images, monkeypatch: pytest.MonkeyPatch) -> None:
    crops = np.stack([encoder.cropper(image) for image in images])
    whole, text = encoder.encode_images(crops), encoder.encode_text(PROMPTS)
    monkeypatch.setattr(encoder, "batch_size", 2)
    assert close(encoder.encode_images(crops), whole)
    assert close(encoder.encode_text(PROMPTS), text)


def test_cropper_is_small_picklable_and_gives_bytes(encoder, images) -> None:
    packed = pickle.dumps(encoder.cropper)
    assert len(packed) < 20_000  # the model stays behind
    for image in images:
        crop = encoder.cropper(image)
        assert crop.shape == (32, 32, 3)
        assert crop.dtype == np.uint8
        assert np.array_equal(pickle.loads(packed)(image), crop)


def test_crop_is_the_middle_of_the_resized_image(encoder) -> None:
    # A landscape of 64 x 32 needs no resizing to 32, so that the crop is columns 16 to 47, exactly.
    pixels = np.random.default_rng(1).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    assert np.array_equal(encoder.cropper(Image.fromarray(pixels)), pixels[:, 16:48])


@pytest.mark.parametrize(
    "crops", [np.zeros((2, 32, 32, 3)), np.zeros((32, 32, 3), np.uint8), np.zeros((1, 3, 32, 32), np.uint8)]
)
def test_wrong_crops(encoder, crops: np.ndarray) -> None:
    with pytest.raises(InputError, match="crops must be"):
        encoder.encode_images(crops)


def test_nothing_to_encode(encoder) -> None:
    assert encoder.encode_images(np.zeros((0, 32, 32, 3), np.uint8)).shape == (0, encoder.dim)
    with pytest.raises(InputError, match="no prompts"):
        encoder.encode_text([])


@pytest.mark.parametrize(("dtype", "bits"), [("bfloat16", 8), ("float16", 11)])
def test_low_precision(tiny_clip_folder: Path, encoder, images, dtype: str, bits: int) -> None:
    low = open_encoder(str(tiny_clip_folder), device="cpu", dtype=dtype)
    assert low.dtype == dtype
    crops = np.stack([encoder.cropper(image) for image in images])
    full, half = encoder.encode_images(crops), low.encode_images(crops)
    error = np.abs(full - half).max() / np.abs(full).max()
    # About twenty roundings lie on the way through two layers; less than a hundredth of one would be no rounding.
    assert 0.01 * 2.0**-bits < error < 20 * 2.0**-bits


def test_identity_is_json_and_stable(encoder, tiny_clip_folder: Path) -> None:
    identity = encoder.identity()
    assert json.loads(json.dumps(identity)) == identity
    assert identity == open_encoder(str(tiny_clip_folder), device="cpu").identity()
    assert set(identity) == {"image", "text", "recorded"}
    assert identity["image"]["preprocessing"]["backend"] == "pil"
    assert identity["image"]["preprocessing"]["resample"] == "bicubic"
    assert identity["image"]["preprocessing"]["crop_size"] == {"height": 32, "width": 32}
    assert identity["recorded"]["revision"] is None


def test_a_saved_again_checkpoint_keeps_its_identity(encoder, library, tiny_clip_folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(tiny_clip_folder, again)
    (again / "model.safetensors").unlink()
    library[0].save_pretrained(again, max_shard_size="50KB")
    assert len(list(again.glob("*.safetensors"))) > 1
    for part in ("image", "text"):
        assert open_encoder(str(again), device="cpu").identity()[part] == encoder.identity()[part]


@pytest.mark.parametrize(
    ("weight", "changed"),
    [("visual_projection.weight", "image"), ("vision_model.post_layernorm.bias", "image"),
     ("text_projection.weight", "text"), ("text_model.final_layer_norm.bias", "text"), ("logit_scale", None)],
)  # fmt: skip
def test_each_weight_changes_its_own_side(
    encoder, tiny_clip_folder, tmp_path, weight: str, changed: str | None
) -> None:
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other"
    shutil.copytree(tiny_clip_folder, other)
    tensors = load_file(other / "model.safetensors")
    tensors[weight] = tensors[weight] + 1e-3
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    before, after = encoder.identity(), open_encoder(str(other), device="cpu").identity()
    for part in ("image", "text"):
        same = before[part]["weights_sha256"] == after[part]["weights_sha256"]
        assert same is (part != changed)


def test_activation_and_mean_change_the_identity(encoder, tiny_clip_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_clip_folder, other)
    config = json.loads((other / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "gelu"  # the weights are the same, the features are not
    (other / "config.json").write_text(json.dumps(config))
    changed = open_encoder(str(other), device="cpu").identity()
    assert changed["image"] != encoder.identity()["image"]
    assert changed["text"] == encoder.identity()["text"]


def test_tokenizer_has_a_hash(encoder, make_tiny_clip: Callable[..., Path], tmp_path: Path) -> None:
    other = make_tiny_clip(tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "NFC"}  # no longer lower-cases
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_file=str(other / "tokenizer.json"), eos_token="<|endoftext|>", pad_token="<|endoftext|>",
        model_max_length=16,
    ).save_pretrained(other)  # fmt: skip
    before, after = encoder.identity()["text"], open_encoder(str(other), device="cpu").identity()["text"]
    assert before["weights_sha256"] == after["weights_sha256"]
    assert before["tokenizer_sha256"] != after["tokenizer_sha256"]


def test_siglip_goes_the_same_way(make_tiny_siglip, tmp_path: Path, images) -> None:
    folder = make_tiny_siglip(tmp_path)
    from transformers import AutoTokenizer, SiglipModel
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    encoder = open_encoder(str(folder), device="cpu")
    model = SiglipModel.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(PROMPTS, padding="max_length", truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        output = model(input_ids=tokens["input_ids"], **processor(images=images, return_tensors="pt"))
    pictures = encoder.encode_images(np.stack([encoder.cropper(image) for image in images]))
    text = encoder.encode_text(PROMPTS)
    pictures, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (pictures, text))
    logits = pictures @ text.T * encoder.logit_scale + encoder.logit_bias
    assert encoder.logit_bias == pytest.approx(-7.5)
    assert close(logits, output.logits_per_image.numpy())
