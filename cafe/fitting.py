"""Fit methods on tasks: choose what is ``"auto"``, fit side by side, test once, and write the row.

The order is the protocol: shots and validation rows go into selection, the chosen configuration is fitted on
the shots, and only then is the test split looked at.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.compute import TRAINING_DTYPES, choose_device
from cafe.errors import InputError, unknown_name
from cafe.evaluation.metrics import all_metrics
from cafe.features import Features, Split
from cafe.methods import fit_many, make_method, method_names
from cafe.methods.inference.fitted import full_probabilities
from cafe.protocol import selection as policies
from cafe.protocol.oracle import oracle_test
from cafe.protocol.tasks import Task, dataset_name, encoder_name, make_task, stacked
from cafe.protocol.unlabelled import UNLABELLED, Unlabelled, unlabelled_rows
from cafe.version import __version__

DEFAULT_METHOD = "auto"
MADE_FOR_TWO = ("auto", "zero-shot-plus", "linear-map")  # they treat the features of two encoders differently
ADAPTER = "clip-adapter"  # the default where one of its own parameters is given
_ADAPTER_PARAMETERS = frozenset({"variant", "alpha", "beta", "reduction"})


def chosen_method(method: str | None, parameters: Iterable[str] = ()) -> str:
    """Return the method to fit: the named method, else the method that has these parameters.

    Parameters
    ----------
    method : str or None
        The name that the user gave.
    parameters : iterable of str, default=()
        Names of the parameters that the user gave.

    Examples
    --------
    >>> chosen_method(None), chosen_method(None, ["alpha"]), chosen_method("coop")
    ('auto', 'clip-adapter', 'coop')
    """
    return method or (ADAPTER if _ADAPTER_PARAMETERS & set(parameters) else DEFAULT_METHOD)


@dataclass(frozen=True)
class FitRequest:
    """One method with its parameters, to be fitted on one of several tasks.

    Attributes
    ----------
    method : str
        Such as ``"clip-adapter"``.
    parameters : mapping
        The method's own keyword parameters; empty for its defaults.
    task : int, default=0
        Position of its task among those given with it.
    """

    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    task: int = 0


@dataclass(frozen=True)
class FitSettings:
    """Settings that all fits of one call share.

    Attributes
    ----------
    method, parameters, seed, selection, device, dtype
        As of :func:`fit_method`.
    """

    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 1
    selection: str = "auto"
    device: str = "auto"
    dtype: str = "auto"

    @property
    def options(self) -> dict[str, Any]:
        """The keywords ``selection``, ``device`` and ``dtype`` of the functions of this module."""
        return {"selection": self.selection, "device": self.device, "dtype": self.dtype}

    def fit_each(self, tasks: Sequence[Task]) -> list[Fitted]:
        """Fit the method on each of several tasks of one data set."""
        requests = [FitRequest(self.method, self.parameters, number) for number in range(len(tasks))]
        return fit_all(tasks, requests, **self.options)


@dataclass(frozen=True)
class Fitted:
    """A fitted method with its row of results.

    Attributes
    ----------
    estimator : classifier
        Fitted.
    row : dict
        See DESIGN "The command line": everything needed to run it again.
    predicted : ndarray of shape (n_test,), int64
        Class row predicted for each test sample, for paired comparisons.
    confidence : ndarray of shape (n_test,)
        Probability of that class.
    labels : ndarray of shape (n_test,), int64
        Class row that each test sample belongs to.
    selection : Selection
        How its parameters were chosen.
    task : Task
        The task of the fit.
    before_projection : bool, default=False
        Whether it reads features before the encoder's projection.
    """

    estimator: Any
    row: dict[str, Any]
    predicted: NDArray[np.int64]
    confidence: NDArray[Any]
    labels: NDArray[np.int64]
    selection: policies.Selection
    task: Task
    before_projection: bool = False

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each test sample was predicted right, (n_test,)."""
        right: NDArray[np.bool_] = self.predicted == self.labels
        return right

    def test_probabilities(self) -> NDArray[Any]:
        """Return the probability of every class of the data set on each test sample, (n_test, c)."""
        X = self.inputs_of(self.task.test)
        return full_probabilities(self.estimator, X, len(self.task.features.class_names))

    def inputs_of(self, split: Split) -> NDArray[Any]:
        """Return the features of a split that this method reads: those before the projection, if it learned from them.

        Raises
        ------
        InputError
            If the split does not hold them.
        """
        if not self.before_projection:
            return split.image_features
        if split.projection_features is None:
            raise InputError(
                f"{self.row['method']} learned from features before the encoder's projection, which this split does "
                "not hold; extract both caches with them, or neither"
            )
        return split.projection_features


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
    unlabelled: str | NDArray[Any] | None = None,
    unlabelled_name: str = "given",
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
    unlabelled : str or ndarray of shape (m, d), default=None
        For methods that learn from images without labels: a split, whose labels are not read and whose labelled
        shots are left out; or features of other images.
    unlabelled_name : str, default="given"
        Their name in the row, where they are no split.

    Returns
    -------
    Fitted

    Raises
    ------
    InputError
        If device or dtype cannot be had, or the method has no choice of it; or if unlabelled images are given to a
        method that does not learn from them.
    """
    check_device_and_dtype(device, dtype, method)
    if unlabelled is not None:
        check_learns_unlabelled(method)
    task = make_task(features, shots, seed)
    if unlabelled is not None:
        task = replace(task, unlabelled=unlabelled_rows(features, task.train, task.test, unlabelled, unlabelled_name))
    (fitted,) = fit_all([task], [FitRequest(method, parameters or {})], selection, device, dtype)
    return fitted


def fit_untested(
    features: Features,
    train: Split,
    method: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    seed: int = 1,
    selection: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
    unlabelled: Unlabelled | None = None,
) -> tuple[Any, policies.Selection]:
    """Fit one method on given rows, and test nothing.

    Parameters
    ----------
    features : Features
        Where class names, text and logit scale come from.
    train : Split
        The rows that are learned from.
    method, parameters, seed, selection, device, dtype
        As in :func:`fit_method`; what is ``"auto"`` is chosen by cross-validation, since there are no other rows.
    unlabelled : Unlabelled, default=None
        Images without labels, for methods that learn from those.

    Returns
    -------
    tuple of classifier and Selection
        The fitted method, and how its parameters were chosen.

    Raises
    ------
    InputError
        If device or dtype cannot be had, or the method has no choice of it.
    """
    check_device_and_dtype(device, dtype, method)
    task = Task(features, None, seed, train, None, train, unlabelled)  # the test split, the second train, is not used
    before = _learns_before_projection(FitRequest(method, parameters or {}), task)
    inputs = _input_of(task, before)
    unfitted = estimator_for(task, method, parameters or {}, device, dtype, before)
    estimator, chosen = _resolve(unfitted, inputs, selection)
    X, y, rows = stacked([inputs])
    (fitted,) = fit_many(X, y, [estimator], rows)
    return fitted, chosen


def check_learns_from_two(method: str) -> None:
    """Refuse features of two encoders for a method that cannot learn from them.

    Raises
    ------
    InputError
        Saying why, and naming the methods that can.
    """
    if reason := make_method(method).one_encoder:
        others = sum(not make_method(name).one_encoder for name in method_names()) - len(MADE_FOR_TWO)
        raise InputError(
            f"{method} learns from one encoder alone: {reason}; give one cache, or take another method: "
            f"{', '.join(MADE_FOR_TWO)} or one of {others} more"
        )


def check_learns_unlabelled(method: str) -> None:
    """Refuse unlabelled images for a method that does not learn from them.

    Raises
    ------
    InputError
        Naming the methods that do.
    """
    if "unlabelled" not in make_method(method).get_params(deep=False):
        possible = [name for name in method_names() if "unlabelled" in make_method(name).get_params(deep=False)]
        raise InputError(f"{method} does not learn from unlabelled images; possible: {', '.join(possible)}")


def fit_all(
    tasks: Sequence[Task],
    requests: Sequence[FitRequest],
    selection: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
) -> list[Fitted]:
    """Fit any mix of methods, parameters and tasks of one data set, in as few runs as possible.

    A grid over a parameter, shots and seeds is one call, which trains side by side all that the methods can.

    Parameters
    ----------
    tasks : sequence of Task
        Draws from one data set.
    requests : sequence of FitRequest
        What to fit, each on the task at its position in ``tasks``.
    selection, device, dtype : str
        As in :func:`fit_method`.

    Returns
    -------
    list of Fitted
        In the order of the requests; ``fit_seconds`` of each row is its share of the run.

    Raises
    ------
    InputError
        If the tasks are of several data sets, or a request names a task that is not among them.
    """
    if not requests:
        return []
    if any(task.features is not tasks[0].features for task in tasks):
        raise InputError("tasks that are fitted in one call must be draws from one data set; make a call for each")
    for request in requests:
        if not 0 <= request.task < len(tasks):
            raise InputError(f"there is no task {request.task}: {len(tasks)} were given")
    before_projection = [_learns_before_projection(request, tasks[request.task]) for request in requests]
    zero_shot = zero_shot_accuracy(tasks[0].features, tasks[0].test)
    fitted: list[Fitted | None] = [None] * len(requests)
    for before in (False, True):
        # Features before the projection have another width, so those fits are a run of their own.
        members = [i for i, unprojected in enumerate(before_projection) if unprojected is before]
        if members:
            run = _fit_run(tasks, [requests[i] for i in members], before, zero_shot, selection, device, dtype)
            for i, fit in zip(members, run, strict=True):
                fitted[i] = fit
    return [fit for fit in fitted if fit is not None]


def _learns_before_projection(request: FitRequest, task: Task) -> bool:
    """Return whether a method trains the encoder's projection and the cache holds the features before it."""
    known = make_method(request.method).get_params(deep=False)
    trains_projection = "projection" in known and "projection" not in request.parameters
    return trains_projection and task.before_projection() is not None


def _fit_run(
    tasks: Sequence[Task],
    requests: Sequence[FitRequest],
    before_projection: bool,
    zero_shot: float | None,
    selection: str,
    device: str,
    dtype: str,
) -> list[Fitted]:
    """Fit requests whose features all have the same width, in one run, and test each."""
    started = time.perf_counter()
    used = list(dict.fromkeys(request.task for request in requests))  # positions, in the order of the requests
    inputs = {position: _input_of(tasks[position], before_projection) for position in used}
    resolved = []
    for request in requests:
        unfitted = estimator_for(
            tasks[request.task], request.method, request.parameters, device, dtype, before_projection
        )
        resolved.append(_resolve(unfitted, inputs[request.task], selection))
    X, y, stacked_rows = stacked(list(inputs.values()))
    rows = dict(zip(inputs, stacked_rows, strict=True))
    fits = fit_many(X, y, [estimator for estimator, _ in resolved], [rows[request.task] for request in requests])
    seconds = (time.perf_counter() - started) / len(requests)
    fitted = []
    for fit, (_, chosen), request in zip(fits, resolved, requests, strict=True):
        task, test = tasks[request.task], inputs[request.task].test
        # The test split is used here and nowhere else.
        probabilities = full_probabilities(fit, test.image_features, len(task.features.class_names))
        row = make_row(fit, chosen, task, request.method, seconds, zero_shot, probabilities, test.labels)
        predicted = probabilities.argmax(axis=1)
        confidence = probabilities.max(axis=1)
        fitted.append(Fitted(fit, row, predicted, confidence, test.labels, chosen, task, before_projection))
    return fitted


def _input_of(task: Task, before_projection: bool) -> Task:
    """Return the task, or the same task with features before the encoder's projection."""
    inputs = task.before_projection() if before_projection else task
    assert inputs is not None, "fits before the projection are only of tasks that have these features"
    return inputs


def estimator_for(
    task: Task, method: str, parameters: Mapping[str, Any], device: str, dtype: str, before_projection: bool = False
) -> Any:
    """Make the unfitted method with class embeddings, logit scale and text from the cache, and the device and seed.

    ``before_projection`` also sets the projection, for a method that learns from features before it.
    """
    features = task.features
    estimator = make_method(method, **parameters)
    from_cache = {
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
    if features.second_width:
        check_learns_from_two(method)
        from_cache["second_width"] = features.second_width
    if before_projection:
        from_cache["projection"] = features.projection
    if task.unlabelled is not None:
        from_cache["unlabelled"] = UNLABELLED
    known = estimator.get_params(deep=False)
    if known.get("template_weights", "uniform") != "uniform":
        # Templates are many, so that only a method that weighs them gets them, and saves them with its run.
        prompts = features.prompt_features
        from_cache["text_features"] = features.text_features if prompts is None else prompts
        from_cache["prompt_classes"] = features.prompt_classes
    return estimator.set_params(**{k: v for k, v in from_cache.items() if k in known and k not in parameters})


def _resolve(estimator: Any, task: Task, selection: str) -> tuple[Any, policies.Selection]:
    """Return the estimator with every ``"auto"`` parameter chosen, and how: on training and validation rows alone."""
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
_FROM_CACHE = (
    "class_embeddings", "classes", "class_names", "projection", "bias", "text_features", "prompt_classes",
    "second_width",
)  # fmt: skip


def make_row(
    estimator: Any,
    chosen: policies.Selection,
    task: Task,
    method: str,
    seconds: float,
    zero_shot: float | None,
    probabilities: NDArray[Any],
    labels: NDArray[np.int64],
) -> dict[str, Any]:
    """Make the row of results of one fitted method on one test split.

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
    # A method that learned from no image names no shots and no seed.
    trains = estimator.learns_from_images(uses_text)
    unlabelled = task.unlabelled
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
        **({} if unlabelled is None else {"unlabelled": unlabelled.name}),
        **({"transductive": True} if unlabelled is not None and unlabelled.is_test else {}),
        "class_embeddings": "text" if uses_text else "class-means",
        "selection": chosen.as_json(),
        "chosen_on": chosen_on(estimator, chosen),
        "oracle": chosen.policy == "oracle-test",
        "fit_seconds": seconds,
        "kernel": estimator.kernel_,
        "device": getattr(estimator, "device_", "cpu"),
        "dtype": getattr(estimator, "dtype_", str(probabilities.dtype)),
        "cafe_version": __version__,
        "cache_fingerprint": features.provenance.get("fingerprint"),
    }


def chosen_on(estimator: Any, chosen: policies.Selection) -> str:
    """Return what was used to choose, by the selection policy and by the method itself.

    Parameters
    ----------
    estimator : classifier
        Fitted.
    chosen : Selection
        How its ``"auto"`` parameters were chosen.

    Returns
    -------
    str
        ``"nothing"``, ``"validation"``, ``"cross-validation"``, ``"unlabelled rows"``, ``"the batch"`` (the images that
        are predicted together) or ``"TEST"``; where both chose, both, as in ``"validation and the batch"``.

    Examples
    --------
    >>> from cafe import TransCLIP, ZeroShot
    >>> chosen_on(ZeroShot(), policies.Selection("fixed"))
    'nothing'
    >>> chosen_on(TransCLIP(gamma="auto"), policies.Selection("few-shot-val", {"gamma": 0.2}))
    'validation and the batch'
    """
    used = dict.fromkeys([chosen.chosen_on, estimator.chosen_on()])
    used.pop("nothing", None)
    return " and ".join(used) or "nothing"


def check_device_and_dtype(device: str = "auto", dtype: str = "auto", method: str | None = None) -> None:
    """Refuse a device or a precision that is not available.

    Parameters
    ----------
    device : str, default="auto"
        As :func:`cafe.compute.choose_device` takes it.
    dtype : str, default="auto"
        That of training: ``"auto"``, ``"float32"``, ``"float64"``, ``"bfloat16"`` or ``"tf32"``.
    method : str, default=None
        The method to fit, which must be able to meet both; None for several methods, of which those that train
        follow the request.

    Raises
    ------
    InputError
        If one is unknown or not available, or the method does not train and so has no choice.

    Examples
    --------
    >>> check_device_and_dtype("cpu", "float32", "clip-adapter")
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
