"""Tiny random models in the layouts of both libraries."""

import json

import pytest


@pytest.fixture(scope="session")
def open_clip():
    """The library; the test is skipped where it is not installed, or its torchvision does not fit torch."""
    try:
        import open_clip
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        pytest.skip(f"open_clip cannot be imported here: {str(error).splitlines()[0]}")
    return open_clip


VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 24, "heads": 4, "layers": 2}
PREPROCESS = {
    "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "interpolation": "bilinear", "resize_mode": "shortest",
}  # fmt: skip


def save_tiny_open_clip(folder, *, vision=None, preprocess=None, seed=0, **changes):
    """Save a random model as ``push_to_hf_hub`` lays it out, and return the library's own model."""
    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {"embed_dim": 16, "vision_cfg": vision or VIT, "text_cfg": TEXT, "quick_gelu": False, **changes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIP(**config).eval()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    document = {"model_cfg": config, "preprocess_cfg": {**PREPROCESS, **(preprocess or {})}}
    (folder / "open_clip_config.json").write_text(json.dumps(document))
    return model


@pytest.fixture(scope="session")
def make_open_clip(open_clip):
    """The function that saves a tiny model of open_clip: ``make_open_clip(folder, vision=..., preprocess=...)``."""
    return save_tiny_open_clip


@pytest.fixture(scope="session")
def tiny_open_clip(make_open_clip, tmp_path_factory):
    """One tiny model of open_clip for the whole session, as what --model takes; only read it."""
    folder = tmp_path_factory.mktemp("open-clip") / "tiny"
    make_open_clip(folder)
    return f"open_clip:local-dir:{folder}"
