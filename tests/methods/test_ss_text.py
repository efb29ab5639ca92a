"""SS-Text against its equations in float64; the meaning of "unlabelled"; the length of the text."""

import numpy as np
import pytest
from made_up_rows import unit
from scipy import sparse
from sklearn.exceptions import DataConversionWarning

from cafe import SSText, ZeroShot, fit_many
from cafe.errors import InputError
from cafe.methods.ss_text import class_shares, transported_labels
from cafe.runs import load, save


@pytest.fixture
def problem():
    rng = np.random.default_rng(3)
    text = rng.normal(size=(4, 9))
    y = np.array([0, 0, 1, 1, 3, 3, 3])
    aside = text[np.arange(12) % 4] + 0.5 * rng.normal(size=(12, 9))
    return text[y] + 0.5 * rng.normal(size=(7, 9)), y, text, rng.normal(size=(5, 9)), aside


def derived(X, y, text, aside, length, scale, turns=3, iterations=10):
    """Return SS-Text's class weights (c, d), summed row by row, with Sinkhorn's iterations on plain probabilities."""
    X, c = unit(X), len(text)
    counts = np.array([float((y == k).sum()) for k in range(c)])
    labelled = length * text
    for f, label in zip(X, y, strict=True):
        labelled[label] = labelled[label] + counts[label] / (2 * len(y) / scale) * f
    if aside is None:
        return labelled
    U, w = unit(aside), length * text
    shares = counts / counts.sum()
    shares[shares == 0] = shares[shares > 0].min() / 4
    shares = shares / shares.sum()
    for _ in range(turns):
        q = np.exp(scale * U @ unit(w).T)
        for _ in range(iterations):
            q = q * (len(U) * shares / q.sum(axis=0))
            q = q / q.sum(axis=1, keepdims=True)
        w = labelled + sum(np.outer(q[j], U[j]) for j in range(len(U))) * scale / len(U)
    return w


@pytest.mark.parametrize("text_images", [None, 5.0])
def test_labelled_form_is_its_equation(problem, text_images):
    X, y, text, queries, _ = problem
    model = SSText(text, logit_scale=40.0, text_images=text_images).fit(X, y)
    base = unit(text) if text_images else text
    length = 5.0 * 40.0 / (2 * 4) if text_images else 1.0
    expected = 40 * unit(queries) @ unit(derived(X, y, base, None, length, 40.0)).T
    np.testing.assert_allclose(model.logits(queries), expected, rtol=1e-10)


@pytest.mark.parametrize("text_images", [None, 5.0])
def test_semi_supervised_form_is_its_equations(problem, text_images):
    X, y, text, queries, aside = problem
    model = SSText(text, unlabelled=-1, logit_scale=10.0, text_images=text_images)
    model.fit(np.concatenate([aside[:6], X, aside[6:]]), [*[-1] * 6, *y, *[-1] * 6])
    base = unit(text) if text_images else text
    length = 5.0 * 10.0 / (2 * 4) if text_images else 1.0
    expected = 10 * unit(queries) @ unit(derived(X, y, base, aside, length, 10.0)).T
    np.testing.assert_allclose(model.logits(queries), expected, rtol=1e-9)
    assert model.n_unlabelled_ == 12
    assert model.chosen_on() == "unlabelled rows"
    assert model.row_extras() == {"n_unlabelled": 12}


def test_transport_meets_both_marginals():
    rng = np.random.default_rng(0)
    shares = np.array([0.5, 0.3, 0.2])
    q = transported_labels(5 * rng.normal(size=(40, 3)), shares, 500)
    np.testing.assert_allclose(q.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(q.sum(axis=0), 40 * shares, rtol=1e-6)
    assert class_shares(np.array([2, 2, 0])).tolist() == [4 / 9, 4 / 9, 1 / 9]


def test_only_the_label_that_was_named_means_unlabelled(problem):
    X, y, text, queries, aside = problem
    both = np.concatenate([X, aside])
    names = np.array(["ant", "bee", "cat", "dog"])
    marked = np.array([*names[y], *["?"] * 12])
    by_name = SSText(text, classes=names, unlabelled="?").fit(both, marked)
    by_number = SSText(text, unlabelled=-1).fit(both, [*y, *[-1] * 12])
    np.testing.assert_array_equal(by_name.logits(queries), by_number.logits(queries))
    assert by_name.classes_.tolist() == names.tolist()
    with pytest.raises(InputError, match="integers 0 to 3"):
        SSText(text).fit(both, [*y, *[-1] * 12])
    with pytest.raises(InputError, match="'.' is none of the 4 classes"):
        SSText(text, classes=names).fit(both, marked)
    # Without text -1 is a class like any other, until it is named.
    assert -1 in SSText().fit(both, [*y, *[-1] * 12]).classes_
    assert -1 not in SSText(unlabelled=-1).fit(both, [*y, *[-1] * 12]).classes_
    assert by_name.unlabelled == "?"


def test_no_label_means_a_message(problem):
    X, y, text, _, _ = problem
    with pytest.raises(InputError, match="every training row has the label -1, which means unlabelled"):
        SSText(text, unlabelled=-1).fit(X, np.full(7, -1))
    with pytest.raises(InputError, match="also the name of a class"):
        SSText(text, classes=list("abcd"), unlabelled="a").fit(X, np.array(list("abcd"))[y])
    with pytest.raises(ValueError, match="NaN"):
        SSText(text, unlabelled=-1).fit(np.concatenate([X, np.full((1, 9), np.nan)]), [*y, -1])
    with pytest.raises(TypeError, match="[Ss]parse"):
        SSText(text, unlabelled=-1).fit(sparse.csr_matrix(X), y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        SSText(text, unlabelled=-1).fit(X, y[:3])
    with pytest.raises(InputError, match="text_images of ss-text must be a number, above 0, or None, but is -1"):
        SSText(text, text_images=-1).fit(X, y)


def test_labels_in_a_column_are_read_like_others(problem):
    X, y, text, queries, _ = problem
    marked = np.array([*y[:6], -1])
    with pytest.warns(DataConversionWarning):
        column = SSText(unlabelled=-1).fit(X, marked[:, None])
    assert column.classes_.tolist() == [0, 1, 3]
    np.testing.assert_array_equal(column.logits(queries), SSText(unlabelled=-1).fit(X, marked).logits(queries))


def test_text_counts_as_many_images_whatever_the_number_of_classes_and_the_scale():
    """K images of every class, and text that counts as m images, give weights in the direction of m text + K mean."""
    rng = np.random.default_rng(1)
    for n_classes, scale in ((3, 100.0), (30, 10.0)):
        text = unit(rng.normal(size=(n_classes, 40)))
        y = np.repeat(np.arange(n_classes), 4)
        X = unit(text[y] + 0.3 * rng.normal(size=(len(y), 40)))
        means = np.stack([X[y == k].mean(axis=0) for k in range(n_classes)])
        model = SSText(text, text_images=6.0, logit_scale=scale).fit(X, y)
        np.testing.assert_allclose(model.weights_, unit(6 * text + 4 * means), rtol=1e-9)
        # Without normalising, text and rows of other lengths give the same weights.
        unscaled = SSText(7 * text, text_images=6.0, logit_scale=scale, normalize=False).fit(10 * X, y)
        np.testing.assert_allclose(unscaled.weights_, model.weights_, rtol=1e-9)


def test_much_text_is_zero_shot(problem):
    X, y, text, queries, _ = problem
    logits = SSText(text, text_images=1e12).fit(X, y).logits(queries)
    np.testing.assert_allclose(logits, ZeroShot(text).fit(X, y).logits(queries), rtol=1e-6)


def test_unlabelled_images_in_a_grid_and_on_disk(problem, tmp_path):
    X, y, text, queries, aside = problem
    both, marked = np.concatenate([X, aside]), np.array([*y, *[-1] * 12])
    rows = [np.arange(19), np.arange(0, 15)]
    many = fit_many(both, marked, [SSText(text, unlabelled=-1) for _ in rows], rows)
    for fit, own in zip(many, rows, strict=True):
        single = SSText(text, unlabelled=-1).fit(both[own], marked[own])
        np.testing.assert_array_equal(fit.logits(queries), single.logits(queries))
    save(many[0], tmp_path / "run")
    np.testing.assert_array_equal(load(tmp_path / "run").logits(queries), many[0].logits(queries))


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_rows_stay_finite(problem, dtype):
    X, y, text, queries, aside = problem
    odd = np.concatenate([X, np.zeros((2, 9)), np.full((2, 9), 1e20), aside]).astype(dtype)
    for scale in (1e-3, 100.0, 1e4):
        model = SSText(text, unlabelled=-1, logit_scale=scale).fit(odd, [*y, 0, -1, 1, -1, *[-1] * 12])
        assert np.isfinite(model.predict_proba(np.concatenate([odd, 1e-30 * queries]).astype(dtype))).all()
