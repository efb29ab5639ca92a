"""Gathers what the page of a fit shows: results, mistakes, doubtful labels and duplicates, with small pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cafe.classifier.final_fit import FinalFit
from cafe.errors import UnreadableImageError
from cafe.evaluation.by_class import confused_pairs
from cafe.evaluation.calibration import reliability_bins
from cafe.evaluation.label_issues import find_label_issues
from cafe.methods.inputs.cosines import unit_length
from cafe.report.fit_page import FitReport, ShownImage

if TYPE_CHECKING:
    from cafe.data.base import Dataset
    from cafe.features import Features

MOST_SHOWN = 24  # images of a kind
NEAR_DUPLICATE = 0.98  # cosine; copies of a photograph in another size or compression lie above it with CLIP
_MOST_COMPARED = 20_000  # images that are compared with each other: 2e8 cosines
_BLOCK = 1024
_SIDE = 160  # pixels of a thumbnail


def fit_report(final: FinalFit, dataset: Dataset | None, notes: Sequence[str] = ()) -> FitReport:
    """Gather what the page of a fit shows.

    Parameters
    ----------
    final : FinalFit
        Just made.
    dataset : Dataset, default=None
        Where its images can be opened for thumbnails; None where only their features are at hand.
    notes : sequence of str
        What there is to say about the fit.
    """
    thumbnail = _thumbnails(dataset)
    names, left_out = [str(name) for name in final.features.class_names], {}
    parts: dict[str, Any] = {}
    tested = final.tested
    if tested is None:
        left_out["mistakes"] = f"No test was possible: {final.untested}."
    else:
        correct = tested.predicted == tested.labels
        parts = {
            "results": tested.results,
            "confusions": confused_pairs(tested.predicted, tested.labels, None, tested.repeats),
            "bins": reliability_bins(tested.confidence, correct),
        }
        wrong = np.flatnonzero(~correct)
        shown: dict[str, ShownImage] = {}
        for i in wrong[np.argsort(-tested.confidence[wrong], kind="stable")]:
            image = str(tested.sample_ids[i])
            if image not in shown:  # a cross-validation tests each several times over
                says = (
                    f"{names[tested.labels[i]]}, taken for {names[tested.predicted[i]]} "
                    f"with {100 * tested.confidence[i]:.1f} %"
                )
                shown[image] = ShownImage(image, says, thumbnail(image))
            if len(shown) == MOST_SHOWN:
                break
        parts["mistakes"] = tuple(shown.values())
    if final.scored is None:
        left_out["label_issues"] = f"No label could be checked: {final.no_promises}."
    else:
        parts["label_issues"] = _label_issues(final, names, thumbnail)
    parts["duplicates"] = _duplicates(final.features, names, thumbnail)
    counts = np.bincount(final.seen.labels, minlength=len(names)).tolist()
    return FitReport(final.row, names, n_train=counts, notes=tuple(notes), left_out=left_out, **parts)


def _label_issues(
    final: FinalFit, names: Sequence[str], thumbnail: Callable[[str], bytes | None]
) -> tuple[ShownImage, ...]:
    assert final.scored is not None
    issues = find_label_issues(final.scored.probabilities, final.scored.labels)
    shown = []
    for issue in issues[:MOST_SHOWN]:
        image = str(final.seen.sample_ids[final.scored.rows[issue.row]])
        says = f"labelled {names[issue.label]} ({100 * issue.probability:.1f} %), looks like {names[issue.suggested]}"
        shown.append(ShownImage(image, says, thumbnail(image)))
    return tuple(shown)


def _duplicates(
    features: Features, names: Sequence[str], thumbnail: Callable[[str], bytes | None]
) -> tuple[ShownImage, ...]:
    """Return pairs of equal or nearly equal images that stand in two classes or in two splits, the nearest first."""
    splits = list(features.splits.items())
    ids = np.concatenate([split.sample_ids for _, split in splits])[:_MOST_COMPARED]
    labels = np.concatenate([split.labels for _, split in splits])[:_MOST_COMPARED]
    parts = np.repeat([name for name, _ in splits], [len(split) for _, split in splits])[:_MOST_COMPARED]
    rows = np.concatenate([np.asarray(split.image_features, np.float32) for _, split in splits])[:_MOST_COMPARED]
    pairs = near_pairs(unit_length(rows), labels, parts)
    shown = []
    for i, j, cosine in pairs[:MOST_SHOWN]:
        where = f"{names[labels[i]]} ({parts[i]}) and {names[labels[j]]} ({parts[j]})"
        says = f"{where}, cosine {cosine:.4f}: also {ids[j]}"
        shown.append(ShownImage(str(ids[i]), says, thumbnail(str(ids[i]))))
    return tuple(shown)


def near_pairs(
    rows: NDArray[np.float32], labels: NDArray[np.int64], parts: NDArray[np.str_], least: float = NEAR_DUPLICATE
) -> list[tuple[int, int, float]]:
    """Return pairs of rows of a cosine of at least ``least`` that differ in class or in split, the nearest first.

    Parameters
    ----------
    rows : ndarray of shape (n, d)
        Of unit length.
    labels, parts : ndarray of shape (n,)
        Class and split of each.
    least : float, default=0.98
        Cosine.
    """
    pairs = []
    for start in range(0, len(rows), _BLOCK):
        cosines = rows[start : start + _BLOCK] @ rows[start:].T  # (block, rows after)
        for i, j in np.argwhere(cosines >= least):
            a, b = start + int(i), start + int(j)
            if a < b and (labels[a] != labels[b] or parts[a] != parts[b]):
                pairs.append((a, b, float(cosines[i, j])))
    return sorted(pairs, key=lambda pair: -pair[2])


def _thumbnails(dataset: Dataset | None) -> Callable[[str], bytes | None]:
    """Return what makes the thumbnail of a sample; of one that cannot be opened there is none."""
    places = {}
    for split, images in () if dataset is None else dataset.splits.items():
        places.update({str(sample): (split, row) for row, sample in enumerate(images.sample_ids)})

    def thumbnail(sample: str) -> bytes | None:
        if dataset is None or sample not in places:
            return None
        try:
            image = dataset.image(*places[sample])
        except (UnreadableImageError, OSError):
            return None
        image.thumbnail((_SIDE, _SIDE))
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "JPEG", quality=80)
        return buffer.getvalue()

    return thumbnail
