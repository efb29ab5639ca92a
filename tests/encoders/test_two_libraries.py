"""One checkpoint's preprocessing by two libraries: where they differ, and by how much, as docs/encoders.md has it."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PAGE = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def photographs():
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


def of_open_clip(interpolation, resize_mode):
    from cafe.encoders.open_clip import OpenCLIPCropper

    settings = {"size": (224, 224), "mean": (0.5,) * 3, "std": (0.5,) * 3, "fill_color": 0}
    return OpenCLIPCropper({**settings, "interpolation": interpolation, "resize_mode": resize_mode})


def of_transformers(kind, **settings):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    from cafe.encoders.towers.processors import ProcessorCropper

    if kind == "clip":
        sizes = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
        return ProcessorCropper(CLIPImageProcessorPil(**sizes, **settings))
    return ProcessorCropper(SiglipImageProcessorPil(size={"height": 224, "width": 224}, **settings))


def difference(first, two):
    return np.abs(first.astype(int) - two.astype(int))


def stated(row):
    """The two means that the page's table states for a checkpoint."""
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {row}")]
    return [float(number) for number in re.search(r"(\d+\.\d) to (\d+\.\d) grey levels", line).groups()]


def test_clips_crop(open_clip, photographs):
    ours, theirs = of_transformers("clip"), of_open_clip("bicubic", "shortest")
    for photograph in photographs:
        even = photograph.crop((0, 0, 500, 375))
        assert np.array_equal(ours(even), theirs(even))
        # 427 pixels become 224 and 640 become 335: a margin of 111.
        assert np.array_equal(ours(photograph)[:, 1:], theirs(photograph)[:, :-1])
    means = sorted(difference(ours(photograph), theirs(photograph)).mean() for photograph in photographs)
    assert [round(mean, 1) for mean in means] == stated("CLIP, 224 pixels")


def test_siglips_filter(open_clip, photographs):
    theirs = of_open_clip("bicubic", "squash")
    bilinear, bicubic = (of_transformers("siglip", resample=number) for number in (2, 3))
    differences = [difference(bilinear(photograph), theirs(photograph)) for photograph in photographs]
    assert [round(mean, 1) for mean in sorted(d.mean() for d in differences)] == stated("SigLIP 2 with")
    assert max(d.max() for d in differences) == 27
    for photograph in photographs:
        assert np.array_equal(bicubic(photograph), theirs(photograph))


def test_siglips_prompts(open_clip):
    from open_clip.tokenizer import get_clean_fn

    assert get_clean_fn("canonicalize")("A photo of a Cat.") == "a photo of a cat"
