"""From what a user names to features in memory: a cache as it is, or a data set, which is extracted where needed."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cafe.cache.extract.copies import look_for_copies
from cafe.cache.format.layout import SUFFIX
from cafe.cache.format.reader import load_features, open_cache, read_provenance, summarise
from cafe.cache.locate import cache_path, caches_by_last_use, find_cache
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


@dataclass(frozen=True)
class Prepared:
    """Features in memory, and how they came there.

    Attributes
    ----------
    features : Features
        Of one data set and one encoder.
    path : Path or None
        The cache; None for features that were given as they are.
    encoder : Encoder or None
        Where one had to be opened to make them.
    summary : ExtractionSummary or None
        Of the extraction, where one was needed.
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
    path: Path | None = None
    encoder: Encoder | None = None
    summary: ExtractionSummary | None = None
    division: str = field(default="")
    dataset: Dataset | None = None
    contents: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


def prepare(
    source: Features | Path | str | None,
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
    source : Features, path, str or None
        A data set: a name of ``cafe datasets``, a folder or file of images (``./digits`` is always a path). A cache:
        its file, or its name in the cache folder. None is the cache last used or made there. Features are returned as
        they are.
    model : str, default=None
        Encoder of a data set; None as :func:`choose_model` has it.
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
        If the source is neither data set nor cache, or an option of data sets is given with a cache.
    """
    folder = cache_folder(cache_dir)
    say: Tell = tell or (lambda _: None)
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
        return Prepared(load_features(path, memmap="auto"), path)
    texts = read_templates(wanted)
    dataset = open_dataset(source, None if root is None else Path(root), split=split)
    ready = _fitting_cache(dataset, model, texts, folder)
    division = described_division(dataset)
    check()
    if division:
        say(division)
    if ready is not None:
        contents, copies = look_for_copies(dataset, ready)
        notes = (*dataset.notes, *copies, *_unreadable_there(ready))
        for note in notes:
            say(f"note: {note}")
        say(f"its features are there already: {ready}")
        note_use(folder, "caches", ready)
        return Prepared(
            load_features(ready, memmap="auto"), ready, division=division, dataset=dataset,
            contents=contents.to_json(), notes=notes,
        )  # fmt: skip
    chosen, why = choose_model(model, dataset.name, folder)
    if hint := hint_for_photographs(chosen, dataset, source):
        say(hint)
    say(f"opening the encoder {chosen}{why}")
    return _extract(dataset, chosen, texts, device, folder, progress, division)


def _extract(
    dataset: Dataset,
    model: str,
    templates: Sequence[str] | None,
    device: str,
    folder: Path,
    progress: ProgressCallback | None,
    division: str,
) -> Prepared:
    from cafe.cache.extract.run import extract
    from cafe.encoders.opening import open_encoder

    encoder = open_encoder(model, device)
    path = cache_path(folder, dataset.name, encoder.id)
    summary = extract(dataset, encoder, path, templates=templates, progress=progress)
    note_use(folder, "caches", summary.path)
    unreadable = [f"image {each['sample_id']!r} was left out: {each['reason']}" for each in summary.unreadable]
    return Prepared(
        load_features(summary.path, memmap="auto"), summary.path, encoder, summary, division, dataset,
        summary.contents, (*unreadable, *summary.notes),
    )  # fmt: skip


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
        texts_fit = templates is None or (list(templates) == text.get("templates") and not text.get("prompts"))
        if is_whole and texts_fit and names == class_names:
            return path
    return None


def _same(recorded: Any, wanted: Any) -> bool:
    return json.dumps(recorded, sort_keys=True) == json.dumps(wanted, sort_keys=True)


def _provenance(path: Path) -> dict[str, Any]:
    with open_cache(path) as file:
        return read_provenance(file)
