"""Collects the contents of the report of a fit: results, mistakes, doubtful labels and duplicates, with thumbnails."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cafe.classifier.final_fit import FinalFit
from cafe.classifier.images import SampleImages
from cafe.classifier.tested import TestedImages
from cafe.evaluation.by_class import confused_pairs
from cafe.evaluation.calibration import reliability_bins
from cafe.evaluation.label_issues import find_label_issues
from cafe.methods.inputs.cosines import unit_length
from cafe.report.fit_page import FitReport, ShownImage
from cafe.report.rows import counted

if TYPE_CHECKING:
    from cafe.data.base import Dataset
    from cafe.features import Features

MOST_SHOWN = 24  # images of a kind
NEAR_DUPLICATE = 0.98  # cosine; copies of a photograph in another size or compression lie above it with CLIP
_MOST_COMPARED = 20_000  # images that are compared with each other: 2e8 cosines
_BLOCK = 1024
_SIDE = 160  # pixels of a thumbnail


def fit_report(final: FinalFit, dataset: Dataset | None, notes: Sequence[str] = ()) -> FitReport:
    """Collect the contents of the report of a fit.

    Parameters
    ----------
    final : FinalFit
        The fit.
    dataset : Dataset, default=None
        Opens images for thumbnails; None where there are only features.
    notes : sequence of str
        Sentences about the fit.
    """
    thumbnail = _thumbnails(dataset)
    names, left_out = [str(name) for name in final.features.class_names], {}
    parts: dict[str, Any] = {}
    tested = final.tested
    if tested is None:
        left_out["mistakes"] = f"No test was possible: {final.untested}."
    else:
        parts = {
            "results": tested.results,
            "confusions": confused_pairs(tested.predicted, tested.labels, None, tested.repeats),
            "bins": reliability_bins(tested.confidence, tested.predicted == tested.labels),
            "mistakes": _mistakes(tested, names, thumbnail),
        }
    if final.calibration is not None:
        calibration = final.calibration
        confidence = calibration.confidence if calibration.temperature == 1.0 else calibration.tempered_confidence
        parts["calibrated_bins"] = reliability_bins(confidence, calibration.correct)
    if final.scored is None:
        left_out["label_issues"] = f"No label could be checked: {final.no_promises}."
    else:
        parts["label_issues"] = _label_issues(final, names, thumbnail)
    parts["duplicates"], searched = _duplicates(final.features, names, thumbnail)
    counts = np.bincount(final.seen.labels, minlength=len(names)).tolist()
    return FitReport(
        final.row, names, n_train=counts, notes=tuple(notes), left_out=left_out, leaderboard=final.leaderboard,
        searched={"duplicates": searched}, **parts,
    )  # fmt: skip


def _mistakes(
    tested: TestedImages, names: Sequence[str], thumbnail: Callable[[str], bytes | None]
) -> tuple[ShownImage, ...]:
    """Return the test images that were predicted wrong, each once, those of highest confidence first."""
    shown: dict[str, ShownImage] = {}
    wrong = np.flatnonzero(tested.predicted != tested.labels)
    for i in wrong[np.argsort(-tested.confidence[wrong], kind="stable")]:
        sample_id, confidence = str(tested.sample_ids[i]), 100 * tested.confidence[i]
        if sample_id not in shown:  # a repeated cross-validation tests an image several times
            caption = f"{names[tested.labels[i]]}, taken for {names[tested.predicted[i]]} with {confidence:.1f} %"
            shown[sample_id] = ShownImage(sample_id, caption, thumbnail(sample_id))
        if len(shown) == MOST_SHOWN:
            break
    return tuple(shown.values())


def _label_issues(
    final: FinalFit, names: Sequence[str], thumbnail: Callable[[str], bytes | None]
) -> tuple[ShownImage, ...]:
    """Return the images whose label looks wrong by the probabilities out of fold, the most doubtful first."""
    assert final.scored is not None
    issues = find_label_issues(final.scored.probabilities, final.scored.labels)
    shown = []
    for issue in issues[:MOST_SHOWN]:
        sample_id = str(final.seen.sample_ids[final.scored.rows[issue.row]])
        labelled = f"labelled {names[issue.label]} ({100 * issue.probability:.1f} %)"
        caption = f"{labelled}, looks like {names[issue.suggested]}"
        shown.append(ShownImage(sample_id, caption, thumbnail(sample_id)))
    return tuple(shown)


def _duplicates(
    features: Features,
    names: Sequence[str],
    thumbnail: Callable[[str], bytes | None],
    most_compared: int = _MOST_COMPARED,
) -> tuple[tuple[ShownImage, ...], str]:
    """Return images that are in two classes or in two splits, equal ones first, and a sentence about the search."""
    splits = list(features.splits.items())
    ids = np.concatenate([split.sample_ids for _, split in splits])
    labels = np.concatenate([split.labels for _, split in splits])
    parts = np.repeat([name for name, _ in splits], [len(split) for _, split in splits])
    keys = [split.image_sha256 for _, split in splits if split.image_sha256 is not None]
    by_bytes = len(keys) == len(splits)
    if not by_bytes:
        keys = [row_digests(split.image_features) for _, split in splits]
    equal = equal_pairs(np.concatenate(keys), labels, parts)
    sample = np.arange(len(ids))
    if len(ids) > most_compared:
        sample = np.sort(np.random.default_rng(0).permutation(len(ids))[:most_compared])
    start, sampled = 0, []
    for _, split in splits:
        of_split = sample[(sample >= start) & (sample < start + len(split))] - start
        sampled.append(np.asarray(split.image_features[of_split], np.float32))
        start += len(split)
    rows = np.concatenate(sampled)  # (at most 20,000, d)
    near, n_near = near_pairs(unit_length(rows), labels[sample], parts[sample])
    pairs = dict.fromkeys(equal[:MOST_SHOWN], "the same file" if by_bytes else "the same features")
    for i, j, cosine in near:
        pairs.setdefault((int(sample[i]), int(sample[j])), f"cosine {cosine:.4f}")
    shown = []
    for (i, j), likeness in list(pairs.items())[:MOST_SHOWN]:
        places = f"{names[labels[i]]} ({parts[i]}) and {names[labels[j]]} ({parts[j]})"
        shown.append(ShownImage(str(ids[i]), f"{places}, {likeness}: also {ids[j]}", thumbnail(str(ids[i]))))
    among = f"all {len(ids):,} images"
    if len(sample) < len(ids):
        among = f"{len(sample):,} images drawn at random, for to compare all {len(ids):,} would take too long"
    searched = (
        f"Images that are in two classes or in two splits: {counted(len(equal), 'pair')} of equal ones among all "
        f"{len(ids):,} images, {counted(n_near, 'pair')} with a cosine of at least {NEAR_DUPLICATE} among {among}."
    )
    return tuple(shown), searched


def row_digests(rows: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a digest of the bytes of each row (n, d), (n, 32) uint8: equal where rows are."""
    digests = b"".join(hashlib.blake2b(np.ascontiguousarray(row).tobytes(), digest_size=32).digest() for row in rows)
    return np.frombuffer(digests, np.uint8).reshape(-1, 32)


def equal_pairs(keys: NDArray[Any], labels: NDArray[np.int64], parts: NDArray[np.str_]) -> list[tuple[int, int]]:
    """Return pairs of equal rows that differ in class or in split; each pair is a row with the first that equals it.

    Parameters
    ----------
    keys : ndarray of shape (n, k)
        Hashes of images; any number of rows.
    labels, parts : ndarray of shape (n,)
        Class and split of each.

    Examples
    --------
    >>> equal_pairs(np.array([[7], [3], [7], [3]]), np.array([0, 0, 1, 0]), np.array(["a", "a", "a", "a"]))
    [(0, 2)]
    """
    key_of_row = np.ascontiguousarray(keys).view(np.dtype((np.void, keys.dtype.itemsize * keys.shape[1])))[:, 0]
    _, first, number = np.unique(key_of_row, return_index=True, return_inverse=True)
    first = first[number.reshape(-1)]  # (n,), of each row the first that equals it
    differ = (labels != labels[first]) | (parts != parts[first])
    return [(int(first[i]), int(i)) for i in np.flatnonzero(differ)]


def near_pairs(
    rows: NDArray[np.float32],
    labels: NDArray[np.int64],
    parts: NDArray[np.str_],
    least: float = NEAR_DUPLICATE,
    most: int = MOST_SHOWN,
) -> tuple[list[tuple[int, int, float]], int]:
    """Return the nearest pairs of rows that differ in class or in split, and the number of pairs that reach a cosine.

    Parameters
    ----------
    rows : ndarray of shape (n, d)
        Of unit length.
    labels, parts : ndarray of shape (n,)
        Class and split of each.
    least : float, default=0.98
        Cosine.
    most : int, default=24
        Pairs that are returned.

    Returns
    -------
    list of (int, int, float)
        Rows and cosine, the nearest first; at most ``most``.
    int
        How many pairs reach ``least``.
    """
    _, kinds = np.unique(np.stack([labels.astype(str), parts.astype(str)]), axis=1, return_inverse=True)
    kinds = kinds.reshape(-1)
    nearest: list[tuple[int, int, float]] = []
    number = 0
    for start in range(0, len(rows), _BLOCK):
        cosines = rows[start : start + _BLOCK] @ rows[start:].T  # (block, rows after)
        block = np.arange(len(cosines))
        reached = (cosines >= least) & (kinds[start + block, None] != kinds[None, start:])
        reached &= block[:, None] < np.arange(cosines.shape[1])[None, :]  # each pair once
        i, j = np.divmod(np.flatnonzero(reached), cosines.shape[1])  # a third of the time of np.nonzero
        number += len(i)
        best = np.argsort(-cosines[i, j], kind="stable")[:most]
        nearest += [
            (start + int(a), start + int(b), float(cosines[a, b])) for a, b in zip(i[best], j[best], strict=True)
        ]
        nearest = sorted(nearest, key=lambda pair: -pair[2])[:most]
    return nearest, number


def _thumbnails(dataset: Dataset | None) -> Callable[[str], bytes | None]:
    """Return a function from a sample id to the JPEG bytes of a thumbnail; None where the image cannot be opened."""
    images = SampleImages(dataset)

    def thumbnail(sample_id: str) -> bytes | None:
        image = images.open(sample_id)
        if image is None:
            return None
        image.thumbnail((_SIDE, _SIDE))
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "JPEG", quality=80)
        return buffer.getvalue()

    return thumbnail
