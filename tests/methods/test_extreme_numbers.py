"""Every method on numbers at the ends of what floats hold, and on labels and text of odd types.

Probabilities are finite and sum to one, or an error of cafe says what is wrong.
"""

import warnings

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cafe.errors import CafeError, InputError
from cafe.methods import method_names

each_method = pytest.mark.parametrize("name", [name for name in method_names() if name != "auto"])


def problem(dtype=np.float32):
    rng = np.random.default_rng(0)
    text = rng.normal(size=(4, 12)).astype(dtype)
    y = np.arange(12) % 4
    return (text[y] + 0.6 * rng.normal(size=(12, 12))).astype(dtype), y, text


def sized(values, size):
    return (values.astype(np.float64) * size).astype(values.dtype)


X, Y, TEXT = problem()
WIDE, _, WIDE_TEXT = problem(np.float64)
LARGEST = np.float32(3e38)
QUERIES = np.array([[0.0], [3e38], [1e-40]], dtype=np.float32) * np.ones((1, 12), dtype=np.float32)
EXTREME = {
    "zeros": (X * 0, Y, TEXT),
    "1e20": (sized(X, 1e20), Y, sized(TEXT, 1e20)),
    "subnormal": (sized(X, 1e-40), Y, sized(TEXT, 1e-40)),
    "both 3e38": (np.sign(X) * LARGEST, Y, np.sign(TEXT) * LARGEST),
    "rows of all sizes": ((X * 10.0 ** np.linspace(-38, 37, 12)[:, None]).astype(np.float32), Y, TEXT),
    "float64 of 1e200": (WIDE * 1e200, Y, WIDE_TEXT * 1e200),
    "text beyond float32": (X, Y, WIDE_TEXT * 1e200),
    "text below float32": (X, Y, WIDE_TEXT * 1e-200),
    "float16 of 65504": (np.sign(X).astype(np.float16) * np.float16(65504), Y, TEXT),
    "constant": (np.ones_like(X), Y, np.ones_like(TEXT)),
    "one row": (X[:1], Y[:1], TEXT),
    "one class": (X[Y == 1], Y[Y == 1], TEXT),
}
FROM_IMAGES = ("zeros", "both 3e38", "rows of all sizes", "one row")


def outcome(model, features, labels):
    """Fit and predict; True where that gave probabilities, False where an error of cafe said why not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model.fit(features, labels)
            predicted = [model.predict_proba(rows) for rows in (features, QUERIES)]
        except CafeError as error:
            assert len(str(error)) > 20
            return False
    for probabilities in predicted:
        assert np.isfinite(probabilities).all()
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    return True


@each_method
@pytest.mark.parametrize("case", EXTREME)
def test_extreme_numbers_give_probabilities_or_a_reason(ready, name, case):
    features, labels, text = EXTREME[case]
    learned = outcome(ready(name, text), features, labels)
    if case not in ("zeros", "constant", "one row", "one class"):
        assert learned, "rows are scaled to length one, so their size is no reason"
    if case in FROM_IMAGES and "class_names" not in ready(name, None).get_params():
        outcome(ready(name, None), features, labels)


@each_method
@pytest.mark.parametrize("case", ["zeros", "1e20", "float64 of 1e200"])
def test_unscaled_numbers_give_probabilities_or_a_reason(ready, name, case):
    features, labels, text = EXTREME[case]
    outcome(ready(name, text, normalize=False), features, labels)


MIXED = {
    "texts and numbers": (["a", 1] * 6, "all texts or all numbers"),
    "an array of both": (np.array(["a", 1] * 6, dtype=object), "all texts or all numbers"),
    "texts and nothing": (np.array(["a", None] * 6, dtype=object), "all texts or all numbers"),
    "nothing": ([None] * 12, "got None"),
    "bytes": (np.array([b"a", b"b"] * 6), "bytes"),
}


@each_method
@pytest.mark.parametrize("case", MIXED)
def test_labels_of_several_kinds_are_a_sentence(ready, name, case):
    labels, words = MIXED[case]
    with pytest.raises(InputError, match=words):
        ready(name, TEXT).fit(X, labels)


@each_method
def test_text_that_is_no_numbers_and_sparse_features_are_a_sentence(ready, name):
    for text in (TEXT.astype(str), [["cat"] * 12] * 4, [[1.0, 2.0], [1.0], [3.0], [4.0]]):
        with pytest.raises(InputError, match="class_embeddings"):
            ready(name, TEXT).set_params(class_embeddings=text).fit(X, Y)
    with pytest.raises(InputError, match="sparse"):
        ready(name, TEXT).fit(csr_matrix(X), Y)
