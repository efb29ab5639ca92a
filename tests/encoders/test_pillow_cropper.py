"""Pillow alone makes the pixels of both libraries' croppers, whatever the size of an image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cafe.encoders.opening import open_encoder
from cafe.encoders.towers.pillow_cropper import PillowCropper
from cafe.encoders.towers.processors import ProcessorCropper
from cafe.errors import InputError

sides = st.integers(1, 90)


def noise(height, width):
    return Image.fromarray(np.random.default_rng(height * 100 + width).integers(0, 256, (height, width, 3), np.uint8))


def croppers():
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    small = {"size": {"shortest_edge": 17}, "crop_size": {"height": 16, "width": 20}}  # cut on one side, padded on one
    return [
        CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        CLIPImageProcessorPil(**small),
        CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 16, "width": 16}, resample=2),
        SiglipImageProcessorPil(size={"height": 16, "width": 12}),
    ]


@settings(max_examples=25, deadline=None)
@given(sides, sides)
def test_pixels_are_those_of_transformers(height, width):
    image = noise(height, width)
    for processor in croppers():
        cropper = ProcessorCropper(processor)
        np.testing.assert_array_equal(PillowCropper(cropper.specification())(image), cropper(image))


@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_pixels_are_those_of_open_clip(mode):
    pytest.importorskip("open_clip")
    from cafe.encoders.open_clip import OpenCLIPCropper

    config = {
        "size": (16, 16), "mode": "RGB", "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic",
        "resize_mode": mode, "fill_color": 0,
    }  # fmt: skip
    cropper = OpenCLIPCropper(config)
    plain = PillowCropper(cropper.specification())
    for height, width in ((16, 16), (17, 40), (40, 17), (33, 90), (5, 7), (64, 64), (91, 30)):
        np.testing.assert_array_equal(plain(noise(height, width)), cropper(noise(height, width)))


def test_the_embedded_models_pixels_are_the_same():
    encoder = open_encoder("cafe:mini")
    image = noise(70, 41)
    np.testing.assert_array_equal(
        PillowCropper(encoder.identity()["image"]["preprocessing"])(image), encoder.cropper(image)
    )


@pytest.mark.parametrize(
    ("specification", "reason"),
    [
        ({"processor": "timm", "backend": "timm"}, "more than resizing"),
        ({"processor": "Siglip2ImageProcessor", "max_num_patches": 256}, "more than resizing"),
        ({"processor": "open_clip", "size": [8, 8], "resize_mode": "longest", "resample": "bicubic"}, "'longest'"),
        ({"do_resize": True, "size": {"longest_edge": 8}, "resample": "bicubic"}, "longest_edge"),
        ({"do_resize": True, "size": {"shortest_edge": 8}, "resample": "sinc"}, "'sinc'"),
    ],
)
def test_what_pillow_alone_cannot_do_is_refused(specification, reason):
    with pytest.raises(InputError, match=reason):
        PillowCropper(specification)
