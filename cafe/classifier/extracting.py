"""Gets the features of a source that a user names: a cache is loaded, a data set without a cache is extracted."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cafe.cache.extract.copies import look_for_copies
from cafe.cache.format.layout import SUFFIX
from cafe.cache.format.reader import open_cache, read_features, read_provenance, summarise
from cafe.cache.locate import cache_path, caches_by_last_use, find_cache, find_caches
from cafe.classifier.encoder_pair import MOST_ENCODERS, EncoderPair, decoder_of, pair_of
from cafe.data.opening import open_dataset
from cafe.encoders.opening import MINI
from cafe.errors import CacheError, InputError
from cafe.features import Features
from cafe.files import cache_dir as cache_folder
from cafe.last_used import note_use
from cafe.prompts import read_templates
from cafe.protocol.partition import shares_of
from cafe.registry import knows

if TYPE_CHECKING:
    from cafe.cache.extract.progress import ExtractionSummary, ProgressCallback
    from cafe.data.base import Dataset
    from cafe.encoders.base import Encoder

MODEL_VARIABLE = "CAFE_MODEL"
FOR_PHOTOGRAPHS = "openai/clip-vit-base-patch32"

Tell = Callable[[str], None]
FeatureSource = Features | Path | str


@dataclass(frozen=True)
class Prepared:
    """Features in memory, and where they come from.

    Attributes
    ----------
    features : Features
        Of one data set and one encoder, or two.
    paths : tuple of Path
        The cache of each encoder; empty for features that came in memory.
    encoder : Encoder or None
        The open encoder, or both as a pair, where the extraction opened all of them.
    summaries : tuple of ExtractionSummary
        Of each extraction that was needed.
    division : str
        A sentence about how cafe divided a data set without splits; empty for other sources.
    dataset : Dataset or None
        The data set, which can open the images; None where the user named a cache or features.
    contents : dict or None
        Contents of the data set's source, as of :meth:`cafe.data.contents.Contents.to_json`; None likewise.
    notes : tuple of str
        Sentences about identical images, files that were left out, and images that cannot be read.
    """

    features: Features
    paths: tuple[Path, ...] = ()
    encoder: Encoder | None = None
    summaries: tuple[ExtractionSummary, ...] = ()
    division: str = ""
    dataset: Dataset | None = None
    contents: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


def prepare(
    source: FeatureSource | Sequence[FeatureSource] | None,
    *,
    model: str | None = None,
    split: str | None = None,
    templates: Sequence[str] | str | None = None,
    root: Path | str | None = None,
    device: str = "auto",
    cache_dir: Path | str | None = None,
    progress: ProgressCallback | None = None,
    tell: Tell | None = None,
    check: Callable[[], None] = lambda: None,
) -> Prepared:
    """Return the features of a data set, a cache or two, after extracting those that are in no cache yet.

    Parameters
    ----------
    source : Features, path, str, list of two of them, or None
        A data set: a name of ``cafe datasets``, a folder or file of images (``./digits`` is always a path). A cache:
        its file, or its name in the cache folder. None is the cache last used or made there. Features are returned as
        they are. A list of two caches or Features, of the same images by two encoders, is joined.
    model : str, default=None
        Encoder of a data set, or two, ``"A,B"``; None as :func:`choose_model` has it.
    split : str, default=None
        Shares of train, val and test for a folder without splits, such as ``"70/10/20"``; None is 50/20/30.
    templates : str or sequence of str, default=None
        As of :func:`cafe.prompts.read_templates`; None for those of an existing cache, else the data set's own.
    root : path, default=None
        Folder that holds named data sets; None for ``$CAFE_DATA``.
    device : str, default="auto"
        Where to encode.
    cache_dir : path, default=None
        Folder of caches; None for ``$CAFE_CACHE``, else ``$XDG_CACHE_HOME/cafe``.
    progress : callable, default=None
        Of the extraction, as of :func:`cafe.cache.extract`.
    tell : callable, default=None
        Called with a sentence before each stage that may take long, and with what was chosen.
    check : callable, default: nothing
        Called once the source is found, before it is read: raises where other options of the request are wrong.

    Returns
    -------
    Prepared

    Raises
    ------
    InputError
        If the source is neither data set nor cache, an option of data sets is given with a cache, or features of two
        encoders cannot be joined.
    """
    folder = cache_folder(cache_dir)
    say: Tell = tell or (lambda _: None)
    templates = [templates] if isinstance(templates, str) else templates
    if isinstance(source, str | os.PathLike) and names_dataset(source, folder):
        texts = read_templates(templates)
        dataset = open_dataset(source, None if root is None else Path(root), split=split)
        return _prepare_dataset(source, dataset, model, texts, device, folder, progress, say, check)
    for name, value in {"model": model, "split": split, "templates": templates}.items():
        if value is not None:
            raise InputError(f"{name} is of the extraction of a data set, and there is none here: give a folder")
    if isinstance(source, Features):
        check()
        return Prepared(source)
    if source is not None and not isinstance(source, str | os.PathLike):
        return _prepare_two(source, folder, check)
    path = find_cache(source, folder)
    if source is None:
        say(f"using the cache last used: {path}")
    check()
    note_use(folder, "caches", path)
    return _loaded(path)


def _prepare_dataset(
    source: Path | str,
    dataset: Dataset,
    model: str | None,
    templates: Sequence[str] | None,
    device: str,
    folder: Path,
    progress: ProgressCallback | None,
    say: Tell,
    check: Callable[[], None],
) -> Prepared:
    """Load the caches of a data set, after extracting what is in none; see :func:`prepare`."""
    names: Sequence[str | None] = [None] if model is None else pair_of(model)
    caches = [_matching_cache(dataset, name, templates, folder) for name in names]
    division = described_division(dataset)
    check()
    if division:
        say(division)
    paths = [path for path in caches if path is not None]
    if len(paths) == len(caches):
        contents, copies = look_for_copies(dataset, paths[0])
        unreadable = [note for path in paths for note in _unreadable_in(path)]
        notes = tuple(dict.fromkeys((*dataset.notes, *copies, *unreadable)))
        for note in notes:
            say(f"note: {note}")
        say(f"its features are there already: {' and '.join(map(str, paths))}")
        prepared = _load_or_extract(dataset, names, caches, templates, device, folder, progress, division)
        return replace(prepared, contents=contents.to_json(), notes=notes)
    chosen, why = choose_model(model, dataset.name, folder)
    names = pair_of(chosen)
    caches = [_matching_cache(dataset, name, templates, folder) if len(names) > 1 else None for name in names]
    for name in names:
        if hint := hint_for_photographs(str(name), dataset, source):
            say(hint)
    lacking = [str(name) for name, path in zip(names, caches, strict=True) if path is None]
    if lacking:
        say(f"opening the encoder{'s' if len(lacking) > 1 else ''} {' and '.join(lacking)}{why}")
    return _load_or_extract(dataset, names, caches, templates, device, folder, progress, division)


def _prepare_two(sources: Sequence[FeatureSource], folder: Path, check: Callable[[], None]) -> Prepared:
    """Join the features of two encoders: caches, or features in memory.

    Raises
    ------
    InputError
        If there are not two, one is named twice, one is no cache, or they cannot be joined.
    """
    if len(sources) != MOST_ENCODERS:
        raise InputError(f"features are joined of two encoders, from two caches; got {len(sources)}")
    paths = iter(find_caches([source for source in sources if not isinstance(source, Features)], folder))
    check()
    joined = _joined([Prepared(source) if isinstance(source, Features) else _loaded(next(paths)) for source in sources])
    for path in reversed(joined.paths):
        note_use(folder, "caches", path)
    return joined


def _loaded(path: Path) -> Prepared:
    """Return the features of one cache."""
    return Prepared(read_features(path, memmap="auto"), (path,))


def _joined(parts: Sequence[Prepared]) -> Prepared:
    """Join the features of two encoders, the one with text first; return those of a single one as they are."""
    if len(parts) == 1:
        return parts[0]
    first, second = parts
    if first.features.text_features is None and second.features.text_features is not None:
        first, second = second, first
    features = first.features.join(second.features)
    decoder_of(features.provenance)  # raises where the decoders differ: a fit could not predict
    encoder = None if first.encoder is None or second.encoder is None else EncoderPair(first.encoder, second.encoder)
    summaries = (*first.summaries, *second.summaries)
    return Prepared(
        features, (*first.paths, *second.paths), encoder, summaries, first.division, first.dataset,
        first.contents or second.contents, tuple(dict.fromkeys((*first.notes, *second.notes))),
    )  # fmt: skip


def _load_or_extract(
    dataset: Dataset,
    names: Sequence[str | None],
    caches: Sequence[Path | None],
    templates: Sequence[str] | None,
    device: str,
    folder: Path,
    progress: ProgressCallback | None,
    division: str,
) -> Prepared:
    """Load the features of each encoder from its cache, and extract those of the encoders without one."""
    lacking = [str(name) for name, path in zip(names, caches, strict=True) if path is None]
    extracted: Iterator[tuple[Encoder, ExtractionSummary]] = iter(())
    if lacking:
        from cafe.cache.extract.run import extract_many
        from cafe.encoders.opening import open_encoder

        encoders = [open_encoder(name, device) for name in lacking]
        paths = [cache_path(folder, dataset.name, encoder.id) for encoder in encoders]
        summaries = extract_many(dataset, encoders, paths, templates=templates, progress=progress)
        extracted = zip(encoders, summaries, strict=True)
    parts = []
    for path in caches:
        if path is not None:
            part = replace(_loaded(path), division=division, dataset=dataset)
        else:
            encoder, summary = next(extracted)
            unreadable = [f"image {each['sample_id']!r} was left out: {each['reason']}" for each in summary.unreadable]
            part = replace(
                _loaded(summary.path), encoder=encoder, summaries=(summary,), division=division, dataset=dataset,
                contents=summary.contents, notes=(*unreadable, *summary.notes),
            )  # fmt: skip
        parts.append(part)
    prepared = _joined(parts)
    for path in reversed(prepared.paths):  # so that the first of two becomes the current one
        note_use(folder, "caches", path)
    return prepared


def _unreadable_in(path: Path) -> list[str]:
    """Name the images that could not be read when the cache was made."""
    return [f"image {each['sample_id']!r} is not in it: {each['reason']}" for each in _provenance(path)["unreadable"]]


def names_dataset(source: Path | str, folder: Path) -> bool:
    """Return whether a name or path means a data set, rather than a cache.

    Names of ``cafe datasets`` win; then whatever lies at the path; then caches in the cache folder, by name.

    Raises
    ------
    InputError
        If it is neither.
    """
    text = os.fspath(source)
    if knows("data", "DATASET", text) or text.startswith("hf:"):
        return True
    path = Path(text.partition("?")[0]).expanduser()
    if text and os.path.exists(path):  # noqa: PTH110 (False, where Path raises, for a name that no file can have)
        return not (path.is_file() and path.suffix == SUFFIX)
    try:
        find_cache(text, folder)
    except (CacheError, OSError) as error:
        # A mistyped path gets the message of data sets, which say what they are; a mistyped file that of caches.
        if path.suffix == SUFFIX:
            raise
        open_dataset(text)
        raise InputError(str(error)) from error
    return False


def choose_model(model: str | None, dataset: str, folder: Path) -> tuple[str, str]:
    """Return the name of the encoder to extract a data set with, and the reason as the end of a sentence.

    Parameters
    ----------
    model : str or None
        The encoder that the user named. Without one it is that of the data set's cache last used, else
        ``$CAFE_MODEL``, else ``cafe:mini``.
    dataset : str
        Its name.
    folder : Path
        The folder of all caches.
    """
    if model is not None:
        return model, ""
    for path in caches_by_last_use(folder):
        summary = summarise(path)
        if summary.dataset == dataset and "named_by_user" not in _provenance(path)["image"].get("encoder", {}):
            return summary.encoder, f", as for {path.name}"
    from_environment = os.environ.get(MODEL_VARIABLE)
    return (from_environment, f", as ${MODEL_VARIABLE} says") if from_environment else (MINI, "")


def hint_for_photographs(model: str, dataset: Dataset, source: Path | str, verb: str = "fit") -> str:
    """Return a hint to take a real CLIP, if a data set of photographs gets the embedded model; else an empty text."""
    if model != MINI or dataset.name == "digits":
        return ""
    command = shlex.join(["cafe", verb, os.fspath(source), "--model", FOR_PHOTOGRAPHS])
    return (
        f"{MINI}, the encoder that comes with cafe, knows digits and little else; for photographs take a real CLIP:\n"
        f"  {command}"
    )


def described_division(dataset: Dataset) -> str:
    """Return a sentence about how cafe divided a data set without splits; empty for other data sets."""
    shares = shares_of(dataset.split_origin)
    if shares is None or knows("data", "DATASET", dataset.name):
        return ""
    total = sum(map(len, dataset.splits.values()))
    parts = ", ".join(f"{name} {len(own):,} ({len(own) / total:.0%})" for name, own in dataset.splits.items())
    asked = "/".join(map(str, shares))
    return f"{dataset.name} has no splits, so it was divided {asked}, copies kept together: {parts}"


def _matching_cache(dataset: Dataset, model: str | None, templates: Sequence[str] | None, folder: Path) -> Path | None:
    """Find a cache of the whole data set as it is now, by the model and with the templates if these are given."""
    identity = dataset.identity()
    class_names = list(identity.pop("class_names"))
    for path in caches_by_last_use(folder):
        summary = summarise(path)
        if summary.dataset != dataset.name or (model is not None and summary.encoder != model):
            continue
        provenance = _provenance(path)
        image, text = provenance["image"], provenance["text"] or {}
        recorded = dict(image.get("dataset") or {})
        # Without a text part the class names are in the identity of the data set.
        names = text.get("class_names", recorded.pop("class_names", class_names))
        is_whole = _same(recorded, identity) and "draws" not in image
        same_texts = list(templates or ()) == text.get("templates") and not text.get("prompts")
        texts_fit = templates is None or provenance["text"] is None or same_texts
        if is_whole and texts_fit and names == class_names:
            return path
    return None


def _same(recorded: Any, current: Any) -> bool:
    """Return whether two values are the same as JSON."""
    return json.dumps(recorded, sort_keys=True) == json.dumps(current, sort_keys=True)


def _provenance(path: Path) -> dict[str, Any]:
    """Read the provenance of a cache."""
    with open_cache(path) as file:
        return read_provenance(file)
