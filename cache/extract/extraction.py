"""Extraction: every image and prompt through the frozen encoder once, and onto the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial as bound
from pathlib import Path
from typing import Any

from cafe.cache.extract.assembly import OnError
from cafe.cache.extract.choosing import Workers
from cafe.cache.extract.encoding import ProgressCallback
from cafe.cache.extract.partial import open_partial, tidy
from cafe.cache.extract.passes import How, encode_all
from cafe.cache.extract.plan import Plan, make_plan
from cafe.cache.extract.ray_engine import check_engine
from cafe.cache.extract.report import Clocks, ExtractionSummary
from cafe.cache.extract.rows import Draws
from cafe.cache.extract.run import Run, signature
from cafe.cache.extract.target import Target, choose_target
from cafe.cache.extract.text_again import encode_text_again
from cafe.cache.extract.views import Views
from cafe.cache.format.arrays import StoredDtype
from cafe.cache.format.fingerprint import fingerprint
from cafe.cache.format.reader import open_cache, read_provenance, summarise
from cafe.data.base import Dataset
from cafe.data.images.decoding import PILLOW
from cafe.encoders.base import Encoder
from cafe.errors import InputError, unknown_name
from cafe.files import check_free_space, prepare_folder

_ON_ERROR: tuple[OnError, ...] = ("skip", "fail")


def extract(dataset: Dataset, encoder: Encoder, out: Path | str, **options: Any) -> ExtractionSummary:
    """Encode a data set once, and write its cache.

    If ``out`` already holds the same features, nothing is encoded; if only class names or templates differ, text alone
    is; if image features differ, ``out`` is left alone and a name with the short fingerprint is used beside it. Until
    it is whole, everything that is done stands in ``out`` with ``.partial`` behind it: however a run ends, the next
    carries on there, and gives the same bytes in every array. Several processes may do so at once, and divide the work.

    Parameters
    ----------
    dataset : Dataset
        Its ``image`` must be safe to call from several threads.
    encoder : Encoder
        The frozen towers.
    out : path
        The file to make, as of :func:`cafe.cache.locate.cache_path`.
    **options
        See :func:`extract_many`.

    Returns
    -------
    ExtractionSummary
        Its ``path`` is the file that holds the features.

    Raises
    ------
    InputError, CafeError, ExtractionInterrupted
        As :func:`extract_many`.
    """
    return extract_many(dataset, [encoder], [out], **options)[0]


def extract_many(
    dataset: Dataset,
    encoders: Sequence[Encoder],
    outs: Sequence[Path | str],
    *,
    splits: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    prompts: Sequence[Sequence[str]] | None = None,
    stored_dtype: StoredDtype = "float16",
    views: Views | None = None,
    draws: Draws | None = None,
    projection_features: bool = False,
    decoder: str = PILLOW,
    on_error: OnError = "skip",
    batch_size: int | None = None,
    workers: Workers = "auto",
    engine: str = "local",
    ray_address: str | None = None,
    progress: ProgressCallback | None = None,
    force: bool = False,
    named: bool = False,
) -> list[ExtractionSummary]:
    """Encode a data set with several encoders, decoding every image once, and write a cache for each.

    Parameters
    ----------
    dataset : Dataset
        Its ``image`` must be safe to call from several threads.
    encoders : sequence of Encoder
        The frozen towers; their ``batch_size`` is set to the one used.
    outs : sequence of path
        The file of each.
    splits : sequence of str or None
        None is every split there is.
    templates : sequence of str or None
        None is the data set's own.
    prompts : sequence of c sequences of str, or None
        Prompts written per class, as of :func:`cafe.prompts.read_prompts`; they take the place of templates.
    stored_dtype : str, default "float16"
        Or ``"float32"``.
    views : Views or None
        Augmentations of every training image.
    draws : Draws or None
        Only the training and validation images that these few-shot draws need are extracted.
    projection_features : bool, default False
        Store what goes into the image tower's projection as well, and the projection.
    decoder : str, default "pillow"
        Of JPEG files, one of :data:`cafe.data.images.decoding.DECODERS`; another than Pillow makes other image
        features.
    on_error : str, default "skip"
        What an unreadable image does: ``"skip"`` records it and goes on, ``"fail"`` stops.
    batch_size : int or None
        Images encoded together; it may change the last bits of a feature. None is that of the run which is carried
        on, else the encoder's default for its device.
    workers : int or "auto"
        Decoding processes, 0 for threads; changes no byte. ``"auto"`` measures a few images first.
    engine : str, default "local"
        ``"ray"`` lets Ray Data decode and encode, on this machine or on a cluster; changes no byte.
    ray_address : str or None
        Of a Ray cluster; None begins one on this machine.
    progress : callable or None
        Called with an ExtractionProgress after every batch, in this thread.
    force : bool, default False
        Encode everything again, and replace ``out`` even if it is damaged.
    named : bool, default False
        Whether the user has named ``outs``: a cache of other features there is then refused, or replaced by force.
        Else such features go to a file of their own beside it.

    Returns
    -------
    list of ExtractionSummary
        For each encoder; ``path`` is the file that holds its features.

    Raises
    ------
    InputError
        If a split is not there, an image is unreadable under ``"fail"``, no image of a split or class can be
        read, ``out`` is something else than a sound cache, or an unfinished extraction there was begun with something
        else (CacheError).
    MissingDependencyError
        If the decoder or the engine is not installed.
    CafeError
        If no Ray cluster can be had, or the disk has too little space or fails.
    ExtractionInterrupted
        A KeyboardInterrupt whose text says what is kept.
    """
    if on_error not in _ON_ERROR:
        raise unknown_name("on_error", on_error, _ON_ERROR)
    if batch_size is not None and batch_size < 1:
        raise InputError(f"the batch size must be at least 1, got {batch_size}")
    check_engine(engine, ray_address)
    tell = progress or (lambda _: None)
    clocks = Clocks()
    jobs = []
    for encoder, out in zip(encoders, outs, strict=True):
        encoder.batch_size = batch_size or encoder.batch_size
        plan = make_plan(
            dataset, encoder, splits, templates, stored_dtype, prompts,
            views=views, draws=draws, projection_features=projection_features, decoder=decoder,
        )  # fmt: skip
        jobs.append(_Job(plan, choose_target(plan, Path(out), force=force, named=named)))
    for job in jobs:
        _prepare(job, batch_size, force, on_error)
    for group in _alike([job for job in jobs if job.run is not None]):
        encode_all(group, on_error, How(workers, engine, ray_address), clocks, tell)
    for job in jobs:
        if job.target.missing == "text":
            encode_text_again(job.plan, job.target.path, clocks, tell)
    return [_summary(job, clocks) for job in jobs]


@dataclass
class _Job:
    """One encoder's part: what is wanted, what there is, and how it went."""

    plan: Plan
    target: Target
    run: Run | None = None
    encoded: int = 0
    kept: int = 0
    rate: float = 0.0
    workers: int = 0
    notes: tuple[str, ...] = ()


def _prepare(job: _Job, batch_size: int | None, force: bool, on_error: OnError) -> None:
    plan, target = job.plan, job.target
    prepare_folder(target.path.parent)
    before = signature(target.path)
    if target.missing != "all":
        tidy(target.path, lambda image: fingerprint(image) == plan.provenance().image_fingerprint)
        _refuse_unreadable(target.path, on_error)
        if target.missing == "text":
            check_free_space(target.path.parent, plan.bytes_needed())
        return
    reopen = bound(open_partial, plan, target.path, batch_size, force=force)
    job.run = Run(plan, target, reopen(), before, reopen)


def _alike(jobs: list[Any]) -> list[list[Any]]:
    """Group jobs that can share one decoding pass: those cut into the same shards."""
    groups: dict[Any, list[Any]] = {}
    for job in jobs:
        groups.setdefault(job.run.partial.shards, []).append(job)
    return list(groups.values())


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


def _summary(job: _Job, clocks: Clocks) -> ExtractionSummary:
    cache = summarise(job.target.path)
    with open_cache(job.target.path) as file:
        unreadable = tuple(read_provenance(file)["unreadable"])
    return ExtractionSummary(
        path=job.target.path,
        action=_ACTIONS[job.target.missing],
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
        images_per_second=job.rate,
        encoded=job.encoded,
        kept=job.kept,
        bottleneck=max(clocks.seconds, key=lambda name: clocks.seconds[name]) if job.rate else "",
        workers=job.workers,
        batch_size=job.run.partial.batch_size if job.run is not None else 0,
        notes=(*job.plan.dataset.notes, *job.target.notes, *job.notes),
    )
