"""Pictures and captions follow from the seed, and captions are true."""

import ast
import pathlib

import numpy as np
import pytest
import torch

import cafe.mini
from cafe.mini import captions, fonts, vocabulary
from cafe.mini.augment import IMAGE_SIZE, make_pictures, reframe
from cafe.mini.shapes import draw_shape
from cafe.mini.strokes import DIGIT_SKELETONS, handwritten_digit, parse_skeleton
from cafe.mini.textures import draw_texture


def drawings(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    masks = [handwritten_digit(value, rng) for value in range(10)]
    masks += [draw_shape(name, rng) for name in vocabulary.SHAPES]
    masks += [draw_texture(name, rng) for name in vocabulary.TEXTURES]
    return np.stack(masks)


def test_the_same_seed_draws_the_same_masks():
    assert np.array_equal(drawings(3), drawings(3))
    assert not np.array_equal(drawings(3), drawings(4))


def test_every_drawing_has_ink():
    assert (drawings(5).reshape(32, -1).max(axis=1) > 200).all()


def test_the_same_seed_makes_the_same_pictures():
    masks = torch.from_numpy(drawings(1))
    codes = torch.zeros(len(masks), 6, dtype=torch.int64)
    codes[:, 5] = 1
    batches = []
    for _ in range(2):
        torch.manual_seed(11)
        batches.append(make_pictures(masks, codes))
    assert torch.equal(*batches)
    assert batches[0].shape == (len(masks), 3, IMAGE_SIZE, IMAGE_SIZE)
    assert batches[0].min() >= 0
    assert batches[0].max() <= 1


def test_a_tight_cut_fills_the_height():
    mask = torch.zeros(8, 1, 48, 48)
    mask[:, :, 20:28, 22:26] = 1
    torch.manual_seed(0)
    cut = reframe(mask, torch.ones(8, dtype=torch.bool))
    rows = (cut[:, 0] > 0.5).any(dim=2).float().mean(dim=1)
    assert (rows > 0.8).all()


def test_a_caption_is_true_of_its_own_picture_and_false_of_another():
    rng = np.random.default_rng(0)
    circle, star = 46, 49
    assert vocabulary.IDENTITIES[circle][1] == ("circle",)
    codes = np.array([[3, circle, 0, 0, 3, 1], [3, star, 0, 0, 4, 2]])
    for _ in range(50):
        stated = captions.caption(codes[0], rng).codes
        true = captions.matches(torch.from_numpy(codes), torch.tensor([stated]))
        assert true[:, 0].tolist() == [True, False]


def test_word_and_numeral_mean_the_same():
    codes = np.array([0, 7, 0, 1, 0, 1])
    rng = np.random.default_rng(2)
    written = [captions.caption(codes, rng) for _ in range(300)]
    stated = {c.codes for c in written if c.text in ("the digit seven", "the digit 7")}
    texts = {c.text for c in written}
    assert {"the digit seven", "the digit 7"} <= texts
    assert stated == {(0, 7, -1, -1, -1, -1)}


def test_skeletons_cover_the_digits_inside_the_unit_box():
    assert len(DIGIT_SKELETONS) == 10
    for options in DIGIT_SKELETONS:
        for text in options:
            points = np.concatenate(parse_skeleton(text))
            assert points.min() >= 0
            assert points.max() <= 1


def test_unknown_names_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="unknown shape 'blob'"):
        draw_shape("blob", rng)
    with pytest.raises(ValueError, match="unknown texture 'fur'"):
        draw_texture("fur", rng)


def test_a_missing_font_package_names_the_extra():
    with pytest.raises(fonts.MissingTrainingPackageError, match=r"cafe-clip\[train\]"):
        fonts.require("no_such_font_package", "font-no-such")


def test_no_module_reads_a_data_set():
    folder = pathlib.Path(cafe.mini.__file__).parent
    for file in folder.glob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] not in {"sklearn", "torchvision", "datasets"}
