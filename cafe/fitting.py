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

from cafe.compute import TRAINING_DTYPES, choose_device
from cafe.errors import InputError, unknown_name
from cafe.features import Features
from cafe.methods import fit_many, make_method
from cafe.protocol import selection as policies
from cafe.protocol.oracle import oracle_test
from cafe.protocol.tasks import Task, encoder_name, make_task, stacked
from cafe.scoring import full_probabilities, make_row, zero_shot_accuracy


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
    labels : ndarray of shape (n_test,), int64
        Class row that each test sample belongs to.
    selection : Selection
        How its parameters were chosen.
    """

    estimator: Any
    row: dict[str, Any]
    predicted: NDArray[np.int64]
    labels: NDArray[np.int64]
    selection: policies.Selection

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each test sample was predicted right, (n_test,)."""
        right: NDArray[np.bool_] = self.predicted == self.labels
        return right


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

    Raises
    ------
    InputError
        If device or dtype cannot be had, or the method has no choice of it.
    """
    check_wishes(device, dtype, method)
    task = make_task(features, shots, seed)
    return fit_tasks([task], method, parameters or {}, selection=selection, device=device, dtype=dtype)[0]


@dataclass(frozen=True)
class Job:
    """One method with its parameters, to be fitted on one task."""

    task: Task
    method: str
    parameters: Mapping[str, Any]


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
    return fit_jobs([Job(task, method, parameters) for task in tasks], selection, device, dtype)


def fit_jobs(jobs: Sequence[Job], selection: str = "auto", device: str = "auto", dtype: str = "auto") -> list[Fitted]:
    """Fit any mix of methods, parameters and tasks of the same data set, in as few runs as possible.

    A grid over a parameter, shots and seeds is one call: everything that a method can train side by side is.

    Parameters
    ----------
    jobs : sequence of Job
        Their tasks share one set of features.
    selection, device, dtype : str
        As in :func:`fit_method`.

    Returns
    -------
    list of Fitted
        In the order of the jobs; ``fit_seconds`` of each row is its share of the run.
    """
    inputs = [_input_of(job) for job in jobs]
    fitted: dict[int, Fitted] = {}
    for projected in (False, True):
        # Features before the projection have another width, so those fits are a run of their own.
        members = [i for i, own in enumerate(inputs) if (own is not jobs[i].task) is projected]
        if members:
            run = _fit_run([jobs[i] for i in members], [inputs[i] for i in members], selection, device, dtype)
            fitted.update(zip(members, run, strict=True))
    return [fitted[i] for i in range(len(jobs))]


def _input_of(job: Job) -> Task:
    """Return the task a method learns from: on features before the projection, where it trains that and has them."""
    if "projection" not in make_method(job.method).get_params(deep=False) or "projection" in job.parameters:
        return job.task
    return job.task.before_projection() or job.task


def _fit_run(jobs: Sequence[Job], inputs: Sequence[Task], selection: str, device: str, dtype: str) -> list[Fitted]:
    """Fit jobs whose inputs have one width."""
    started = time.perf_counter()
    moved = {id(job.task): own for job, own in zip(jobs, inputs, strict=True)}
    templates = [
        estimator_for(job.task, job.method, job.parameters, device, dtype, moved[id(job.task)] is not job.task)
        for job in jobs
    ]
    resolved = [_resolve(one, moved[id(job.task)], selection) for one, job in zip(templates, jobs, strict=True)]
    X, y, rows = stacked(list(moved.values()))
    rows_of = dict(zip(moved, rows, strict=True))
    fits = fit_many(X, y, [one for one, _ in resolved], [rows_of[id(job.task)] for job in jobs])
    seconds = (time.perf_counter() - started) / len(jobs)
    zero_shot: dict[int, float | None] = {}
    fitted = []
    for fit, (_, chosen), job in zip(fits, resolved, jobs, strict=True):
        features, test = job.task.features, job.task.test
        if id(features) not in zero_shot:
            zero_shot[id(features)] = zero_shot_accuracy(features, test)
        # The one look at the test split.
        probabilities = full_probabilities(fit, moved[id(job.task)].test.image_features, len(features.class_names))
        row = make_row(fit, chosen, job.task, job.method, seconds, zero_shot[id(features)], probabilities, test.labels)
        fitted.append(Fitted(fit, row, probabilities.argmax(axis=1), test.labels, chosen))
    return fitted


def estimator_for(
    task: Task, method: str, parameters: Mapping[str, Any], device: str, dtype: str, before_projection: bool = False
) -> Any:
    """Make the unfitted method with the cache's class embeddings, logit scale, device and seed.

    ``before_projection`` also hands over the projection, to a method that learns from features before it.
    """
    features = task.features
    estimator = make_method(method, **parameters)
    own = {
        "class_embeddings": features.class_embeddings,
        "logit_scale": features.logit_scale,
        "device": device,
        "dtype": dtype,
        "random_state": task.seed,
        # Methods that learn prompts open the tower that made the cache, and refuse any other.
        "class_names": list(features.class_names),
        "text_tower": encoder_name(features),
        "text_tower_sha256": ((features.provenance.get("text") or {}).get("encoder") or {}).get("weights_sha256"),
    }
    if before_projection:
        own["projection"] = features.projection
    known = estimator.get_params(deep=False)
    return estimator.set_params(**{k: v for k, v in own.items() if k in known and k not in parameters})


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


def check_wishes(device: str = "auto", dtype: str = "auto", method: str | None = None) -> None:
    """Refuse what cannot be had.

    Parameters
    ----------
    device : str, default="auto"
        As :func:`cafe.compute.choose_device` takes it.
    dtype : str, default="auto"
        That of training: ``"auto"``, ``"float32"``, ``"float64"``, ``"bfloat16"`` or ``"tf32"``.
    method : str, default=None
        The one method that is to run, which must be able to meet both; None for several, of which those that train
        follow the wish.

    Raises
    ------
    InputError
        If one is unknown or not here, or the method does not train and so has no choice.

    Examples
    --------
    >>> check_wishes("cpu", "float32", "clip-adapter")
    """
    choose_device(device)
    if dtype not in TRAINING_DTYPES:
        raise unknown_name("dtype of training", dtype, TRAINING_DTYPES)
    if method is None:
        return
    known = make_method(method).get_params(deep=False)
    if dtype != "auto" and "dtype" not in known:
        raise InputError(f"{method} has no choice of dtype: it computes in that of the features; leave dtype at 'auto'")
    if device not in ("auto", "cpu") and "device" not in known:
        raise InputError(f"{method} runs on the CPU alone, not on {device!r}; leave device at 'auto'")
