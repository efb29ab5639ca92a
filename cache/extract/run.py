"""Extraction: every image and prompt through the frozen encoder once, and onto the disk.

An :class:`~cafe.cache.extract.plan.Extraction` goes through these stages, and each returns it with more of its fields
filled: planned and given a file (plan), opened among what is there already (unfinished), encoded beside other processes
(schedule, with one of two engines), written to its file (finish), summarised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cafe.cache.extract.copies import look_for_copies
from cafe.cache.extract.decode import ImageDecoder
from cafe.cache.extract.finish import finish
from cafe.cache.extract.local_engine import Workers, encode_locally
from cafe.cache.extract.plan import Draws, Extraction, choose_file, dtype_of_existing, plan_extraction
from cafe.cache.extract.progress import (
    Action,
    ExtractionInterrupted,
    ExtractionSummary,
    ProgressCallback,
    Reporter,
)
from cafe.cache.extract.ray_engine import check_engine, encode_by_ray
from cafe.cache.extract.schedule import Schedule
from cafe.cache.extract.shards import OnError, unreadable_under_fail
from cafe.cache.extract.sources import find_known_rows
from cafe.cache.extract.text import kept_chunks, replace_text
from cafe.cache.extract.unfinished import open_unfinished, partial_folder, remove_finished_shards
from cafe.cache.extract.views import Views
from cafe.cache.format.arrays import StoredDtype
from cafe.cache.format.fingerprint import differing_fields, fingerprint
from cafe.cache.format.reader import open_cache, read_provenance, summarise
from cafe.data.base import Dataset
from cafe.data.images.decoders import PILLOW
from cafe.encoders.base import Encoder
from cafe.errors import CacheError, CafeError, InputError, unknown_name
from cafe.files import check_free_space, prepare_folder

_ON_ERROR: tuple[OnError, ...] = ("skip", "fail")


def extract(
    dataset: Dataset,
    encoder: Encoder,
    out: Path | str,
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
    known_in: Sequence[Path | str] | None = None,
) -> ExtractionSummary:
    """Encode a data set once, and write its cache.

    If ``out`` already holds the same features, nothing is encoded. If it holds others, it is left alone, and a name
    with a short fingerprint is used beside it. Where only class names or templates differ, text alone is encoded.
    Where images differ, those that the same encoder has seen before are recognised by their bytes in the caches at
    hand, and only the others are encoded: images that were added, whatever was renamed, regrouped or split
    differently. Until the cache is whole, everything that is done is kept in ``out`` with ``.partial`` behind it:
    however a run ends, the next carries on there, and gives the same bytes in every array. Several processes may do so
    at once, and divide the work.

    Parameters
    ----------
    dataset : Dataset
        Its ``image`` must be safe to call from several threads.
    encoder : Encoder
        The frozen towers.
    out : path
        The file to make, as of :func:`cafe.cache.locate.cache_path`.
    splits : sequence of str or None, default None
        Splits to extract; None for all splits of the data set.
    templates : sequence of str or None, default None
        Templates of prompts; None for the data set's own.
    prompts : sequence of c sequences of str, or None, default None
        Prompts written per class, as of :func:`cafe.prompts.read_prompts`; they take the place of templates.
    stored_dtype : str, default "float16"
        Or ``"float32"``.
    views : Views or None, default None
        Augmentations of every training image.
    draws : Draws or None, default None
        Only the training and validation images that these few-shot draws need are extracted.
    projection_features : bool, default False
        Store what goes into the image tower's projection as well, and the projection.
    decoder : str, default "pillow"
        Decoder of JPEG files, one of :data:`cafe.data.images.decoders.DECODERS`; another than Pillow makes other
        image features.
    on_error : str, default "skip"
        What an unreadable image does: ``"skip"`` records it and goes on, ``"fail"`` stops.
    batch_size : int or None, default None
        Images encoded together; it may change the last bits of a feature. None is that of the run which is carried
        on, else the encoder's default for its device.
    workers : int or "auto", default "auto"
        Decoding processes, 0 for threads; changes no byte. ``"auto"`` measures a few images first.
    engine : str, default "local"
        ``"ray"`` lets Ray Data decode and encode, on this machine or on a cluster; changes no byte.
    ray_address : str or None, default None
        Address of a Ray cluster, ``"auto"`` or ``"HOST:PORT"``; None begins a cluster on this machine.
    progress : callable or None, default None
        Called with an :class:`~cafe.cache.ExtractionProgress` after every batch, in this thread.
    force : bool, default False
        Encode everything again, and replace ``out`` even if it is damaged.
    named : bool, default False
        Whether the user has named ``out``. A cache of other image features at ``out`` is then refused, or replaced
        under ``force``, and other text in a cache at ``out`` is replaced.
    known_in : sequence of path or None, default None
        Folders whose caches are looked through for images and text that were encoded before; None is the folder of
        ``out``, and an empty sequence none. Not with ``force``.

    Returns
    -------
    ExtractionSummary
        Its ``path`` is the file that holds the features.

    Raises
    ------
    InputError
        If a split is missing, an image is unreadable under ``"fail"``, no image of a split or class can be read,
        ``out`` is something else than a sound cache, or an unfinished extraction of ``out`` was begun with something
        else (CacheError).
    MissingDependencyError
        If the decoder or the engine is not installed.
    CafeError
        If no Ray cluster can be reached or begun, or the disk has too little space or fails.
    ExtractionInterrupted
        A KeyboardInterrupt whose text says what is kept.

    Examples
    --------
    >>> import tempfile
    >>> from cafe.cache import extract
    >>> from cafe.data import open_dataset
    >>> from cafe.encoders import open_encoder
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     encoder = open_encoder("cafe:mini", "cpu")
    ...     summary = extract(open_dataset("digits"), encoder, Path(folder) / "digits.h5", splits=["test"])
    >>> summary.action, summary.splits, summary.dim
    ('extracted', {'test': 546}, 128)
    """
    return extract_many(
        dataset,
        [encoder],
        [out],
        splits=splits,
        templates=templates,
        prompts=prompts,
        stored_dtype=stored_dtype,
        views=views,
        draws=draws,
        projection_features=projection_features,
        decoder=decoder,
        on_error=on_error,
        batch_size=batch_size,
        workers=workers,
        engine=engine,
        ray_address=ray_address,
        progress=progress,
        force=force,
        named=named,
        known_in=known_in,
    )[0]


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
    known_in: Sequence[Path | str] | None = None,
) -> list[ExtractionSummary]:
    """Encode a data set with several encoders, and write a cache for each; encoders of equal batches share decoding.

    Parameters
    ----------
    dataset : Dataset
        Its ``image`` must be safe to call from several threads.
    encoders : sequence of Encoder
        The frozen towers.
    outs : sequence of path
        The file of each.
    splits, templates, prompts, stored_dtype, views, draws, projection_features, decoder, on_error, batch_size, \
    workers, engine, ray_address, progress, force, named, known_in
        As of :func:`extract`.

    Returns
    -------
    list of ExtractionSummary
        For each encoder; ``path`` is the file that holds its features.

    Raises
    ------
    InputError, MissingDependencyError, CafeError, ExtractionInterrupted
        As :func:`extract`.
    """
    if on_error not in _ON_ERROR:
        raise unknown_name("on_error", on_error, _ON_ERROR)
    if batch_size is not None and batch_size < 1:
        raise InputError(f"the batch size must be at least 1, got {batch_size}")
    check_engine(engine, ray_address)
    reporter = Reporter(progress)

    plan = partial(
        plan_extraction, dataset, splits=splits, templates=templates, prompts=prompts, stored_dtype=stored_dtype,
        views=views, draws=draws, projection_features=projection_features, decoder=decoder,
    )  # fmt: skip
    folders = None if known_in is None else tuple(map(Path, known_in))
    requests = [
        _Request(encoder, Path(out), plan, batch_size, force, named, folders)
        for encoder, out in zip(encoders, outs, strict=True)
    ]
    planned = [request.plan_in_file() for request in requests]
    extractions = [request.open(extraction, on_error) for request, extraction in zip(requests, planned, strict=True)]
    for group in _sharing_images(extractions):
        with _saying_what_is_kept([extractions[number] for number in group]):
            checked = [_check_what_is_kept(extractions[number], on_error) for number in group]
            encoded = _encode(checked, on_error, workers, engine, ray_address, reporter)
            for number, extraction in zip(group, encoded, strict=True):
                extractions[number] = finish(extraction, reporter)
    for extraction in extractions:
        if extraction.missing == "text":
            with _saying_what_text_is_kept(extraction):
                replace_text(extraction, reporter)
    return [_summary(extraction, reporter) for extraction in extractions]


@dataclass(frozen=True)
class _Request:
    """What is asked of one encoder.

    Attributes
    ----------
    encoder : Encoder
        As it was opened; where its dtype was left to cafe, the extraction may take another.
    out : Path
        The name of the cache.
    plan : callable
        From an encoder to its extraction, without a file.
    batch_size, force, named
        As of :func:`extract`.
    known_in : tuple of Path or None
        As of :func:`extract`.
    """

    encoder: Encoder
    out: Path
    plan: Callable[[Encoder], Extraction]
    batch_size: int | None
    force: bool
    named: bool
    known_in: tuple[Path, ...] | None

    def plan_in_file(self) -> Extraction:
        """Plan the extraction in the dtype of what is there, and choose its file."""
        encoder = self.encoder
        if encoder.reopen is not None:
            dtype = self._existing_dtype()
            if dtype not in (None, encoder.dtype):
                encoder = encoder.reopen(dtype).with_batch_size(encoder.batch_size)
        extraction = self.plan(encoder if self.batch_size is None else encoder.with_batch_size(self.batch_size))
        folders = (self.out.parent,) if self.known_in is None else self.known_in
        extraction = replace(extraction, known_in=() if self.force else folders)
        return choose_file(extraction, self.out, force=self.force, named=self.named)

    def open(self, extraction: Extraction, on_error: OnError) -> Extraction:
        """Open a planned extraction; plan it again if another process has begun it in another dtype meanwhile."""
        try:
            return _open(extraction, self.batch_size, self.force, on_error)
        except CacheError:
            if self.encoder.reopen is None or self._existing_dtype() in (None, extraction.encoder.dtype):
                raise
        return _open(self.plan_in_file(), self.batch_size, self.force, on_error)

    def _existing_dtype(self) -> str | None:
        return dtype_of_existing(self.encoder, self.out, force=self.force)


def _open(extraction: Extraction, batch_size: int | None, force: bool, on_error: OnError) -> Extraction:
    """Open the shards of an extraction whose images are missing, and take its batch size from there."""
    path = extraction.path
    prepare_folder(path.parent)
    if extraction.missing == "all":
        unfinished = open_unfinished(
            path,
            extraction.image,
            [(name, len(extraction.rows[name]), extraction.views_of(name)) for name in extraction.splits],
            batch_size=batch_size,
            default_batch_size=extraction.encoder.batch_size,
            recorded=extraction.recorded,
            force=force,
        )
        return replace(
            extraction,
            encoder=extraction.encoder.with_batch_size(unfinished.batch_size),
            recorded={**extraction.recorded, "batch_size": unfinished.batch_size},
            unfinished=unfinished,
            known=find_known_rows(extraction, extraction.known_in),
        )
    wanted = extraction.provenance().image_fingerprint
    remove_finished_shards(path, lambda image: fingerprint(image) == wanted)
    _refuse_unreadable(extraction.images_from or path, on_error)
    if extraction.missing == "text":
        check_free_space(path.parent, extraction.bytes_needed())
    return extraction


def _refuse_unreadable(path: Path, on_error: OnError) -> None:
    with open_cache(path) as file:
        unreadable = read_provenance(file)["unreadable"]
    if unreadable and on_error == "fail":
        first = unreadable[0]
        raise InputError(
            f"{len(unreadable)} images of cache {path} could not be read, the first {first['sample_id']!r} "
            f"(split {first['split']!r}): {first['reason']}. Repair or remove them, or use --on-error skip"
        )


def _sharing_images(extractions: Sequence[Extraction]) -> list[list[int]]:
    """Group those whose images are missing, by number, so that a group decodes once: of equal batches and shards."""
    groups: dict[object, list[int]] = {}
    for number, extraction in enumerate(extractions):
        if extraction.unfinished is not None:
            key = extraction.partial.batch_size, extraction.partial.shards
            groups.setdefault(key, []).append(number)
    return list(groups.values())


def _check_what_is_kept(extraction: Extraction, on_error: OnError) -> Extraction:
    """Drop shards that are damaged or foreign; refuse unreadable images where they are an error; say what differs.

    Raises
    ------
    InputError
        If an image of a shard was unreadable, under ``on_error="fail"``.
    CafeError
        If the disk cannot hold the shards that are missing, and the file made from all of them.
    """
    partial, clauses = extraction.partial, list[str]()
    for shard in filter(partial.is_done, partial.shards):
        with suppress(CacheError):  # it is removed, and made again
            stored = partial.read(shard)
            stored.check()
            now = extraction.recorded
            clauses = differing_fields(partial.recorded, now, ending="is here now")
            if stored.unreadable and on_error == "fail":
                raise unreadable_under_fail(**stored.unreadable[0])
    partial.look_for_cache()
    n_missing = sum(len(shard) * (1 + shard.views) for shard in partial.shards if not partial.is_done(shard))
    width = extraction.row_width * (2 if extraction.stored_dtype == "float16" else 4)
    check_free_space(extraction.path.parent, extraction.bytes_needed() + n_missing * (width + 8))
    notes = [f"the part that was there was made with {clause}" for clause in clauses]
    return replace(extraction, notes=(*extraction.notes, *notes))


def _encode(
    extractions: Sequence[Extraction],
    on_error: OnError,
    workers: Workers,
    engine: str,
    ray_address: str | None,
    reporter: Reporter,
) -> list[Extraction]:
    """Encode what is missing of extractions of equal shards, and return them with how it went."""
    first = extractions[0]
    croppers = tuple(extraction.encoder.cropper for extraction in extractions)
    known = tuple(extraction.known.keys for extraction in extractions)
    decoder = ImageDecoder(first.dataset, croppers, first.views, first.decoder, known)
    with closing(Schedule(extractions, on_error, reporter)) as schedule:
        if schedule.is_empty:
            n_workers = 0
        elif engine == "ray":
            n_workers = encode_by_ray(schedule, decoder, ray_address, reporter)
        else:
            n_workers = encode_locally(schedule, decoder, workers, reporter)
        return [
            replace(
                extraction,
                encoded=encoded,
                images_per_second=schedule.images_per_second,
                workers=n_workers,
                notes=(*extraction.notes, *extraction.known.notes()),
            )
            for extraction, encoded in zip(extractions, schedule.encoded, strict=True)
        ]


@contextmanager
def _saying_what_is_kept(extractions: Sequence[Extraction]) -> Iterator[None]:
    """Say what is kept when extractions end before their time, and remove folders in which nothing is."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise ExtractionInterrupted(f"interrupted; {_kept(extractions[0])}") from error
    except OSError as error:
        what = (error.strerror or str(error)).lower()
        folder = extractions[0].partial.folder
        raise CafeError(f"{folder} could not be written: {what}; {_kept(extractions[0])}") from error
    except CafeError as error:
        # The disk failed while the finished file was written: all shards are there.
        if type(error) is CafeError and isinstance(error.__cause__, OSError):
            raise CafeError(f"{error}; {_kept(extractions[0])}") from error
        raise
    finally:
        for extraction in extractions:
            with suppress(OSError):  # whatever went wrong is being raised already
                extraction.partial.remove_if_empty()


@contextmanager
def _saying_what_text_is_kept(extraction: Extraction) -> Iterator[None]:
    """Say what is kept where text alone is encoded and that ends before its time."""
    try:
        yield
    except KeyboardInterrupt as error:
        n = len(kept_chunks(extraction.path))
        kept = (
            f"{n} chunks of text are kept in {partial_folder(extraction.path)}, and the same command carries on there"
        )
        raise ExtractionInterrupted(
            f"interrupted; {kept if n else 'nothing was done yet that could be kept'}"
        ) from error


def _kept(extraction: Extraction) -> str:
    """Write how many images are kept, and how to carry on."""
    partial = extraction.partial
    done = sum(len(shard) for shard in partial.shards if partial.is_done(shard))
    if not done:
        return "nothing was done yet that could be kept"
    return (
        f"{done:,} of {extraction.n_images:,} images are kept in {partial.folder}, and the same command carries on "
        f"from there"
    )


_ACTIONS: dict[str, Action] = {"all": "extracted", "text": "text encoded again", "nothing": "already there"}


def _summary(extraction: Extraction, reporter: Reporter) -> ExtractionSummary:
    """Return the summary of an extraction whose cache is in place; the images are searched for identical ones."""
    cache, seconds = summarise(extraction.path), reporter.seconds
    with open_cache(extraction.path) as file:
        unreadable = tuple(read_provenance(file)["unreadable"])
    contents, copies = look_for_copies(extraction.dataset, extraction.path)
    return ExtractionSummary(
        path=extraction.path,
        action=_ACTIONS[extraction.missing],
        dataset=cache.dataset,
        encoder=cache.encoder,
        fingerprint=cache.fingerprint,
        splits=cache.splits,
        dim=cache.dim,
        n_classes=cache.n_classes,
        n_templates=cache.n_templates,
        bytes=cache.bytes,
        unreadable=unreadable,
        seconds=seconds,
        images_per_second=extraction.images_per_second,
        encoded=extraction.encoded,
        kept=max(0, sum(cache.splits.values()) - extraction.encoded),
        bottleneck=max(seconds, key=lambda stage: seconds[stage]) if extraction.images_per_second else "",
        workers=extraction.workers,
        batch_size=0 if extraction.unfinished is None else extraction.unfinished.batch_size,
        notes=(*extraction.dataset.notes, *copies, *extraction.notes),
        contents=contents.to_json(),
    )
