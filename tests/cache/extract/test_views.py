"""Views: boxes as torchvision draws them, the same whatever else happens; a few hundred bytes by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from cafe.cache.extract.run import extract
from cafe.cache.extract.views import RATIO, SCALE, Views, augmented, draw_box, view_generator
from cafe.cache.format.reader import read_features
from cafe.cache.format.verify import verify_cache
from cafe.errors import InputError


def picture(width=60, height=40, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_a_view_is_its_box_resized_and_perhaps_flipped():
    image, seen = picture(), set()
    for view in range(12):
        generator = view_generator(7, "a.jpg", view)
        left, top, width, height = draw_box(generator, 60, 40)
        flipped = generator.random() < 0.5
        expected = np.asarray(
            image.crop((left, top, left + width, top + height)).resize((8, 6), Image.Resampling.BICUBIC)
        )
        expected = expected[:, ::-1] if flipped else expected
        np.testing.assert_array_equal(augmented(image, "a.jpg", view, 7, height=6, width=8), expected)
        seen.add(flipped)
    assert seen == {True, False}


def test_boxes_keep_to_scale_and_ratio():
    shares, flips = [], 0
    for i in range(2000):
        generator = view_generator(1, str(i), 0)
        left, top, width, height = draw_box(generator, 500, 400)
        assert left >= 0 and top >= 0 and left + width <= 500 and top + height <= 400
        # Sides are rounded to whole pixels: at most half a pixel of some 250.
        assert RATIO[0] * 0.99 < width / height < RATIO[1] * 1.01
        shares.append(width * height / (500 * 400))
        flips += generator.random() < 0.5
    assert SCALE[0] * 0.99 < min(shares) and max(shares) <= SCALE[1]
    # 5 standard deviations of a fair coin over 2,000 throws.
    assert abs(flips - 1000) < 5 * math.sqrt(500)


def test_an_image_that_no_box_fits_gives_the_central_one():
    assert draw_box(view_generator(1, "x", 0), 1000, 10) == (493, 0, 13, 10)
    assert draw_box(view_generator(1, "x", 0), 10, 1000) == (0, 493, 10, 13)
    assert draw_box(view_generator(1, "x", 0), 1, 1) == (0, 0, 1, 1)


def test_torchvision_draws_alike():
    """The distribution of torchvision's own boxes, where it is installed."""
    transforms = pytest.importorskip("torchvision.transforms", reason="torchvision is no dependency of cafe")
    import torch

    torch.manual_seed(0)
    theirs = [transforms.RandomResizedCrop.get_params(picture(500, 400), SCALE, RATIO) for _ in range(2000)]
    ours = [draw_box(view_generator(1, str(i), 0), 500, 400) for i in range(2000)]
    their_area = np.mean([height * width for _, _, height, width in theirs])
    our_area = np.mean([width * height for _, _, width, height in ours])
    # The share is uniform on (0.5, 1), less what does not fit; its standard error over 2,000 is 0.7 %.
    assert abs(their_area / our_area - 1) < 5 * 0.007


@pytest.mark.parametrize("change", [{"batch_size": 2}, {"batch_size": 7}, {"workers": 0}])
def test_views_do_not_depend_on_batches(dataset, fakes, tmp_path, change):
    views = Views(3, seed=5)
    first = read_features(extract(dataset, fakes[1](), tmp_path / "a.h5", views=views).path)
    again = read_features(extract(dataset, fakes[1](), tmp_path / "b.h5", views=views, **change).path)
    train = first.splits["train"]
    assert train.view_features.shape == (3, 7, 4)
    assert train.view_features.tobytes() == again.splits["train"].view_features.tobytes()
    assert first.splits["test"].view_features is None
    # Every view of a one-coloured square is that square.
    np.testing.assert_array_equal(train.view_features, np.stack([train.image_features] * 3))
    assert verify_cache(tmp_path / "a.h5").ok


def test_views_are_part_of_the_identity(dataset, fakes, tmp_path):
    provenance = read_features(extract(dataset, fakes[1](), tmp_path / "a.h5", views=Views(2, 9)).path).provenance
    assert provenance["image"]["views"]["n"] == 2
    assert provenance["image"]["views"]["scale"] == [0.5, 1.0]
    assert provenance["seeds"] == [9]
    other = extract(dataset, fakes[1](), tmp_path / "a.h5", views=Views(2, 8))
    assert other.path != tmp_path / "a.h5"


def test_an_unreadable_image_has_no_view(fakes, tmp_path):
    dataset = fakes[0](unreadable=["train/image_03.png"])
    train = read_features(extract(dataset, fakes[1](), tmp_path / "a.h5", views=Views(2)).path).splits["train"]
    assert train.view_features[1, :, 0].tolist() == [0, 10, 20, 40, 50, 60]


def test_views_need_training_images(dataset, encoder, tmp_path):
    with pytest.raises(InputError, match="views are of training images"):
        extract(dataset, encoder, tmp_path / "a.h5", splits=["test"], views=Views(2))
    with pytest.raises(InputError, match="at least 1"):
        Views(0)
