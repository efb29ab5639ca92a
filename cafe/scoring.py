"""Score a fitted method on a test split, once, and write the row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import InputError
from cafe.evaluation.metrics import all_metrics
from cafe.features import Features, Split
from cafe.protocol.selection import Selection
from cafe.protocol.tasks import Task, dataset_name, encoder_name
from cafe.version import __version__

# Rows of one inference block: 4096 x 1,000 classes in float32 are 16 MB.
INFERENCE_ROWS = 4096


def full_probabilities(estimator: Any, X: NDArray[Any], n_classes: int) -> NDArray[Any]:
    """Return probabilities over all classes of the data set, (n, n_classes); unseen ones have zero.

    Only methods that started from class means lack columns: those of classes without a training row.
    """
    probabilities = None
    for start in range(0, len(X), INFERENCE_ROWS):
        block = estimator.predict_proba(X[start : start + INFERENCE_ROWS])
        if probabilities is None:
            probabilities = np.zeros((len(X), n_classes), dtype=block.dtype)
        probabilities[start : start + len(block), estimator.classes_] = block
    if probabilities is None:
        raise InputError("there is no row to predict")
    return probabilities


def zero_shot_accuracy(features: Features, test: Split) -> float | None:
    """Return zero-shot's acc1 on a test split; None without text."""
    if features.class_embeddings is None:
        return None
    from cafe.methods.zero_shot import ZeroShot

    # Zero-shot learns nothing from rows; one of them satisfies the interface.
    fit = ZeroShot(features.class_embeddings, logit_scale=features.logit_scale)
    fit.fit(test.image_features[:1], test.labels[:1])
    probabilities = full_probabilities(fit, test.image_features, len(features.class_names))
    return float(np.mean(probabilities.argmax(axis=1) == test.labels))


# Parameters that the cache supplies; the row's fingerprint stands for them.
_FROM_CACHE = ("class_embeddings", "classes", "class_names", "projection", "bias")


def make_row(
    estimator: Any,
    chosen: Selection,
    task: Task,
    method: str,
    seconds: float,
    zero_shot: float | None,
    probabilities: NDArray[Any],
    labels: NDArray[np.int64],
) -> dict[str, Any]:
    """Write the row of one fitted method on one test split.

    Parameters
    ----------
    estimator : classifier
        Fitted.
    chosen : Selection
        How its parameters were chosen.
    task : Task
        What it was fitted on.
    method : str
        Its name.
    seconds : float
        Fitting time; in a grid, its share of it.
    zero_shot : float or None
        Zero-shot's acc1 on the same test rows; None without text.
    probabilities : ndarray of shape (n, c)
        On the test rows.
    labels : ndarray of shape (n,), int64
        Of the test rows.

    Returns
    -------
    dict
        See DESIGN "The command line".
    """
    features = task.features
    parameters = estimator.get_params(deep=False)
    uses_text = features.text_features is not None
    # Zero-shot with text sees no image, so its row names no shots and no seed.
    trains = method != "zero-shot" or not uses_text
    return {
        "dataset": dataset_name(features),
        "encoder": encoder_name(features),
        "method": method if uses_text or method != "zero-shot" else "class-means",
        "variant": parameters.get("variant"),
        "shots": task.shots if trains else 0,
        "seed": task.seed if trains else None,
        "n_train": len(task.train) if trains else 0,
        "n_test": len(labels),
        **all_metrics(probabilities, labels),
        "zero_shot_acc1": zero_shot,
        "params": {k: v for k, v in parameters.items() if k not in _FROM_CACHE},
        **estimator.row_extras(),
        "class_embeddings": "text" if uses_text else "class-means",
        "selection": chosen.as_json(),
        "oracle": chosen.policy == "oracle-test",
        "fit_seconds": seconds,
        "kernel": estimator.kernel_,
        "device": getattr(estimator, "device_", "cpu"),
        "dtype": getattr(estimator, "dtype_", str(probabilities.dtype)),
        "cafe_version": __version__,
        "cache_fingerprint": features.provenance.get("fingerprint"),
    }
