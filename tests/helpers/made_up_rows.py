"""Few rows of features around class text, for tests that compare a method with its equations."""

import numpy as np


def unit(x):
    """Scale rows to length one."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def rows_around_text(labels, noise=0.5, width=9, seed=3, n_classes=4):
    """Draw a row of noise around the text of each label: rows, labels, text and five queries of noise alone."""
    rng = np.random.default_rng(seed)
    y = np.asarray(labels)
    text = rng.normal(size=(n_classes, width))
    X = text[y] + noise * rng.normal(size=(len(y), width))
    return X, y, text, rng.normal(size=(5, width))
