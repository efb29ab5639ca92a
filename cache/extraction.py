"""Extraction: every image and prompt through the frozen encoder once, and onto the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cafe.cache import spec
from cafe.cache.atomic import check_free_space, prepare_folder
from cafe.cache.checksums import array_sha256, arrays_of
from cafe.cache.encoding import ImageEncoding, OnError, ProgressCallback
from cafe.cache.opening import open_cache
from cafe.cache.plan import Plan, Target, choose_target, make_plan
from cafe.cache.provenance import Provenance
from cafe.cache.report import Clocks, ExtractionProgress, ExtractionSummary
from cafe.cache.store import load_features, load_projection, load_sizes, read_provenance, write_cache
from cafe.cache.summary import summarise
from cafe.cache.text import encode_text
from cafe.data.base import Dataset
from cafe.encoders.base import Encoder
from cafe.errors import CacheError, InputError, unknown_name
from cafe.features import Features, Split

_ON_ERROR: tuple[OnError, ...] = ("skip", "fail")


def extract(
    dataset: Dataset,
    encoder: Encoder,
    out: Path | str,
    *,
    splits: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    prompts: Sequence[Sequence[str]] | None = None,
    stored_dtype: spec.StoredDtype = "float16",
    on_error: OnError = "skip",
    progress: ProgressCallback | None = None,
    force: bool = False,
) -> ExtractionSummary:
    """Encode a data set once, and write its cache.

    If ``out`` already holds the same features, nothing is encoded; if only class names or templates differ, text alone
    is; if image features differ, ``out`` is left alone and a name with the short fingerprint is used beside it.

    Parameters
    ----------
    dataset : Dataset
        Its ``image`` must be safe to call from several threads.
    encoder : Encoder
        The frozen towers.
    out : path
        The file to make, as of :func:`cafe.cache.locate.cache_path`.
    splits : sequence of str or None
        None is every split there is.
    templates : sequence of str or None
        None is the data set's own.
    prompts : sequence of c sequences of str, or None
        Prompts written per class, as of :func:`cafe.prompts.read_prompts`; they take the place of templates.
    stored_dtype : str, default "float16"
        Or ``"float32"``.
    on_error : str, default "skip"
        What an unreadable image does: ``"skip"`` records it and goes on, ``"fail"`` stops.
    progress : callable or None
        Called with an ExtractionProgress after every batch, in this thread.
    force : bool, default False
        Encode everything again, and replace ``out`` even if it is damaged.

    Returns
    -------
    ExtractionSummary
        Its ``path`` is the file that holds the features.

    Raises
    ------
    InputError
        If a split is not there, an image is unreadable under ``"fail"``, no image of a split or class can be
        read, or ``out`` is something else than a sound cache (CacheError).
    CafeError
        If the disk has too little space or fails.
    """
    if on_error not in _ON_ERROR:
        raise unknown_name("on_error", on_error, _ON_ERROR)
    plan = make_plan(dataset, encoder, splits, templates, stored_dtype, prompts)
    target = choose_target(plan, Path(out), force=force)
    prepare_folder(target.path.parent)
    if target.missing != "nothing":
        check_free_space(target.path.parent, plan.bytes_needed())
    tell = progress or (lambda _: None)
    clocks = Clocks()
    if target.missing == "all":
        return _extract_all(plan, target, on_error, clocks, tell)
    _refuse_unreadable(target.path, on_error)
    if target.missing == "text":
        _encode_text_again(plan, target.path, clocks, tell)
    return _summary(plan, target, clocks)


def _extract_all(
    plan: Plan, target: Target, on_error: OnError, clocks: Clocks, tell: ProgressCallback
) -> ExtractionSummary:
    encoding = ImageEncoding(plan, on_error, clocks, tell)
    splits, sizes = {}, {}
    for name in plan.splits:
        splits[name], sizes[name] = encoding.split(name)
    notes = _lost_classes(plan, splits)
    features = Features(
        splits=splits,
        class_names=tuple(plan.dataset.class_names),
        **encode_text(plan, clocks, tell),
        logit_scale=plan.encoder.logit_scale,
        logit_bias=plan.encoder.logit_bias,
    )
    with clocks.running("write"):
        write_cache(
            target.path,
            features,
            plan.provenance(encoding.unreadable),
            stored_dtype=plan.stored_dtype,
            sizes=sizes,
            seconds={name: clocks.seconds[name] for name in ("read", "encode")},
        )
    tell(ExtractionProgress("write", "", 1, 1))
    return _summary(plan, replace(target, notes=(*target.notes, *notes)), clocks, encoding.rate)


def _lost_classes(plan: Plan, splits: dict[str, Split]) -> list[str]:
    """Refuse a class that has no readable image left at all; name those that a single split has lost."""
    notes = []
    before, after = set[int](), set[int]()
    for name, split in splits.items():
        had = {int(label) for label in plan.dataset.splits[name].labels}
        has = {int(label) for label in split.labels}
        before, after = before | had, after | has
        for label in sorted(had - has):
            class_name = plan.dataset.class_names[label]
            notes.append(f"no image of class {class_name!r} in split {name!r} could be read")
    lost = [plan.dataset.class_names[label] for label in sorted(before - after)]
    if lost:
        raise InputError(
            f"no image of class {', '.join(map(repr, lost))} of {plan.dataset.name} can be read; "
            f"repair the images, or remove the class"
        )
    return notes


def _encode_text_again(plan: Plan, path: Path, clocks: Clocks, tell: ProgressCallback) -> None:
    """Write the cache anew with its own image arrays, byte for byte, and the text that is asked for."""
    with open_cache(path) as file:
        for name, array in arrays_of(file).items():
            # A flipped bit must not be copied under a fresh checksum.
            if name.startswith(f"{spec.SPLITS}/") and array_sha256(array) != array.attrs.get(spec.ARRAY_SHA256):
                raise CacheError(f"array {name} of cache {path} differs from its checksum; extract with --force")
    old = load_features(path, memmap="auto")
    there = Provenance.of(old.provenance)
    recorded = {**there.recorded, "text": plan.recorded}
    features = replace(
        old,
        class_names=tuple(plan.dataset.class_names),
        **encode_text(plan, clocks, tell),
        logit_scale=plan.encoder.logit_scale,
        logit_bias=plan.encoder.logit_bias,
    )
    with clocks.running("write"):
        write_cache(
            path,
            features,
            replace(there, text=plan.text, recorded=recorded),
            stored_dtype=plan.stored_dtype,
            sizes=load_sizes(path),
            projection=load_projection(path),
            normalised=old.provenance["normalised"],
            seconds={name: clocks.seconds[name] for name in ("read", "encode")},
        )
    tell(ExtractionProgress("write", "", 1, 1))


def _refuse_unreadable(path: Path, on_error: OnError) -> None:
    with open_cache(path) as file:
        unreadable = read_provenance(file)["unreadable"]
    if unreadable and on_error == "fail":
        first = unreadable[0]
        raise InputError(
            f"{len(unreadable)} images of cache {path} could not be read, the first {first['sample_id']!r} "
            f"(split {first['split']!r}): {first['reason']}. Repair or remove them, or use --on-error skip"
        )


_ACTIONS: dict[str, Any] = {"all": "extracted", "text": "text encoded again", "nothing": "already there"}


def _summary(plan: Plan, target: Target, clocks: Clocks, rate: float = 0.0) -> ExtractionSummary:
    cache = summarise(target.path)
    with open_cache(target.path) as file:
        unreadable = tuple(read_provenance(file)["unreadable"])
    return ExtractionSummary(
        path=target.path,
        action=_ACTIONS[target.missing],
        dataset=cache.dataset,
        encoder=cache.encoder,
        fingerprint=cache.fingerprint,
        splits=cache.splits,
        dim=cache.dim,
        n_classes=cache.n_classes,
        n_templates=cache.n_templates,
        bytes=cache.bytes,
        unreadable=unreadable,
        seconds=clocks.seconds,
        images_per_second=rate,
        notes=(*plan.dataset.notes, *target.notes),
    )
