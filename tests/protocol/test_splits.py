"""Splits of classes: CoCoOp's halves, and the classes that a shifted test set shares."""

import numpy as np
import pytest

from cafe.errors import InputError
from cafe.features import Features, Split
from cafe.protocol.base_to_new import harmonic_mean, split_classes
from cafe.protocol.shift import class_mapping, restricted


def features(names, ids=None, **more):
    y = np.arange(2 * len(names)) % len(names)
    ids = [f"image {i}" for i in range(len(y))] if ids is None else [f"{ids[k]}/{i}.jpg" for i, k in enumerate(y)]
    return Features({"test": Split(np.eye(len(y), 8), y, np.array(ids))}, tuple(names), **more)


@pytest.mark.parametrize(("classes", "base"), [(4, 2), (5, 3), (11, 6), (1000, 500), (47, 24), (101, 51)])
def test_first_ceil_half_is_base(classes, base):
    whole = features([f"c{i}" for i in range(classes)])
    first, second = split_classes(whole)
    assert (len(first.class_names), len(second.class_names)) == (base, classes - base)
    assert first.class_names + second.class_names == whole.class_names


def test_halves_keep_rows_text_and_relabel():
    text = np.random.default_rng(0).normal(size=(2, 5, 8))
    data = features("abcde", text_features=text, logit_scale=7.0)
    base, new = split_classes(data)
    np.testing.assert_array_equal(np.concatenate([base.text_features, new.text_features], axis=1), text)
    assert new.logit_scale == 7.0
    for part, first in ((base, 0), (new, 3)):
        own = part.splits["test"]
        rows = [data.splits["test"].sample_ids.tolist().index(i) for i in own.sample_ids]
        np.testing.assert_array_equal(data.splits["test"].labels[rows] - first, own.labels)


def test_harmonic_mean_is_that_of_the_published_table():
    """Published for ViT-B/16, averages of 11 data sets; the published H is of the averages."""
    for base, new, mean in ((69.34, 74.22, 71.70), (82.69, 63.22, 71.66), (80.47, 71.69, 75.83)):
        assert 100 * harmonic_mean(base / 100, new / 100) == pytest.approx(mean, abs=0.006)
    assert harmonic_mean(0.0, 0.0) == 0.0


def test_equal_lists_map_in_order_even_with_names_that_occur_twice():
    names = ["crane", "missile", "crane"]
    assert class_mapping(features(names), features(names)).tolist() == [0, 1, 2]


def test_wordnet_ids_decide_where_names_do_not():
    source = features(["crane", "crane", "dog"], ids=["n03126707", "n02012849", "n02084071"])
    target = features(["a bird", "hound"], ids=["n02012849", "n02084071"])
    assert class_mapping(source, target).tolist() == [1, 2]
    # Folders that were read as class names.
    assert class_mapping(source, features(["n02084071", "n03126707"])).tolist() == [2, 0]


def test_what_cannot_be_told_apart_is_refused():
    source = features(["crane", "crane", "dog"])
    for strange in (["crane", "dog"], ["cat", "dog"], ["dog", "Dog"]):
        with pytest.raises(InputError, match="matched by WordNet id in the image paths, or by class name"):
            class_mapping(source, features(strange))


def test_restricting_probabilities_is_the_softmax_over_the_logits_left():
    logits = np.random.default_rng(0).normal(size=(6, 5))
    columns = np.array([3, 0, 4])

    def softmax(x):
        e = np.exp(x - x.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    np.testing.assert_allclose(restricted(softmax(logits), columns), softmax(logits[:, columns]))


def test_a_classifier_without_an_opinion_is_even():
    assert restricted(np.array([[1.0, 0.0, 0.0]]), np.array([1, 2])).tolist() == [[0.5, 0.5]]


def test_draws_over_all_classes_are_no_draws_over_base_classes():
    own = Split(np.eye(4), np.arange(4), np.array(list("abcd")), full_labels=np.arange(4), full_rows=np.arange(4))
    with pytest.raises(InputError, match="extract all training images"):
        split_classes(Features({"train": own}, tuple("wxyz")))
