"""The record of one extraction, and everything that is decided about it before the first image is read."""

from __future__ import annotations

import glob
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn, TypedDict

import numpy as np
from numpy.typing import NDArray

from cafe.cache.extract.known import NOTHING_KNOWN, KnownRows
from cafe.cache.extract.unfinished import SUFFIX as PARTIAL
from cafe.cache.extract.unfinished import UnfinishedCache, begun_with
from cafe.cache.extract.views import Views
from cafe.cache.format.arrays import STORED_DTYPES, StoredDtype
from cafe.cache.format.fingerprint import differing_fields, image_part, text_part
from cafe.cache.format.layout import ALIGNMENT, SUFFIX
from cafe.cache.format.provenance import Provenance, library_versions
from cafe.cache.format.reader import REMEDY, open_cache, read_provenance
from cafe.cache.locate import distinct_path
from cafe.data.base import Dataset
from cafe.data.images.decoders import NVJPEG, PILLOW
from cafe.data.images.decoding import check_decoder
from cafe.encoders.base import Encoder
from cafe.errors import CacheError, InputError, unknown_name
from cafe.protocol.draws import draw_few_shot

_SHOWN = 3  # fields that a message names


@dataclass(frozen=True)
class Draws:
    """Few-shot draws of CoOp's protocol whose images are extracted, and no others of train and val.

    Attributes
    ----------
    shots : tuple of int
        Numbers of images per class.
    seeds : tuple of int
        Of the draws.
    """

    shots: tuple[int, ...]
    seeds: tuple[int, ...] = (1, 2, 3)

    def specification(self) -> dict[str, Any]:
        """Return them as JSON, for the fingerprint."""
        return {"shots": sorted(set(self.shots)), "seeds": sorted(set(self.seeds))}


@dataclass(frozen=True)
class Extraction:
    """One extraction, from what is wanted to how it went.

    It is never changed: every stage returns it with more of its fields filled.

    Attributes
    ----------
    dataset, encoder : Dataset, Encoder
        Where images and features come from.
    splits : tuple of str
        In the data set's order.
    templates : tuple of str
        At least one, unless there are prompts.
    prompts : tuple of c tuples of str, or None
        Prompts written per class, in place of templates.
    stored_dtype : str
        ``"float16"`` or ``"float32"``.
    image, text, recorded : mapping
        ``text`` is None where the encoder has no text tower; as in :class:`~cafe.cache.format.provenance.Provenance`.
    rows : mapping of str to ndarray of int64
        Rows of each split that are extracted, ascending; all, unless only few-shot draws are wanted.
    views : Views or None
        Augmentations of every training image.
    draws : Draws or None
        The few-shot draws that ``rows`` were chosen for.
    projection : ndarray of shape (w, d) or None
        The image tower's, where features before it are wanted too.
    decoder : str
        Of JPEG files.
    path : Path
        The cache that it ends in; :func:`choose_file` fills this and the next two.
    missing : str
        ``"all"``, ``"text"`` (the image features there are the ones wanted) or ``"nothing"``.
    notes : tuple of str
        Warnings for the user.
    images_from : Path or None
        The cache whose image features are the ones wanted, where text alone is missing.
    known : KnownRows
        Rows of caches at hand, where images are missing.
    known_in : tuple of Path
        Folders in which caches are looked for that hold something of what is wanted.
    unfinished : UnfinishedCache or None
        The shards, where images are missing.
    encoded : int
        Images that this run encoded.
    images_per_second : float
        Of this run.
    workers : int
        Decoding processes; 0 is threads of this one.
    """

    dataset: Dataset
    encoder: Encoder
    splits: tuple[str, ...]
    templates: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...] | None
    stored_dtype: StoredDtype
    image: Mapping[str, Any]
    text: Mapping[str, Any] | None
    recorded: Mapping[str, Any]
    rows: Mapping[str, NDArray[np.int64]]
    views: Views | None = None
    draws: Draws | None = None
    projection: NDArray[np.float32] | None = None
    decoder: str = PILLOW
    path: Path = Path()
    missing: Literal["all", "text", "nothing"] = "all"
    notes: tuple[str, ...] = ()
    images_from: Path | None = None
    known: KnownRows = NOTHING_KNOWN
    known_in: tuple[Path, ...] = ()
    unfinished: UnfinishedCache | None = None
    encoded: int = 0
    images_per_second: float = 0.0
    workers: int = 0

    @property
    def row_width(self) -> int:
        """Numbers of one row of a shard: the feature, and where it is wanted what goes into the projection."""
        return self.encoder.dim + (0 if self.projection is None else len(self.projection))

    @property
    def n_images(self) -> int:
        """Images of all splits that are extracted."""
        return sum(len(self.rows[name]) for name in self.splits)

    def views_of(self, split: str) -> int:
        """Return the number of augmentations of each image of a split; views are of training images."""
        return self.views.n if self.views is not None and split == "train" else 0

    @property
    def partial(self) -> UnfinishedCache:
        """The shards, of an extraction whose images are missing."""
        assert self.unfinished is not None, "no image of this extraction is missing"
        return self.unfinished

    def provenance(self, unreadable: Sequence[Mapping[str, str]] = ()) -> Provenance:
        """Return what the cache records."""
        drawn = () if self.draws is None else tuple(self.draws.specification()["seeds"])
        return Provenance(
            dataset=self.dataset.name,
            encoder=self.encoder.id,
            image=self.image,
            text=self.text,
            recorded={"image": self.recorded, "text": self.recorded},
            seeds=tuple(sorted({*drawn, *(() if self.views is None else (self.views.seed,))})),
            unreadable=unreadable,
        )

    def bytes_needed(self) -> int:
        """Estimate the size of the file, from above."""
        width = self.row_width * np.dtype(self.stored_dtype).itemsize
        longest = max((len(s.encode("utf-8", "surrogateescape")) for s in self._sample_ids()), default=1)
        rows = self.n_images * (width + 16 + longest)
        rows += sum(self.views_of(name) * len(self.rows[name]) * width for name in self.splits)
        if self.draws is not None:
            rows += sum(8 * (len(self.rows[name]) + len(self.dataset.splits[name])) for name in self.splits)
        text = len(self.templates) * len(self.dataset.class_names) * width
        if self.prompts is not None:  # once as features, once as text in the provenance
            text += sum(width + 8 + 6 * len(prompt) for of_class in self.prompts for prompt in of_class)
        return rows + text + 64 * ALIGNMENT

    def _sample_ids(self) -> Iterator[str]:
        for name in self.splits:
            yield from self.dataset.splits[name].sample_ids


def plan_extraction(
    dataset: Dataset,
    encoder: Encoder,
    *,
    splits: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    prompts: Sequence[Sequence[str]] | None = None,
    stored_dtype: StoredDtype = "float16",
    views: Views | None = None,
    draws: Draws | None = None,
    projection_features: bool = False,
    decoder: str = PILLOW,
    images_alone: bool = False,
) -> Extraction:
    """Check what is wanted against the data set, and compute its identity.

    Parameters are those of :func:`cafe.cache.extract.run.extract`; with ``images_alone`` nothing is asked of the
    encoder's text side, nor of its library's versions, which is enough to look for images that are known.

    Raises
    ------
    InputError
        If a split is not there or empty, no template or prompt is left, the dtype is unknown, views or draws are
        asked for without a train split, or features before a projection that the encoder does not have.
    MissingDependencyError
        If the decoder is not installed.
    """
    check_decoder(decoder)
    if stored_dtype not in STORED_DTYPES:
        raise unknown_name("stored dtype", stored_dtype, STORED_DTYPES)
    names = _chosen_splits(dataset, splits)
    chosen = _chosen_text(dataset, encoder, templates, prompts)
    if views is not None:
        _check_views(encoder, names)
    projection = _projection_of(encoder) if projection_features else None
    identity: dict[str, Any] = (
        {"image": encoder.image_identity(), "text": None, "recorded": {}} if images_alone else encoder.identity()
    )
    return Extraction(
        dataset=dataset,
        encoder=encoder,
        splits=names,
        **chosen,
        stored_dtype=stored_dtype,
        image=image_part(
            dataset.identity(),
            identity["image"],
            with_class_names=not encoder.has_text,
            splits=names,
            stored_dtype=stored_dtype,
            views=None if views is None else views.specification(),
            draws=None if draws is None else draws.specification(),
            projection_features=projection_features,
            decoder=decoder,
        ),
        text=None
        if identity["text"] is None
        else text_part(dataset.class_names, identity["text"], **chosen, stored_dtype=stored_dtype),
        recorded=_recorded(encoder, identity["recorded"], decoder),
        rows=rows_to_extract(dataset, names, draws),
        views=views,
        draws=draws,
        projection=projection,
        decoder=decoder,
        notes=_text_left_out(encoder, templates, prompts),
    )


def _check_views(encoder: Encoder, splits: Sequence[str]) -> None:
    """Refuse views where no training image is extracted, or the encoder takes none. Raises InputError."""
    if "train" not in splits:
        raise InputError(f"views are of training images, but extracted are only: {', '.join(splits)}")
    if not encoder.takes_views:
        raise InputError(
            f"encoder {encoder.id!r} takes images as its own preprocessing makes them; augmented views are not possible"
        )


def _projection_of(encoder: Encoder) -> NDArray[np.float32]:
    """Return an image tower's final projection (w, d). Raises InputError if it has none that is one matrix."""
    projection = encoder.projection()
    if projection is None:
        raise InputError(
            f"encoder {encoder.id!r} has no final projection that is one matrix; leave out --projection-features"
        )
    return projection


def _text_left_out(encoder: Encoder, templates: Sequence[str] | None, prompts: Any) -> tuple[str, ...]:
    """Say that templates or prompts which were asked for go unused, since there is no text tower."""
    if encoder.has_text or (templates is None and prompts is None):
        return ()
    return (f"{encoder.id} has no text tower, so it encodes no {'templates' if prompts is None else 'prompts'}",)


def _chosen_splits(dataset: Dataset, splits: Sequence[str] | None) -> tuple[str, ...]:
    for name in splits or ():
        if name not in dataset.splits:
            raise unknown_name(f"split of {dataset.name}", name, dataset.splits)
    names = tuple(name for name in dataset.splits if splits is None or name in splits)
    if not names:
        raise InputError(f"no split of {dataset.name} was asked for; possible: {', '.join(dataset.splits)}")
    for name in names:
        if not len(dataset.splits[name]):
            raise InputError(f"split {name!r} of {dataset.name} has no images; leave it out with --splits")
    return names


class _ChosenText(TypedDict):
    templates: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...] | None


def _chosen_text(
    dataset: Dataset, encoder: Encoder, templates: Sequence[str] | None, prompts: Sequence[Sequence[str]] | None
) -> _ChosenText:
    """Return the templates, or else the prompts per class, that are encoded; neither without a text tower.

    Raises
    ------
    InputError
        If there is a text tower and no template or prompt is left.
    """
    if not encoder.has_text:
        return {"templates": (), "prompts": None}
    if prompts is not None:
        return {"templates": (), "prompts": _checked_prompts(prompts, dataset)}
    chosen = tuple(dataset.templates if templates is None else templates)
    if not chosen:
        raise InputError("no template was given; at least one is needed, such as 'a photo of a {}.'")
    return {"templates": chosen, "prompts": None}


def _checked_prompts(prompts: Sequence[Sequence[str]], dataset: Dataset) -> tuple[tuple[str, ...], ...]:
    if len(prompts) != len(dataset.class_names) or not all(prompts):
        raise InputError(
            f"prompts need one list for each of the {len(dataset.class_names)} classes of {dataset.name}, "
            f"with at least one prompt in each; got {len(prompts)} lists"
        )
    return tuple(tuple(of_class) for of_class in prompts)


def _packages_of(decoder: str) -> tuple[str, ...]:
    """Return the packages whose versions are recorded for a decoder, beside those that are always."""
    return {PILLOW: (), NVJPEG: ("torchvision",)}.get(decoder, (decoder,))


def _recorded(encoder: Encoder, recorded: Mapping[str, Any], decoder: str) -> dict[str, Any]:
    return {
        **recorded,
        "device": encoder.device,
        "dtype": encoder.dtype,
        "batch_size": encoder.batch_size,
        "platform": f"{platform.system()} {platform.machine()}",
        "libraries": library_versions(*_packages_of(decoder)),
    }


def rows_to_extract(dataset: Dataset, splits: Sequence[str], draws: Draws | None) -> dict[str, NDArray[np.int64]]:
    """Return the rows of every split that are extracted, ascending.

    Parameters
    ----------
    dataset : Dataset
        With a split ``train`` if there are draws.
    splits : sequence of str
        Splits that are extracted.
    draws : Draws or None
        None is all rows. Otherwise train and val hold the union of all draws; other splits stay whole.

    Returns
    -------
    dict of str to ndarray of int64

    Raises
    ------
    InputError
        If there are draws but no train split is extracted, or shots or seeds are out of range.
    """
    rows = {name: np.arange(len(dataset.splits[name]), dtype=np.int64) for name in splits}
    if draws is None:
        return rows
    if "train" not in splits:
        raise InputError(f"few-shot draws are made from the split 'train'; extracted are: {', '.join(splits)}")
    if not draws.shots or not draws.seeds:
        raise InputError("few-shot draws need at least one number of shots and one seed")
    val = dataset.splits["val"].labels if "val" in dataset.splits else None
    train_rows, val_rows = [], []
    for shots in draws.shots:
        for seed in draws.seeds:
            of_train, of_val = draw_few_shot(dataset.splits["train"].labels, val, shots, seed)
            train_rows.append(of_train)
            val_rows.append(of_val)
    rows["train"] = np.unique(np.concatenate(train_rows))
    if "val" in splits:
        rows["val"] = np.unique(np.concatenate(val_rows))
    return rows


def choose_file(extraction: Extraction, out: Path, *, force: bool, named: bool = False) -> Extraction:
    """Find out which file an extraction ends in, and what of it is there already.

    ``out`` is used if it is free. A cache of other features is left alone, and a name with a short fingerprint beside
    it is used: that of the image features or, where another cache has these and only the text differs, that of the
    whole; so two sets of templates are kept side by side. If the user has named ``out``, it is that file in any case:
    its text is encoded again, and other image features in it are replaced by force, and refused without.

    Returns
    -------
    Extraction
        With ``path``, ``missing``, ``images_from``, and in ``notes`` what was recorded otherwise in a cache that is
        there.

    Raises
    ------
    CacheError
        If the file is something else than a sound cache, and not to be replaced by force.
    """
    if named:
        return _use_named_file(extraction, out, force)
    wanted, images_from = extraction.provenance(), None
    for path in _out_and_beside(out):
        try:
            existing = _provenance_of(path, force)
        except CacheError:
            if path == out:
                raise
            continue  # one that is not needed may be damaged; if it is needed, it is met again below
        if existing is None:  # damaged, and to be replaced
            return replace(extraction, path=path, missing="all")
        if existing["fingerprint"] == wanted.fingerprint:
            if force:
                return replace(extraction, path=path, missing="all")
            return _with_differences(replace(extraction, path=path, missing="nothing"), existing)
        if existing["image_fingerprint"] == wanted.image_fingerprint and images_from is None:
            images_from = path, existing
    names = [out, distinct_path(out, wanted.image_fingerprint), distinct_path(out, wanted.fingerprint)]
    if images_from is not None and not force:
        names.pop(1)
    path = _first_usable(names, force)
    if images_from is None or force:
        return replace(extraction, path=path, missing="all")
    return _with_differences(replace(extraction, path=path, missing="text", images_from=images_from[0]), images_from[1])


def dtype_of_existing(encoder: Encoder, out: Path, *, force: bool) -> str | None:
    """Return the dtype in which the same encoder has made features under a name, or has begun to.

    Parameters
    ----------
    encoder : Encoder
        Its weights and preprocessing count.
    out : Path
        A cache, unfinished ones and those beside it included.
    force : bool
        Whether caches are to be made anew, so that only unfinished ones count.

    Returns
    -------
    str or None
        None where there is nothing of this encoder.
    """
    identity = {key: value for key, value in encoder.image_identity().items() if key != "dtype"}
    parts = [begun_with(path) for path in [out, *_unfinished_beside(out)]]
    for path in [] if force else _out_and_beside(out):
        with suppress(CacheError), open_cache(path) as file:
            parts.append(read_provenance(file)["image"])
    for image in parts:
        made_by = dict((image or {}).get("encoder") or {})
        dtype = made_by.pop("dtype", None)
        if made_by == identity and isinstance(dtype, str):
            return dtype
    return None


def _unfinished_beside(out: Path) -> list[Path]:
    """Return the caches with a short fingerprint behind this name that are unfinished."""
    folders = sorted(out.parent.glob(f"{glob.escape(out.stem)}--*{PARTIAL}")) if out.parent.is_dir() else []
    return [folder.with_name(folder.name.removesuffix(PARTIAL)) for folder in folders]


def _first_usable(names: Sequence[Path], force: bool) -> Path:
    """Return the first name that is free, or whose file is damaged and to be replaced by force. Raises CacheError."""
    for name in names:
        if not name.exists() or _provenance_of(name, force) is None:
            return name
    raise CacheError(
        f"{' and '.join(map(str, dict.fromkeys(names)))} hold other features than those asked for; name another file"
    )


def _out_and_beside(out: Path) -> list[Path]:
    """Return the caches that are there under the name ``out``, and under that name with a short fingerprint."""
    beside = re.compile(rf"{re.escape(out.stem)}--[0-9a-f]{{8}}{re.escape(out.suffix or SUFFIX)}")
    others = sorted(path for path in out.parent.glob("[!.]*") if beside.fullmatch(path.name))
    return [path for path in (out, *others) if path.exists()]


def _provenance_of(path: Path, force: bool) -> dict[str, Any] | None:
    """Read the provenance of a cache; None if it is damaged and to be replaced by force. Raises CacheError."""
    try:
        with open_cache(path) as file:
            return read_provenance(file)
    except CacheError as error:
        if force and path.is_file():
            return None
        raise CacheError(
            f"{str(error).removesuffix(REMEDY)}Name another file, or make it anew with `cafe extract --force`."
        ) from error


def _use_named_file(extraction: Extraction, out: Path, force: bool) -> Extraction:
    wanted = extraction.provenance()
    existing = _provenance_of(out, force) if out.exists() else None
    if existing is None or force:
        return replace(extraction, path=out, missing="all")
    if existing["image_fingerprint"] != wanted.image_fingerprint:
        _refuse_other_features(out, existing, extraction)
    missing: Literal["text", "nothing"] = "text" if existing["fingerprint"] != wanted.fingerprint else "nothing"
    return _with_differences(replace(extraction, path=out, missing=missing, images_from=out), existing)


def _with_differences(extraction: Extraction, existing: Mapping[str, Any]) -> Extraction:
    """Note what was recorded otherwise in a cache whose image features are used."""
    clauses = differing_fields(existing["recorded"].get("image", {}), extraction.recorded, ending="is here now")
    notes = tuple(f"the cache that is there was made with {clause}" for clause in clauses)
    return replace(extraction, notes=(*extraction.notes, *notes))


def _refuse_other_features(path: Path, existing: Mapping[str, Any], extraction: Extraction) -> NoReturn:
    """Refuse a file named by the user that holds other image features than those asked for.

    Raises
    ------
    CacheError
        Naming data sets and encoders where those differ, else every field that does.
    """
    clauses = differing_fields(existing["image"], extraction.image, "image")
    held = f"{existing['dataset']!r} by {existing['encoder']!r}"
    asked = f"{extraction.dataset.name!r} by {extraction.encoder.id!r}"
    if held == asked:
        reason = f"was made with {'; '.join(clauses)}"
    else:
        fields = [clause.partition(" = ")[0] for clause in clauses]
        more = f" and {len(fields) - _SHOWN} more" if len(fields) > _SHOWN else ""
        reason = f"holds {held}, but {asked} was asked for ({', '.join(fields[:_SHOWN])}{more} differ)"
    raise CacheError(f"cache {path} {reason}. Give another file to --out, or replace this one with --force.")
