"""Only the images that few-shot draws need are extracted, and the draws from them are those of the whole split."""

from __future__ import annotations

import numpy as np
import pytest

from cafe.cache.extract.plan import Draws
from cafe.cache.extract.run import extract
from cafe.cache.format.reader import read_features
from cafe.cache.format.verify import verify_cache
from cafe.errors import InputError
from cafe.protocol.draws import draw_few_shot
from cafe.protocol.tasks import make_task

COUNTS = {"train": 24, "val": 12, "test": 6}


@pytest.fixture
def caches(fakes, tmp_path):
    dataset = fakes[0](COUNTS)
    whole = extract(dataset, fakes[1](), tmp_path / "whole.h5").path
    few = extract(dataset, fakes[1](), tmp_path / "few.h5", draws=Draws((2, 3), (1, 2))).path
    return dataset, read_features(whole), read_features(few)


def test_rows_are_the_union_of_the_draws(caches):
    dataset, _, few = caches
    labels, val = dataset.splits["train"].labels, dataset.splits["val"].labels
    draws = [draw_few_shot(labels, val, shots, seed) for shots in (2, 3) for seed in (1, 2)]
    for split, drawn in (("train", [d[0] for d in draws]), ("val", [d[1] for d in draws])):
        rows = sorted(set(np.concatenate(drawn).tolist()))
        assert few.splits[split].full_rows.tolist() == rows
        assert few.splits[split].sample_ids.tolist() == [dataset.splits[split].sample_ids[row] for row in rows]
        assert few.splits[split].full_labels.tolist() == dataset.splits[split].labels.tolist()
    assert len(few.splits["test"]) == 6
    assert few.splits["test"].full_rows is None


@pytest.mark.parametrize("shots", [2, 3])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_task_is_that_of_the_whole_cache(caches, shots, seed):
    _, whole, few = caches
    expected, task = (make_task(features, shots, seed, check=False) for features in (whole, few))
    for part, other in ((task.train, expected.train), (task.val, expected.val), (task.test, expected.test)):
        assert part.sample_ids.tolist() == other.sample_ids.tolist()
        assert part.image_features.tobytes() == other.image_features.tobytes()


def test_what_was_not_extracted_is_refused(caches):
    few = caches[2]
    with pytest.raises(InputError, match=r"only the images of few-shot draws \(shots 2, 3; seeds 1, 2\).*seed 9"):
        make_task(few, 3, 9)
    with pytest.raises(InputError, match="extract all training images"):
        make_task(few, None, 1)


def test_drawn_images_that_were_unreadable_are_missed_with_a_warning(fakes, tmp_path):
    drawn, _ = draw_few_shot(np.arange(24) % 2, np.arange(12) % 2, 2, 1)
    dataset = fakes[0](COUNTS, unreadable=[f"train/image_{drawn[0]:02d}.png"])
    few = read_features(extract(dataset, fakes[1](), tmp_path / "few.h5", draws=Draws((2,), (1,))).path)
    with pytest.warns(UserWarning, match="1 images drawn from split 'train' could not be read"):
        task = make_task(few, 2, 1, check=False)
    assert task.train.sample_ids.tolist() == [dataset.splits["train"].sample_ids[row] for row in drawn[1:]]


def test_draws_are_part_of_the_identity(caches, tmp_path):
    _, whole, few = caches
    assert few.provenance["image"]["draws"] == {"shots": [2, 3], "seeds": [1, 2]}
    assert "draws" not in whole.provenance["image"]
    assert few.provenance["seeds"] == [1, 2]
    assert verify_cache(tmp_path / "few.h5").ok


def test_draws_need_a_train_split(dataset, encoder, tmp_path):
    with pytest.raises(InputError, match="split 'train'"):
        extract(dataset, encoder, tmp_path / "a.h5", splits=["test"], draws=Draws((1,)))
