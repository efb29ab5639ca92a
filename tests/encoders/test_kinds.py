"""Every CLIP-like model of transformers, small and random in the hub's layout, against its own forward pass."""

import numpy as np
import pytest
import torch
from PIL import Image

from cafe.encoders import open_encoder
from cafe.errors import InputError

PROMPTS = ["a cat", "a photo of x x", "x"]
SMALL = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
WORDS = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "a": 4, "cat": 5, "photo": 6, "of": 7, "x": 8}
TEXT = {
    **SMALL,
    "vocab_size": 16,
    "max_position_embeddings": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VISION = {**SMALL, "image_size": 32, "patch_size": 8}


def clip_like(name, **more):
    """Return a function of the library that gives a small model's class and its configuration."""
    return lambda library: (
        getattr(library, f"{name}Model"),
        getattr(library, f"{name}Config")(
            text_config={**TEXT, **more.get("text", {})}, vision_config={**VISION, **more.get("vision", {})},
            **more.get("both", {"projection_dim": 24}),
        ),
    )  # fmt: skip


def siglip(name, **vision):
    text = {**TEXT, "projection_size": 24}
    return clip_like(name, text=text, vision=vision, both={})


def dual_encoder(library):
    config = library.VisionTextDualEncoderConfig.from_vision_text_configs(
        library.ViTConfig(**VISION), library.BertConfig(**TEXT), projection_dim=24
    )
    return library.VisionTextDualEncoderModel, config


KINDS = {
    "clip": clip_like("CLIP"),
    "clip-quick-gelu": clip_like("CLIP", text={"hidden_act": "quick_gelu"}, vision={"hidden_act": "quick_gelu"}),
    "clip-gelu": clip_like("CLIP", text={"hidden_act": "gelu"}, vision={"hidden_act": "gelu"}),
    "metaclip-2": clip_like("MetaClip2"),
    "siglip": siglip("Siglip"),
    "siglip-2": siglip("Siglip2", num_patches=16),
    "altclip": clip_like("AltCLIP", text={"project_dim": 24, "max_position_embeddings": 20}),
    "chinese-clip": clip_like("ChineseCLIP"),
    "align": clip_like(
        "Align", both={"projection_dim": 32},
        vision={"image_size": 32, "hidden_dim": 32, "width_coefficient": 0.1, "depth_coefficient": 0.1},
    ),
    "blip": clip_like(
        "Blip", text={"encoder_hidden_size": 24, "projection_dim": 24, "initializer_range": 0.2},
        vision={"initializer_range": 0.2}, both={"projection_dim": 24, "initializer_range": 0.2},
    ),
    "aimv2": clip_like("Aimv2", vision={"use_head": True}),
    "clipseg": clip_like("CLIPSeg"),
    "owlvit": clip_like("OwlViT"),
    "groupvit": clip_like(
        "GroupViT",
        vision={"depths": [1, 1], "num_group_tokens": [4, 0], "num_output_groups": [4, 4], "hidden_size": 24},
        both={"projection_dim": 24, "projection_intermediate_dim": 48},
    ),
    "dual-encoder": dual_encoder,
}  # fmt: skip


def save_processor(kind, folder):
    """Save the image processor of a kind of model, for pictures of 32 x 32 pixels."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    if kind == "siglip-2":
        processor = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    elif kind == "siglip":
        processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    elif kind == "align":
        processor = EfficientNetImageProcessorPil(
            size={"height": 40, "width": 40}, crop_size={"height": 32, "width": 32}, do_center_crop=True,
            rescale_factor=1 / 127.5, rescale_offset=True, include_top=False,
        )  # fmt: skip
    else:
        processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(folder)


def save_tokenizer(folder):
    """Save a tokenizer of the whole words ``WORDS`` that puts a start and an end token around a prompt."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(WORDS, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=16,
    ).save_pretrained(folder)


def save(kind, folder):
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model_class, config = KINDS[kind](transformers)
        model = model_class(config).eval()
    with torch.no_grad():
        for name, value in (("logit_scale", 2.0), ("logit_bias", -7.5), ("temperature", 0.05)):
            if hasattr(model, name):
                getattr(model, name).fill_(value)
        for weight in model.parameters():
            if kind == "align" and weight.ndim == 4:  # fresh, a deep EfficientNet returns 1e-30
                weight.mul_(25.0)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    save_processor(kind, folder)
    return model


@pytest.fixture(scope="module")
def images():
    generator = np.random.default_rng(0)
    sizes = [(50, 70), (32, 32), (64, 20), (90, 33)]
    return [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_logits_equal_the_librarys_own(kind, images, tmp_path):
    from transformers import AutoTokenizer
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    model = save(kind, tmp_path)
    encoder = open_encoder(str(tmp_path), device="cpu")
    pixels = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")(images=images, return_tensors="pt")
    full = {"padding": "max_length", "max_length": 16} if kind.startswith("siglip") else {"padding": True}
    tokens = AutoTokenizer.from_pretrained(tmp_path)(PROMPTS, return_tensors="pt", truncation=True, **full)
    names = ("input_ids",) if kind.startswith("siglip") else ("input_ids", "attention_mask")
    with torch.no_grad():
        output = model(**{name: tokens[name] for name in names}, **pixels)
    expected = output.logits_per_image.numpy()
    pictures = encoder.encode_images(np.stack([encoder.cropper(image) for image in images]))
    text = encoder.encode_text(PROMPTS)
    pictures, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (pictures, text))
    actual = pictures @ text.T * encoder.logit_scale + encoder.logit_bias
    # Features agree to 64 float32 roundings (see test_transformers_clip.py); a logit multiplies that by the scale.
    bound = 64 * np.finfo(np.float32).eps * max(1.0, encoder.logit_scale + abs(encoder.logit_bias))
    assert np.abs(actual - expected).max() <= bound
    assert np.ptp(expected) > 100 * bound  # the images or the prompts are told apart


def test_a_processor_that_does_something_else_is_refused(tmp_path, monkeypatch):
    """Pixels are compared with the processor's own, so that what is not known here cannot pass unnoticed."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    save("clip", tmp_path)
    plain = CLIPImageProcessorPil.normalize
    monkeypatch.setattr(CLIPImageProcessorPil, "normalize", lambda *a, **k: plain(*a, **k) ** 2)
    with pytest.raises(InputError, match="does more than resize"):
        open_encoder(f"transformers:{tmp_path}", device="cpu")


def test_models_that_are_no_pair_of_towers(tmp_path):
    import transformers

    text = {**TEXT, "num_hidden_layers": 1}
    image = {**VISION, "num_hidden_layers": 1}
    config = transformers.FlavaConfig(
        text_config=text, image_config=image, multimodal_config=SMALL, image_codebook_config={"hidden_size": 8}
    )
    transformers.FlavaModel(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    save_processor("flava", tmp_path)
    with pytest.raises(InputError, match="one vector each"):
        open_encoder(str(tmp_path), device="cpu")


def test_augmented_views_are_no_patches(tmp_path):
    save("siglip-2", tmp_path)
    encoder = open_encoder(str(tmp_path), device="cpu")
    views = np.random.default_rng(0).integers(0, 256, (2, 17, 64, 3), dtype=np.uint8)
    with pytest.raises(InputError, match="augmented views are not possible"):
        encoder.encode_images(views)
    specification = encoder.identity()["image"]["preprocessing"]
    assert (specification["patch_size"], specification["max_num_patches"]) == (8, 16)
