"""Fits a method for use: tests it, then fits it on all labelled images where cafe itself made the test split.

The test images of a published split, or of one that a user made with folders, are never learned from. Where cafe itself
divided a folder, its test images are needed only for the test, and a classifier for use is better with them. Where test
images are so few that a test says little, every image is tested by cross-validation instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cafe.classifier.out_of_fold import FOLDS as PROMISE_FOLDS
from cafe.classifier.out_of_fold import (
    PARTS,
    Calibration,
    OutOfFold,
    Promises,
    means_of_classes,
    random_parts,
    score_out_of_fold,
)
from cafe.classifier.tested import TestedImages
from cafe.errors import InputError
from cafe.evaluation.metrics import METRIC_FIELDS, all_metrics, wilson_interval
from cafe.features import Features, Split
from cafe.fitting import (
    FitSettings,
    chosen_method,
    fit_method,
    fit_untested,
    make_row,
    zero_shot_accuracy,
)
from cafe.methods.inference.fitted import full_probabilities
from cafe.protocol.partition import shares_of
from cafe.protocol.tasks import Task
from cafe.registry import find, knows

if TYPE_CHECKING:
    from cafe.report.leaderboard import Leaderboard

# Of 50 test images the 95 % interval of an accuracy is up to 28 points wide. Cross-validation fits 15 times, which
# takes seconds for a few hundred images.
FEW_TEST_IMAGES = 50
FEW_IMAGES = 500
FOLDS = 5
REPEATS = 3
NOT_ASKED_FOR = "it was fitted with --no-promises (in Python, promises=False)"


@dataclass(frozen=True)
class FinalFit:
    """A fitted method for use, with the results of its test.

    Attributes
    ----------
    estimator : classifier
        The fitted method.
    row : dict
        Results on images that the method had not seen, as of :func:`cafe.fitting.make_row`, with ``tested_by``
        (``"test split"``, ``"cross-validation"`` or None), ``refitted_on`` (images that the estimator was fitted on
        after the test; None where the tested fit itself is kept) and what :meth:`TestedImages.fields` says of classes.
    features : Features
        What it was fitted on.
    seen : Split
        The images that the estimator was fitted on, or its parameters chosen by.
    untested : str
        Why no test was possible; empty where there was one.
    tested : TestedImages or None
        The predicted class of each test image; None where there was no test.
    promises : Promises or None
        Thresholds of unknown images and sets of classes; None where there are none.
    scored : OutOfFold or None
        The scores that promises were made from; ``rows`` are rows of ``seen``.
    calibration : Calibration or None
        Whether a temperature helps, by the same scores.
    no_promises : str
        Why there are no promises; empty where there are.
    tasks : tuple of Task
        The task of the test, or one for each fold of a cross-validation; empty without a test.
    leaderboard : Leaderboard or None
        How other methods do on the same tasks, where that was asked for.
    """

    estimator: Any
    row: dict[str, Any]
    features: Features
    seen: Split
    untested: str = ""
    tested: TestedImages | None = None
    promises: Promises | None = None
    scored: OutOfFold | None = None
    calibration: Calibration | None = None
    no_promises: str = ""
    tasks: tuple[Task, ...] = ()
    leaderboard: Leaderboard | None = None

    @property
    def fitted_images(self) -> frozenset[bytes] | None:
        """SHA-256 of the image files that it was fitted on; None where these are not known."""
        known = self.seen.image_sha256
        return None if known is None else frozenset(row.tobytes() for row in known)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what was tested and kept, where it is not a fit on train that was tested on test."""
        row, n_fitted = self.row, f"{len(self.seen):,}"
        if row["tested_by"] is None:
            return (f"no test is possible: {self.untested}. It was fitted all the same, on {n_fitted} images",)
        if row["tested_by"] == "cross-validation":
            reason = "a test split of so few images would say little"
            if "test" not in self.features.splits:
                reason = "there is no test split"
            return (
                f"{reason}, so each of {row['n_test']:,} images was tested by cross-validation, on fits of the others; "
                f"kept is a fit on {n_fitted} images",
            )
        if row["refitted_on"] is not None:
            return (
                f"tested on {row['n_test']:,} images, then fitted again on all {n_fitted} labelled images; that fit is "
                f"kept",
            )
        return ()


def divided_by_cafe(features: Features) -> tuple[int, int, int] | None:
    """Return the shares of train, val and test where cafe itself divided what a user brought; None elsewhere.

    Data sets known by name have the split that they are compared on, even where cafe made it, as for digits.
    """
    identity = features.provenance.get("image", {}).get("dataset")
    if not isinstance(identity, Mapping) or knows("data", "DATASET", str(identity.get("name"))):
        return None
    return shares_of(str(identity.get("split_origin", "")))


def fit_for_use(
    features: Features,
    method: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    *,
    shots: int | None = None,
    seed: int = 1,
    selection: str = "auto",
    refit: bool | None = None,
    device: str = "auto",
    dtype: str = "auto",
    unlabelled: str | NDArray[Any] | None = None,
    unlabelled_name: str = "given",
    promises: bool = True,
    compare: bool | Sequence[str] = False,
    tell: Callable[[str], None] | None = None,
    tell_from: float = 2.0,
) -> FinalFit:
    """Fit a method for use.

    Parameters
    ----------
    features : Features
        A loaded cache.
    method, parameters, shots, seed, selection, device, dtype, unlabelled, unlabelled_name
        As of :func:`cafe.fitting.fit_method`; without a method, :func:`cafe.fitting.chosen_method` names it.
    refit : bool, default=None
        Whether to fit once more after the test, on every labelled image. None does so where cafe itself divided a
        folder and neither method, parameters nor shots are given.
    promises : bool, default=True
        Whether to fit four times more, on parts of the images, for promises of new images.
    compare : bool or sequence of str, default=False
        Whether to test other methods on the same images as well; or their names.
    tell : callable, default=None
        Called with a sentence before each stage that may take long.
    tell_from : float, default=2.0
        Seconds that further fits must be expected to take for their duration to be told.

    Returns
    -------
    FinalFit

    Raises
    ------
    InputError
        If ``refit`` is asked for where the test split is not cafe's own, or images of it were not extracted; or a
        method to compare with is unknown.
    """
    parameters = parameters or {}
    settings = FitSettings(chosen_method(method, parameters), parameters, seed, selection, device, dtype)
    for other in () if isinstance(compare, bool) else compare:
        find("methods", "METHOD", "method", other)
    by_default = method is None and not parameters and unlabelled is None
    refit = _whether_to_refit(features, refit, shots, by_default)
    if shots is None and unlabelled is None and _is_cross_validated(features):
        final = _cross_validate_and_fit(features, settings, keep_all=refit)
    else:
        final = _test_and_fit(features, settings, shots, refit, unlabelled, unlabelled_name)
    if promises:
        final = _with_promises(final, settings, unlabelled is not None, tell, tell_from)
    else:
        final = replace(final, no_promises=NOT_ASKED_FOR)
    if final.promises is None:
        final = replace(final, row={**final.row, "no_promises": final.no_promises})
    if compare is False or final.tested is None:
        return final
    from cafe.compare.leaderboard import Contender, compare_methods

    board = compare_methods(
        final.tasks,
        Contender(settings.method, parameters, final.row, final.tested.predicted, final.tested.confidence),
        images=final.tested.rows, methods=None if compare is True else compare, selection=selection,
        device=device, dtype=dtype, tell=tell,
    )  # fmt: skip
    return replace(final, leaderboard=board)


def _with_promises(
    final: FinalFit, settings: FitSettings, unlabelled: bool, tell: Callable[[str], None] | None, tell_from: float
) -> FinalFit:
    """Add the promises of new images, from scores out of fold; ``no_promises`` says why where there can be none."""
    seen, seed = final.seen, settings.seed
    if unlabelled:
        return replace(final, no_promises="it learned from unlabelled images, which no fold can be kept from")
    if "text_tower" in final.estimator.get_params(deep=False):
        reason = f"{settings.method} would train with the text tower once more for each fold"
        return replace(final, no_promises=reason)
    started = time.perf_counter()
    groups = identical_groups(seen)
    held_out = folds(seen.labels, groups, seed, n_folds=PROMISE_FOLDS, repeats=1)
    if len(held_out) < 2:
        return replace(final, no_promises=why_untestable(seen))
    third, parts = random_parts(groups, seed, PROMISE_FOLDS)[0], random_parts(groups, seed, PARTS)
    if len(np.unique(np.delete(seen.labels, third))) < 2:
        return replace(final, no_promises="without a third of its images it would know a single class")
    n_fits, last = len(held_out) + 1, final.row["fit_seconds"] / max(1, len(final.tasks))
    if tell is not None and n_fits * last >= tell_from:
        tell(
            f"fitting {n_fits} times more on parts of the images, for what it may promise of new ones: about "
            f"{n_fits * last:.0f} s (--no-promises leaves that out)"
        )
    if settings.selection not in ("fixed", "cross-validation"):
        settings = replace(settings, selection="auto")  # no fold sees val or test rows
    scored = score_out_of_fold(final.features, seen, held_out, third, parts, settings)
    X = seen.image_features if getattr(final.estimator, "projection", None) is None else seen.projection_features
    calibration = Calibration.of(scored)
    promises = Promises.of(scored, means_of_classes(np.asarray(X), seen.labels), calibration.temperature)
    limits = {"coverage_at_most": promises.highest_coverage, "false_alarms_at_least": promises.lowest_false_alarms}
    cost = {"promises_fits": n_fits, "promises_seconds": time.perf_counter() - started}
    row = {**final.row, **calibration.fields(), **limits, **cost}
    return replace(final, row=row, promises=promises, scored=scored, calibration=calibration)


def _whole_and_divided_by_cafe(features: Features) -> bool:
    """Return whether cafe itself divided what a user brought, and all of its images are here."""
    is_whole = all(split.full_labels is None for split in features.splits.values())
    return divided_by_cafe(features) is not None and is_whole


def _whether_to_refit(features: Features, refit: bool | None, shots: int | None, by_default: bool) -> bool:
    """Return whether to fit once more after the test, on every labelled image.

    Parameters
    ----------
    features : Features
        A loaded cache.
    refit : bool or None
        What the user asked for; None for nothing.
    shots : int or None
        Training images per class.
    by_default : bool
        Whether the user chose nothing else either, so that the default applies.

    Raises
    ------
    InputError
        If it was asked for where the test split is not cafe's own, or together with shots.
    """
    is_own = _whole_and_divided_by_cafe(features)
    if refit and not is_own:
        raise InputError(
            "a fit on all labelled images is for a folder that cafe itself divided, with all its images; the test "
            "split of this data set is its own, and is not learned from"
        )
    if refit and shots is not None:
        raise InputError(
            f"refit learns from all labelled images, and shots from {shots} of each class; give one of them"
        )
    return is_own and shots is None and by_default if refit is None else refit


def _is_cross_validated(features: Features) -> bool:
    """Return whether test images are so few, or missing, that every image is tested by cross-validation instead."""
    is_own = _whole_and_divided_by_cafe(features)
    n_test, n_images = len(features.splits.get("test", ())), sum(map(len, features.splits.values()))
    few = is_own and n_test < FEW_TEST_IMAGES and n_images <= FEW_IMAGES
    return few or (not n_test and (is_own or _brings_no_test_split(features)))


def _test_and_fit(
    features: Features,
    settings: FitSettings,
    shots: int | None,
    refit: bool,
    unlabelled: str | NDArray[Any] | None,
    unlabelled_name: str,
) -> FinalFit:
    """Fit a method and test it on the test split; keep that fit, or one more on all labelled images."""
    fitted = fit_method(
        features, settings.method, settings.parameters, shots=shots, seed=settings.seed,
        unlabelled=unlabelled, unlabelled_name=unlabelled_name, **settings.options,
    )  # fmt: skip
    task = fitted.task
    tested = TestedImages(
        fitted.labels, fitted.predicted, fitted.confidence, task.test.sample_ids, features.class_names
    )
    row = {**fitted.row, "tested_by": "test split", "refitted_on": None, **tested.fields()}
    if refit:
        everything = all_labelled(features)
        # The images of a split that was learned from without labels are labelled now; those of a folder are not.
        still_unlabelled = None if isinstance(unlabelled, str) else task.unlabelled
        estimator, _ = fit_untested(
            features, everything, settings.method, settings.parameters, seed=settings.seed, unlabelled=still_unlabelled,
            **{**settings.options, "selection": "auto"},
        )  # fmt: skip
        row["refitted_on"] = len(everything)
        return FinalFit(estimator, row, features, everything, tested=tested, tasks=(task,))
    seen = task.train
    if task.val is not None and row["selection"]["policy"] == "few-shot-val":
        seen = concatenated([seen, task.val])
    return FinalFit(fitted.estimator, row, features, seen, tested=tested, tasks=(task,))


def _brings_no_test_split(features: Features) -> bool:
    """Return whether these are all images of a folder with a train split of its own and no test split.

    A data set known by name has a test split, extracted or not, and so may a cache that was made elsewhere.
    """
    identity = features.provenance.get("image", {}).get("dataset")
    if not isinstance(identity, Mapping) or knows("data", "DATASET", str(identity.get("name"))):
        return False
    is_whole = all(split.full_labels is None for split in features.splits.values())
    return is_whole and "train" in features.splits and "test" not in (identity.get("splits") or {"test": None})


def all_labelled(features: Features) -> Split:
    """Return the images of all splits as one, in their order."""
    return concatenated(list(features.splits.values()))


def concatenated(splits: list[Split]) -> Split:
    """Return the images of several splits as one split; an array that only some of them hold is left out."""

    def of_all(name: str) -> Any:
        parts = [getattr(split, name) for split in splits]
        return None if any(part is None for part in parts) else np.concatenate(parts)

    names = ("image_features", "labels", "sample_ids", "projection_features", "image_sha256")
    return Split(**{name: of_all(name) for name in names})


def _cross_validate_and_fit(features: Features, settings: FitSettings, *, keep_all: bool) -> FinalFit:
    """Test every image by cross-validation, and keep a fit on all of them, or on those of the train split."""
    everything = all_labelled(features)
    if settings.selection == "few-shot-val":
        settings = replace(settings, selection="auto")
    row, tested, tasks = _cross_validated(features, everything, settings)
    kept = everything if keep_all or "train" not in features.splits else features.splits["train"]
    estimator, selected = fit_untested(
        features, kept, settings.method, settings.parameters, seed=settings.seed, **settings.options
    )
    if row is None:
        probabilities = full_probabilities(estimator, kept.image_features, len(features.class_names))
        task = Task(features, None, settings.seed, kept, None, kept)
        row = make_row(estimator, selected, task, settings.method, 0.0, None, probabilities, kept.labels)
        row = {**row, **dict.fromkeys(METRIC_FIELDS), "n_test": 0, "tested_by": None}
    refitted = len(everything) if kept is everything else len(kept)
    reason = "" if row["tested_by"] else why_untestable(everything)
    return FinalFit(estimator, {**row, "refitted_on": refitted}, features, kept, reason, tested, tasks=tasks)


def _cross_validated(
    features: Features, labelled: Split, settings: FitSettings
) -> tuple[dict[str, Any] | None, TestedImages | None, tuple[Task, ...]]:
    """Test images by repeated cross-validation: return row, tested images, tasks; None, None, () if none can be."""
    groups = identical_groups(labelled)
    held_out = folds(labelled.labels, groups, settings.seed, repeats=REPEATS if len(labelled) <= FEW_IMAGES else 1)
    if not held_out:
        return None, None, ()
    tasks = []
    for rows in held_out:
        train = np.setdiff1d(np.arange(len(labelled)), rows)
        tasks.append(Task(features, None, settings.seed, labelled.take(train), None, labelled.take(rows)))
    fits = settings.fit_each(tasks)
    probabilities = np.concatenate([fit.test_probabilities() for fit in fits])  # (repeats x n, c)
    labels = np.concatenate([fit.labels for fit in fits])
    tested = np.unique(np.concatenate(held_out))
    metrics = all_metrics(probabilities, labels)
    # An image that is tested three times is no more than one trial.
    metrics["acc1_interval"] = wilson_interval(metrics["acc1"], len(tested))
    images = TestedImages(
        labels,
        probabilities.argmax(axis=1),
        probabilities.max(axis=1),
        np.concatenate([fit.task.test.sample_ids for fit in fits]),
        features.class_names,
        repeats=len(labels) // len(tested),
        rows=np.concatenate(held_out),
    )
    row = {
        **fits[0].row,
        **metrics,
        "n_train": round(float(np.mean([fit.row["n_train"] for fit in fits]))),
        "n_test": len(tested),
        "zero_shot_acc1": zero_shot_accuracy(features, labelled.take(tested)),
        "fit_seconds": sum(fit.row["fit_seconds"] for fit in fits),
        "tested_by": "cross-validation",
        **images.fields(),
    }
    return row, images, tuple(tasks)


def identical_groups(split: Split) -> NDArray[np.int64]:
    """Number the images of a split, identical ones alike, so that no copy is tested by a fit on its original.

    Returns
    -------
    ndarray of shape (n,), int64
        By their bytes where these are known, else by their features.
    """
    by = split.image_features if split.image_sha256 is None else split.image_sha256
    _, numbers = np.unique(np.asarray(by), axis=0, return_inverse=True)
    return numbers.reshape(-1).astype(np.int64)


def folds(
    labels: NDArray[np.int64], groups: NDArray[np.int64], seed: int, n_folds: int = FOLDS, repeats: int = REPEATS
) -> list[NDArray[np.int64]]:
    """Deal images into folds so that every class keeps training images whenever some of its own are tested.

    Groups of a class are shuffled and dealt to the folds in turn, so a class with two groups has them in two folds.
    A class with a single group, and a group of several classes, are always trained on and never tested.

    Parameters
    ----------
    labels, groups : ndarray of shape (n,), int64
        Class of each image; and a number that identical images share.
    seed : int
        Of the shuffling.
    n_folds, repeats : int, default=5, 3
        Number of folds, fewer where no class has as many groups; and how often images are dealt into folds.

    Returns
    -------
    list of ndarray of int64
        The rows tested in each fold of each repeat; empty if no image can be tested.

    Examples
    --------
    >>> labels, groups = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 1, 2, 3, 4])
    >>> [rows.tolist() for rows in folds(labels, groups, seed=1, repeats=1)]
    [[0, 3], [1, 2, 4]]
    """
    classes_of = [np.unique(labels[groups == group]) for group in range(int(groups.max()) + 1)]
    testable = []  # of each class, the groups that can be tested
    for label in np.unique(labels):
        present = np.unique(groups[labels == label])
        if len(present) > 1:
            testable.append([int(group) for group in present if len(classes_of[group]) == 1])
    most = max(map(len, testable), default=0)
    if not most:
        return []
    n_folds = max(2, min(n_folds, most))
    random = np.random.default_rng(seed)
    held_out = []
    for _ in range(repeats):
        fold_of = np.full(len(classes_of), -1)
        start = 0
        for of_class in testable:
            fold_of[random.permutation(of_class)] = (start + np.arange(len(of_class))) % n_folds
            start += len(of_class)  # so that small classes do not all begin with the first fold
        folded = fold_of[groups]
        held_out += [rows for fold in range(n_folds) if len(rows := np.flatnonzero(folded == fold))]
    return held_out


def why_untestable(split: Split) -> str:
    """Return why no image of a split can be tested by a fit that has not seen it."""
    groups = identical_groups(split)
    if len(split) > len(np.unique(split.labels)) > len(np.unique(groups)) or len(np.unique(groups)) == 1:
        return "all images are identical"
    copies = " that is not a copy of another" if len(split) > len(np.unique(groups)) else ""
    return f"no class has a second image{copies}, and an image that was learned from tests nothing"
