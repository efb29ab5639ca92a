"""Fit methods on tasks: choose what is ``"auto"``, fit side by side, test once, and write the row.

The order is the protocol: shots and validation rows go into selection, the chosen configuration is fitted on
the shots, and only then is the test split looked at.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe import __version__
from cafe.errors import InputError
from cafe.features import Features
from cafe.methods import fit_many, make_method
from cafe.metrics import all_metrics
from cafe.protocol import selection as policies
from cafe.protocol.oracle import oracle_test
from cafe.tasks import Task, dataset_name, encoder_name, make_task, stacked

# Rows of one inference block: 4096 x 1,000 classes in float32 are 16 MB.
INFERENCE_ROWS = 4096


@dataclass(frozen=True)
class Fitted:
    """A fitted method and the row that says how it did.

    Attributes
    ----------
    estimator : classifier
        Fitted.
    row : dict
        See DESIGN "The command line": everything needed to run it again.
    predicted : ndarray of shape (n_test,), int64
        Class row predicted for each test sample, for paired comparisons.
    """

    estimator: Any
    row: dict[str, Any]
    predicted: NDArray[np.int64]


def fit_method(
    features: Features,
    method: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    shots: int | None = None,
    seed: int = 1,
    selection: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
) -> Fitted:
    """Fit one method on one draw of shots and test it.

    Parameters
    ----------
    features : Features
        A loaded cache.
    method : str
        Such as ``"clip-adapter"``.
    parameters : mapping, default=None
        The method's own keyword parameters; None for its defaults.
    shots : int, default=None
        Training images per class; None for all.
    seed : int, default=1
        Of the draw and the fit.
    selection : str, default="auto"
        Policy for parameters that are ``"auto"``; see :mod:`cafe.protocol.selection`.
    device, dtype : str, default="auto"
        For methods that train.

    Returns
    -------
    Fitted
    """
    task = make_task(features, shots, seed)
    return fit_tasks([task], method, parameters or {}, selection=selection, device=device, dtype=dtype)[0]


def fit_tasks(
    tasks: Sequence[Task],
    method: str,
    parameters: Mapping[str, Any],
    *,
    selection: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
) -> list[Fitted]:
    """Fit one method with the same parameters on several tasks of the same data set, in as few runs as possible.

    Parameters are as in :func:`fit_method`. ``fit_seconds`` of each row is its share of the run.
    """
    started = time.perf_counter()
    templates = [estimator_for(task, method, parameters, device, dtype) for task in tasks]
    resolved = [_resolve(one, task, selection) for one, task in zip(templates, tasks, strict=True)]
    X, y, rows = stacked(list(tasks))
    fits = fit_many(X, y, [one for one, _ in resolved], rows)
    seconds = (time.perf_counter() - started) / len(tasks)
    zero_shot: dict[int, float | None] = {}
    fitted = []
    for fit, (_, chosen), task in zip(fits, resolved, tasks, strict=True):
        if id(task.features) not in zero_shot:
            zero_shot[id(task.features)] = zero_shot_accuracy(task)
        fitted.append(_test(fit, chosen, task, method, seconds, zero_shot[id(task.features)]))
    return fitted


def estimator_for(task: Task, method: str, parameters: Mapping[str, Any], device: str, dtype: str) -> Any:
    """Make the unfitted method with the cache's class embeddings, logit scale, device and seed."""
    features = task.features
    estimator = make_method(method, **parameters)
    own = {
        "class_embeddings": features.class_embeddings,
        "logit_scale": features.logit_scale,
        "device": device,
        "dtype": dtype,
        "random_state": task.seed,
    }
    known = estimator.get_params(deep=False)
    return estimator.set_params(**{k: v for k, v in own.items() if k in known and k not in parameters})


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


def zero_shot_accuracy(task: Task) -> float | None:
    """Return zero-shot's acc1 on the task's test split; None without text."""
    if task.features.class_embeddings is None:
        return None
    from cafe.methods.zero_shot import ZeroShot

    plain = estimator_for(task, "zero-shot", {}, "auto", "auto")
    assert isinstance(plain, ZeroShot)
    # Zero-shot learns nothing from rows; two of them satisfy the interface.
    fit = plain.fit(task.test.image_features[:1], task.test.labels[:1])
    probabilities = full_probabilities(fit, task.test.image_features, len(task.features.class_names))
    return float(np.mean(probabilities.argmax(axis=1) == task.test.labels))


def _resolve(estimator: Any, task: Task, selection: str) -> tuple[Any, policies.Selection]:
    """Choose everything that is ``"auto"``; training and validation rows are all that a policy gets."""
    policy = policies.resolve_policy(selection, task.val is not None)
    if not estimator.automatic():
        return estimator, policies.Selection("fixed")
    X, y = task.train.image_features, task.train.labels
    rows = np.arange(len(y))
    if policy == "fixed":
        return policies.choose(estimator, policy, None)
    if policy == "oracle-test":
        return oracle_test(estimator, task, fit_many)
    if policy == "few-shot-val":
        assert task.val is not None
        scorer = policies.few_shot_val(fit_many, X, y, rows, (task.val.image_features, task.val.labels))
        return policies.choose(estimator, policy, scorer)
    try:
        return policies.choose(estimator, policy, policies.cross_validation(fit_many, X, y, rows, task.seed))
    except policies.NothingToChooseByError as error:
        if selection == "cross-validation":
            raise
        return policies.fall_back(estimator, str(error))


def _test(
    estimator: Any, chosen: policies.Selection, task: Task, method: str, seconds: float, zero_shot: float | None
) -> Fitted:
    """Look at the test split, once, and write the row."""
    features = task.features
    probabilities = full_probabilities(estimator, task.test.image_features, len(features.class_names))
    parameters = estimator.get_params(deep=False)
    uses_text = features.text_features is not None
    row = {
        "dataset": dataset_name(features),
        "encoder": encoder_name(features),
        "method": method if uses_text or method != "zero-shot" else "class-means",
        "variant": parameters.get("variant"),
        "shots": task.shots,
        "seed": task.seed,
        "n_train": len(task.train),
        "n_test": len(task.test),
        **all_metrics(probabilities, task.test.labels),
        "zero_shot_acc1": zero_shot,
        "params": {k: v for k, v in parameters.items() if k not in ("class_embeddings", "classes")},
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
    return Fitted(estimator, row, probabilities.argmax(axis=1))
