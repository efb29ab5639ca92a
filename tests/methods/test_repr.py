"""What is printed of estimators and features is short: arrays show their shape."""

import numpy as np
import pytest

from cafe import CLIPAdapter
from cafe.features import Features, Split
from cafe.methods import make_method, method_names


def test_an_estimator_shows_shapes_and_what_is_not_a_default():
    model = CLIPAdapter(np.zeros((10, 256), np.float32), alpha=0.6)
    assert repr(model) == "CLIPAdapter(alpha=0.6, class_embeddings=array(10, 256) float32)"
    assert repr(CLIPAdapter(classes=list("abcdefgh"))) == "CLIPAdapter(classes=list of 8)"


@pytest.mark.parametrize("name", method_names())
def test_every_method_is_one_short_line(name):
    model = make_method(name, class_embeddings=np.random.default_rng(0).normal(size=(1000, 512)))
    assert repr(model) == f"{type(model).__name__}(class_embeddings=array(1000, 512) float64)"
    assert repr(make_method(name)) == f"{type(model).__name__}()"


def test_features_show_the_shape_of_every_split():
    split = Split(np.zeros((2, 4), np.float16), np.array([0, 1]), np.array(["a", "b"]))
    names = tuple(f"class {i}" for i in range(1000))
    text = np.ones((1, 1000, 4), np.float32)
    features = Features({"train": split}, names, text, provenance={"dataset": "digits", "encoder": "cafe:mini"})
    assert repr(features) == (
        "Features(dataset='digits', encoder='cafe:mini', train=array(2, 4) float16, "
        "text_features=array(1, 1000, 4) float32, class_names=1000)"
    )
    assert repr(split) == "Split(image_features=array(2, 4) float16, labels=array(2,) int64, sample_ids=array(2,) <U1)"
