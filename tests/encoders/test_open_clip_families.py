"""Every family of open_clip that docs/encoders.md lists, small and random in its hub layout, against open_clip itself.

The towers are those of the published models, made small: FastViT and the hybrid ViT of MobileCLIP 2, Perception
Encoder's, EVA-02's, a BERT beside a ViT for BiomedCLIP. Preprocessing is that of the family's published weights.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from cafe.encoders import open_encoder
from cafe.errors import InputError

timm = pytest.importorskip("timm")

PROMPTS = ["A Photo of a CAT.", "a satellite photo of the_river, 2 boats", "x"]
EPS = float(np.finfo(np.float32).eps)
CLIP_TEXT = {"context_length": 16, "vocab_size": 49408, "width": 24, "heads": 4, "layers": 2}
VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8}
OPENAI = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}


def timm_tower(name, pool):
    """Return open_clip's configuration of an image tower that is a model of timm."""
    return {
        "timm_model_name": name, "timm_model_pretrained": False, "timm_pool": pool, "timm_proj": None, "image_size": 32,
    }  # fmt: skip


# Of each family: image tower, text tower, preprocessing, what else the configuration says.
FAMILIES = {
    "MobileCLIP 2 S0": (
        timm_tower("cafe_tiny_fastvit_mci", "avg"), {**CLIP_TEXT, "no_causal_mask": True},
        {"mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bilinear", "resize_mode": "shortest"},
        {"custom_text": True},
    ),
    "MobileCLIP 2 B": (
        timm_tower("cafe_tiny_vit_mci", "token"), CLIP_TEXT,
        {"mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bilinear", "resize_mode": "shortest"},
        {"custom_text": True},
    ),
    "PE-Core": (
        timm_tower("cafe_tiny_pe_core", "map"), {**CLIP_TEXT, "context_length": 32},
        {**HALF, "interpolation": "bilinear", "resize_mode": "squash"}, {"custom_text": True},
    ),
    "EVA-02": (
        timm_tower("cafe_tiny_eva02", "token"), CLIP_TEXT,
        {**OPENAI, "interpolation": "bicubic", "resize_mode": "shortest"}, {"custom_text": True},
    ),
    "SigLIP 2": (
        {**timm_tower("cafe_tiny_siglip", "map"), "timm_proj": "none"},
        {**CLIP_TEXT, "width": 32, "hf_tokenizer_name": "gemma", "tokenizer_kwargs": {"clean": "canonicalize"},
         "no_causal_mask": True, "proj_bias": True, "pool_type": "last", "vocab_size": 64},
        {**HALF, "interpolation": "bicubic", "resize_mode": "squash"},
        {"custom_text": True, "init_logit_bias": -10.0, "embed_dim": 32},
    ),
    "MetaCLIP 2": (
        VIT, {**CLIP_TEXT, "hf_tokenizer_name": "words", "pool_type": "eos", "eos_id": 2, "vocab_size": 64},
        {**OPENAI, "interpolation": "bicubic", "resize_mode": "squash"}, {"quick_gelu": True},
    ),
    "DFN": (VIT, CLIP_TEXT, {**OPENAI, "interpolation": "bicubic", "resize_mode": "squash"}, {"quick_gelu": True}),
    "BioCLIP 2": (VIT, CLIP_TEXT, {**OPENAI, "interpolation": "bicubic", "resize_mode": "shortest"}, {}),
    "BiomedCLIP": (
        {**timm_tower("cafe_tiny_vit", ""), "timm_proj": "linear"},
        {"hf_model_name": "bert", "hf_tokenizer_name": "words", "hf_proj_type": "mlp", "context_length": 20,
         "hf_pooler_type": "cls_last_hidden_state_pooler"},
        {**OPENAI, "interpolation": "bicubic", "resize_mode": "shortest"}, {"custom_text": True},
    ),
    "RemoteCLIP": (VIT, CLIP_TEXT, {**OPENAI, "interpolation": "bicubic", "resize_mode": "shortest"}, {}),
    "FashionCLIP": (VIT, CLIP_TEXT, {**OPENAI, "interpolation": "bicubic", "resize_mode": "shortest"}, {}),
}  # fmt: skip


@timm.models.register_model
def cafe_tiny_fastvit_mci(pretrained=False, **kwargs):
    """Return the FastViT of MobileCLIP 2 S0, made small."""
    from timm.models import fastvit

    settings = {
        "layers": (1, 1, 1, 1), "embed_dims": (8, 16, 16, 32), "mlp_ratios": (2, 2, 2, 2),
        "se_downsamples": (False, False, True, True), "token_mixers": ("repmixer", "repmixer", "repmixer", "attention"),
        "lkc_use_act": True,
    }  # fmt: skip
    return fastvit._create_fastvit("fastvit_mci0", pretrained=pretrained, **{**settings, **kwargs})


@timm.models.register_model
def cafe_tiny_vit_mci(pretrained=False, **kwargs):
    """Return the ViT with a convolutional stem of MobileCLIP 2 B, made small."""
    from timm.models import vision_transformer_hybrid as hybrid

    stem = hybrid.ConvStem(
        channels=(8, 8, 32), stride=(4, 2, 2), kernel_size=(4, 2, 2), padding=0, act_layer=torch.nn.GELU
    )
    return hybrid._create_vision_transformer_hybrid(
        "vit_base_mci_224", backbone=stem, embed_args={"proj": False}, pretrained=pretrained,
        **{"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 4, "no_embed_class": True, **kwargs},
    )  # fmt: skip


@timm.models.register_model
def cafe_tiny_pe_core(pretrained=False, **kwargs):
    """Return the ViT of Perception Encoder, made small."""
    from timm.models import eva

    settings = {
        "img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "global_pool": "map",
        "attn_type": "rope", "use_pre_transformer_norm": True, "use_rot_pos_emb": True, "ref_feat_shape": (4, 4),
        "rope_grid_offset": 1.0, "rope_grid_indexing": "xy", "attn_pool_num_heads": 2, "attn_pool_mlp_ratio": 2.0,
    }  # fmt: skip
    return eva._create_eva("vit_pe_core_tiny_patch16_384", pretrained=pretrained, **{**settings, **kwargs})


@timm.models.register_model
def cafe_tiny_eva02(pretrained=False, **kwargs):
    """Return the ViT of EVA-02, made small."""
    from timm.models import eva

    settings = {
        "img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "qkv_fused": False,
        "mlp_ratio": 2, "swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True, "use_rot_pos_emb": True,
        "ref_feat_shape": (4, 4),
    }  # fmt: skip
    return eva._create_eva("eva02_base_patch16_clip_224", pretrained=pretrained, **{**settings, **kwargs})


def _vit(pretrained, kwargs, **settings):
    """Return timm's ViT, made small; ``settings`` differ from the small ones, and ``kwargs`` from both."""
    from timm.models import vision_transformer

    small = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
    return vision_transformer._create_vision_transformer(
        "vit_base_patch16_224", pretrained=pretrained, **{**small, **settings, **kwargs}
    )


@timm.models.register_model
def cafe_tiny_vit(pretrained=False, **kwargs):
    """Return a plain ViT, as BiomedCLIP's, made small."""
    return _vit(pretrained, kwargs)


@timm.models.register_model
def cafe_tiny_siglip(pretrained=False, **kwargs):
    """Return a ViT without a class token, as SigLIP's, made small."""
    return _vit(pretrained, kwargs, class_token=False)


def save_words(folder):
    """Save a tokenizer of whole words that keeps case, with the ids of start and end that XLM-R has."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "<pad>", "</s>", "<unk>", "a", "A", "Photo", "photo", "of", "cat", "CAT", ".", "x", "satellite"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)


def save(family, folder):
    """Save a family's model as open_clip's ``push_to_hf_hub`` does; the other files it names lie beside it."""
    from open_clip.model import CLIP, CustomTextCLIP
    from safetensors.torch import save_file
    from transformers import BertConfig

    vision, text, preprocessing, more = FAMILIES[family]
    text, more = dict(text), dict(more)
    if "hf_model_name" in text:
        text["hf_model_name"] = str(folder / text["hf_model_name"])
    if "hf_tokenizer_name" in text:
        save_words(folder)  # the library takes the one that lies beside the weights
    BertConfig(
        vocab_size=32, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    ).save_pretrained(folder / "bert")
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text, **more}
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    if "hf_model_name" in text:
        arguments["text_cfg"] = {**text, "hf_model_pretrained": False}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = (CustomTextCLIP if config.get("custom_text") else CLIP)(**arguments).eval()
        for module in model.modules():  # trained ones have no statistics of 0 and 1, which would hide a wrong fusion
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        for name, weight in model.named_parameters():
            if name.endswith("gamma"):  # fresh layer scales are 1e-5, and all images would have one feature
                torch.nn.init.ones_(weight)
            elif weight.ndim == 4:
                torch.nn.init.kaiming_normal_(weight)
    if family == "RemoteCLIP":  # published as a file of pickled tensors
        torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    else:
        state = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
        save_file(state, folder / "open_clip_model.safetensors")
    document = {"model_cfg": config, "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_features_equal_the_librarys_own(family, open_clip, tmp_path):
    save(family, tmp_path)
    generator = np.random.default_rng(0)
    sizes = [(50, 70), (32, 32), (90, 33)]
    images = [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    model.eval()
    pixels = torch.stack([preprocess(image) for image in images])
    with torch.no_grad():
        pictures = model.encode_image(pixels).numpy()
        text = model.encode_text(open_clip.get_tokenizer(f"local-dir:{tmp_path}")(PROMPTS)).numpy()
    encoder = open_encoder(f"open_clip:local-dir:{tmp_path}", device="cpu")
    crops = np.stack([encoder.cropper(image) for image in images])
    # The preprocessing is the library's own: bytes by its own steps, floats up to the rounding of (x - mean) / std.
    np.testing.assert_allclose(encoder._pixels(crops).numpy(), pixels.numpy(), rtol=0, atol=8 * EPS)
    reparameterised = encoder.identity()["image"]["architecture"].get("reparameterised", False)
    assert reparameterised == (family == "MobileCLIP 2 S0")
    # 64 float32 roundings of the largest entry, see test_transformers_clip.py; a fused tower multiplies other weights,
    # each rounded once more, through some twenty convolutions.
    for actual, expected, roundings in (
        (encoder.encode_images(crops), pictures, 20 * 64 if reparameterised else 64),
        (encoder.encode_text(PROMPTS), text, 64),
    ):
        assert np.abs(actual - expected).max() <= roundings * EPS * np.abs(expected).max()
        assert np.abs(expected[0] - expected[1]).max() > 10 * roundings * EPS * np.abs(expected).max()


def test_towers_that_do_not_end_in_one_vector_each_of_one_width(open_clip, tmp_path, monkeypatch):
    """Without a projection such a tower returns all its tokens."""
    vision, *others = FAMILIES["BiomedCLIP"]
    monkeypatch.setitem(FAMILIES, "BiomedCLIP", ({**vision, "timm_proj": None}, *others))
    save("BiomedCLIP", tmp_path)
    with pytest.raises(InputError, match="one vector each of the same width is needed") as caught:
        open_encoder(f"open_clip:local-dir:{tmp_path}", device="cpu")
    assert "\n" not in str(caught.value)


def test_a_reparameterised_tower_is_smaller_and_its_hash_is_that_of_the_file(open_clip, tmp_path, monkeypatch):
    save("MobileCLIP 2 S0", tmp_path)
    source = f"open_clip:local-dir:{tmp_path}"
    fused = open_encoder(source, device="cpu")
    monkeypatch.setattr("cafe.encoders.open_clip._reparameterise", lambda model: False)
    plain = open_encoder(source, device="cpu")
    ours, theirs = (len(list(encoder._model.visual.parameters())) for encoder in (fused, plain))
    assert ours < theirs
    before, after = plain.identity()["image"], fused.identity()["image"]
    assert before["weights_sha256"] == after["weights_sha256"]
    assert before != after  # a cache of the one is not taken for the other
