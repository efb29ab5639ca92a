"""From what a user names to features in memory: a cache as it is, or a data set, which is extracted where needed."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cafe.cache.extract.copies import look_for_copies
from cafe.cache.format.layout import SUFFIX
from cafe.cache.format.reader import load_features, open_cache, read_provenance, summarise
from cafe.cache.locate import cache_path, caches_by_last_use, find_cache, find_caches
from cafe.classifier.encoder_pair import MOST_ENCODERS, EncoderPair, decoder_of, pair_of
from cafe.data.opening import open_dataset
from cafe.errors import CacheError, InputError
from cafe.features import Features
from cafe.files import cache_dir as cache_folder
from cafe.last_used import note_use
from cafe.prompts import read_templates
from cafe.protocol.partition import shares_of
from cafe.registry import entries

if TYPE_CHECKING:
    from cafe.cache.extract.progress import ExtractionSummary, ProgressCallback
    from cafe.data.base import Dataset
    from cafe.encoders.base import Encoder

MODEL_VARIABLE = "CAFE_MODEL"
MINI = "cafe:mini"
FOR_PHOTOGRAPHS = "openai/clip-vit-base-patch32"

Tell = Callable[[str], None]
FeatureSource = Features | Path | str


@dataclass(frozen=True)
class Prepared:
    """Features in memory, and how they came there.

    Attributes
    ----------
    features : Features
        Of one data set and one encoder, or two.
    paths : tuple of Path
        The cache of each encoder; none for features that were given as they are.
    encoder : Encoder or None
        Where all had to be opened to make them.
    summaries : tuple of ExtractionSummary
        Of the extraction of each, where one was needed.
    division : str
        How cafe divided what had no splits, in a sentence; empty elsewhere.
    dataset : Dataset or None
        Where the images can be opened; None where only a cache, or features, were given.
    contents : dict or None
        What lies in the data set's source, as :meth:`cafe.data.contents.Contents.to_json` gives it; None likewise.
    notes : tuple of str
        What is odd about it: identical images, files that were left out, images that cannot be read.
    """

    features: Features
    paths: tuple[Path, ...] = ()
    encoder: Encoder | None = None
    summaries: tuple[ExtractionSummary, ...] = ()
    division: str = field(default="")
    dataset: Dataset | None = None
    contents: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path | None:
        """The cache, of two the first."""
        return next(iter(self.paths), None)

    @property
    def summary(self) -> ExtractionSummary | None:
        """Of the extraction, where one was needed; of two the first."""
        return next(iter(self.summaries), None)


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
    """Return the features that are meant, after extracting what is not in a cache yet.

    Parameters
    ----------
    source : Features, path, str, list of two of them, or None
        A data set: a name of ``cafe datasets``, a folder or file of images (``./digits`` is always a path). A cache:
        its file, or its name in the cache folder. None is the cache last used or made there. Features are returned as
        they are. Two caches, or features, are those of the same images by two encoders, and are joined.
    model : str, default=None
        Encoder of a data set, or two, ``"A,B"``; None as :func:`choose_model` has it.
    split : str, default=None
        Shares of train, val and test for a folder without splits, such as ``"70/10/20"``; None is 50/20/30.
    templates : str or sequence of str, default=None
        As of :func:`cafe.prompts.read_templates`; None for those of the cache that is there, else the data set's own.
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
        Called once the source is found, before the work on it: refuses what else is wrong with a request.

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
    if isinstance(source, Sequence) and not isinstance(source, str):
        return _prepare_several(source, model=model, split=split, templates=templates, folder=folder, check=check)
    wanted = [templates] if isinstance(templates, str) else templates
    if isinstance(source, Features) or source is None or not names_dataset(source, folder):
        given = {"model": model, "split": split, "templates": wanted}
        for name, value in given.items():
            if value is not None:
                raise InputError(f"{name} is of the extraction of a data set, and there is none here: give a folder")
        if isinstance(source, Features):
            check()
            return Prepared(source)
        path = find_cache(source, folder)
        if source is None:
            say(f"using the cache last used: {path}")
        check()
        note_use(folder, "caches", path)
        return Prepared(load_features(path, memmap="auto"), (path,))
    texts = read_templates(wanted)
    dataset = open_dataset(source, None if root is None else Path(root), split=split)
    names: Sequence[str | None] = [None] if model is None else pair_of(model)
    ready = [_fitting_cache(dataset, name, texts, folder) for name in names]
    division = described_division(dataset)
    check()
    if division:
        say(division)
    if None not in ready:
        there = [path for path in ready if path is not None]
        contents, copies = look_for_copies(dataset, there[0])
        unreadable = [note for path in there for note in _unreadable_there(path)]
        notes = tuple(dict.fromkeys((*dataset.notes, *copies, *unreadable)))
        for note in notes:
            say(f"note: {note}")
        say(f"its features are there already: {' and '.join(map(str, there))}")
        prepared = _load_or_extract(dataset, names, ready, texts, device, folder, progress, division)
        return replace(prepared, contents=contents.to_json(), notes=notes)
    chosen, why = choose_model(model, dataset.name, folder)
    names = pair_of(chosen)
    ready = [_fitting_cache(dataset, name, texts, folder) if len(names) > 1 else None for name in names]
    for name in names:
        if hint := hint_for_photographs(str(name), dataset, source):
            say(hint)
    lacking = [str(name) for name, path in zip(names, ready, strict=True) if path is None]
    if lacking:
        say(f"opening the encoder{'s' if len(lacking) > 1 else ''} {' and '.join(lacking)}{why}")
    return _load_or_extract(dataset, names, ready, texts, device, folder, progress, division)


def _prepare_several(
    sources: Sequence[FeatureSource],
    *,
    model: str | None,
    split: str | None,
    templates: Sequence[str] | str | None,
    folder: Path,
    check: Callable[[], None],
) -> Prepared:
    """Join the features of two encoders: caches, or features in memory.

    Raises
    ------
    InputError
        If there are not two, one is named twice, one is no cache, or they cannot be joined.
    """
    if len(sources) != MOST_ENCODERS:
        raise InputError(f"features are joined of two encoders, from two caches; got {len(sources)}")
    for name, value in {"model": model, "split": split, "templates": templates}.items():
        if value is not None:
            raise InputError(f"{name} is of the extraction of a data set, and there is none here: give a folder")
    named = [source for source in sources if not isinstance(source, Features)]
    paths = find_caches(named, folder)
    check()
    found = iter(paths)
    parts = []
    for source in sources:
        if isinstance(source, Features):
            parts.append(Prepared(source))
        else:
            path = next(found)
            parts.append(Prepared(load_features(path, memmap="auto"), (path,)))
    joined = _joined(parts)
    for path in reversed(joined.paths):
        note_use(folder, "caches", path)
    return joined


def _joined(parts: Sequence[Prepared]) -> Prepared:
    """Put the features of two encoders beside each other, the one with text first; one is left as it is."""
    if len(parts) == 1:
        return parts[0]
    first, second = parts
    if first.features.text_features is None and second.features.text_features is not None:
        first, second = second, first
    features = first.features.join(second.features)
    decoder_of(features.provenance)  # one that cannot be predicted with is refused before it is fitted
    encoder = None if first.encoder is None or second.encoder is None else EncoderPair(first.encoder, second.encoder)
    summaries = (*first.summaries, *second.summaries)
    return Prepared(
        features, (*first.paths, *second.paths), encoder, summaries, first.division, first.dataset,
        first.contents or second.contents, tuple(dict.fromkeys((*first.notes, *second.notes))),
    )  # fmt: skip


def _load_or_extract(
    dataset: Dataset,
    names: Sequence[str | None],
    ready: Sequence[Path | None],
    templates: Sequence[str] | None,
    device: str,
    folder: Path,
    progress: ProgressCallback | None,
    division: str,
) -> Prepared:
    """Return the features of a data set by one encoder or two, of which some are in a cache already."""
    lacking = [str(name) for name, path in zip(names, ready, strict=True) if path is None]
    made: Iterator[tuple[Encoder, ExtractionSummary]] = iter(())
    if lacking:
        from cafe.cache.extract.run import extract_many
        from cafe.encoders.opening import open_encoder

        encoders = [open_encoder(name, device) for name in lacking]
        paths = [cache_path(folder, dataset.name, encoder.id) for encoder in encoders]
        summaries = extract_many(dataset, encoders, paths, templates=templates, progress=progress)
        made = zip(encoders, summaries, strict=True)
    parts = []
    for path in ready:
        if path is not None:
            part = Prepared(load_features(path, memmap="auto"), (path,), division=division, dataset=dataset)
        else:
            encoder, summary = next(made)
            features = load_features(summary.path, memmap="auto")
            unreadable = [f"image {each['sample_id']!r} was left out: {each['reason']}" for each in summary.unreadable]
            part = Prepared(
                features, (summary.path,), encoder, (summary,), division, dataset, summary.contents,
                (*unreadable, *summary.notes),
            )  # fmt: skip
        parts.append(part)
    prepared = _joined(parts)
    for path in reversed(prepared.paths):  # of two, the first is the current one then
        note_use(folder, "caches", path)
    return prepared


def _unreadable_there(path: Path) -> list[str]:
    """Name the images that could not be read when a cache was made."""
    return [f"image {each['sample_id']!r} is not in it: {each['reason']}" for each in _provenance(path)["unreadable"]]


def names_dataset(source: Path | str, folder: Path) -> bool:
    """Whether a name or path means a data set, rather than a cache.

    Names of ``cafe datasets`` win; then whatever lies at the path; then caches in the cache folder, by name.

    Raises
    ------
    InputError
        If it is neither.
    """
    text = os.fspath(source)
    if text in entries("data", "DATASET") or text.startswith("hf:"):
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
    """Return the encoder to extract a data set with, and why, for people.

    Parameters
    ----------
    model : str or None
        As the user named it, which settles it; else the encoder of the cache of that data set that was last used, else
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
    """Say what the embedded model knows and which command takes a real one, to whom it may be news; empty elsewhere."""
    if model != MINI or dataset.name == "digits":
        return ""
    command = shlex.join(["cafe", verb, os.fspath(source), "--model", FOR_PHOTOGRAPHS])
    return (
        f"{MINI}, the encoder that comes with cafe, knows digits and little else; for photographs take a real CLIP:\n"
        f"  {command}"
    )


def described_division(dataset: Dataset) -> str:
    """Say how cafe divided what had no splits of its own; empty elsewhere."""
    shares = shares_of(dataset.split_origin)
    if shares is None or dataset.name in entries("data", "DATASET"):
        return ""
    total = sum(map(len, dataset.splits.values()))
    parts = ", ".join(f"{name} {len(own):,} ({len(own) / total:.0%})" for name, own in dataset.splits.items())
    asked = "/".join(map(str, shares))
    return f"{dataset.name} has no splits, so it was divided {asked}, copies kept together: {parts}"


def _fitting_cache(dataset: Dataset, model: str | None, templates: Sequence[str] | None, folder: Path) -> Path | None:
    """Find a cache that holds all of a data set as it is now: of that model, and with those templates, where given."""
    identity = dataset.identity()
    class_names = list(identity.pop("class_names"))
    for path in caches_by_last_use(folder):
        summary = summarise(path)
        if summary.dataset != dataset.name or (model is not None and summary.encoder != model):
            continue
        provenance = _provenance(path)
        image, text = provenance["image"], provenance["text"] or {}
        there = dict(image.get("dataset") or {})
        # Without a text part the names of the classes stand with the data set.
        names = text.get("class_names", there.pop("class_names", class_names))
        is_whole = _same(there, identity) and "draws" not in image
        same_texts = list(templates or ()) == text.get("templates") and not text.get("prompts")
        texts_fit = templates is None or provenance["text"] is None or same_texts
        if is_whole and texts_fit and names == class_names:
            return path
    return None


def _same(recorded: Any, wanted: Any) -> bool:
    return json.dumps(recorded, sort_keys=True) == json.dumps(wanted, sort_keys=True)


def _provenance(path: Path) -> dict[str, Any]:
    with open_cache(path) as file:
        return read_provenance(file)
