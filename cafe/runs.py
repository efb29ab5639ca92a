"""Saves, loads, finds and lists runs. A run is a fitted method on disk: safetensors and JSON, nothing pickled.

A run folder holds ``model.safetensors`` (every fitted array), ``run.json`` (method, parameters, fitted scalars, class
names, encoder, thresholds, row), ``README.md`` (a model card), ``report.html``, and is readable without cafe. Since run
version 2 ``run.json`` ends with ``sha256``: a checksum of every array (of its dtype, shape and bytes) under ``arrays``,
and one over the document with these under ``document``, so that one flipped bit anywhere is an error and never another
prediction. ``local.json`` says where images and cache are on this machine, and is not shared with the run.

Runs and reports without a folder of their own are in ``runs`` below the cache folder, and can be named by their path
below that.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import CafeError, InputError
from cafe.features import Features
from cafe.files import remove_leftovers, replacing_together, write_safetensors
from cafe.foreign import check_regular, read_json, reading
from cafe.last_used import by_last_use, used_elsewhere
from cafe.methods.inference.fitted import FittedMethod
from cafe.methods.inference.scores import SCORES
from cafe.names import file_name
from cafe.registry import find, knows, name_of_class
from cafe.version import __version__

RUN_FILE = "run.json"
ARRAY_FILE = "model.safetensors"
RUN_VERSION = 2  # 1 had no checksums
FITTED_IMAGES = "fitted_images"  # SHA-256 of image files, where these are known
PROMISES, SCORING_FIT = "promises", "scoring_fit"  # promises of new images, and the fit that they are made with
RUNS = "runs"  # below the cache folder
REPORT_FILE = "report.html"
CARD_FILE = "README.md"  # the model card
LOCAL_FILE = "local.json"  # where images and cache are on this machine; not shared with the run
_OWN_FILES = (RUN_FILE, ARRAY_FILE, REPORT_FILE, CARD_FILE, LOCAL_FILE)  # all files of a run
CHECKSUMS = "sha256"  # key of run.json
_SHOWN = 8  # names of runs that a message lists
_FITTED = re.compile(r"[a-zA-Z]\w*_")  # names of attributes that may be set on a method that is read
_MODEL_PARAMETER = "text_tower"  # the parameter of a method that names a model


def save(
    estimator: Any,
    run_dir: Path | str,
    *,
    row: dict[str, Any] | None = None,
    features: Features | None = None,
    fitted_images: Iterable[bytes] = (),
    promises: Mapping[str, Any] | None = None,
    scoring_fit: Any = None,
) -> None:
    """Write a fitted method to a folder.

    Parameters
    ----------
    estimator : fitted classifier
        Any method.
    run_dir : path
        Folder; made if it is not there. Files of an earlier run in it are replaced.
    row : dict, default=None
        The row of the fit, saved as it is.
    features : Features, default=None
        Class names, encoder and provenance are saved from it, so that the run can classify new images.
    fitted_images : iterable of bytes, default=()
        SHA-256 of the image files that it was fitted on, so that later tests leave these out.
    promises : mapping, default=None
        Numbers and arrays of the promises of new images; ``run_["promises"]`` of the loaded method.
    scoring_fit : fitted classifier, default=None
        Another fit of the same method, for the promises; ``run_["scoring_fit"]`` of the loaded method.

    Raises
    ------
    InputError
        If it is no method of cafe, a parameter is an object that JSON cannot hold, such as an open text tower, or
        ``run_dir`` cannot be a folder. Nothing is written then.
    """
    method = name_of_class("methods", "METHOD", type(estimator).__name__)
    if method is None:
        raise InputError(f"{type(estimator).__name__} is not a method of cafe/methods, so it cannot be saved")
    arrays: dict[str, NDArray[Any]] = {}
    document = {
        **_method_document(method, estimator, arrays),
        "row": row,
        **({} if features is None else _features_document(features)),
    }
    if images := sorted(fitted_images):
        arrays[FITTED_IMAGES] = np.frombuffer(b"".join(images), dtype=np.uint8).reshape(-1, 32)
        document[FITTED_IMAGES] = {"array": FITTED_IMAGES}
    if promises is not None:
        document[PROMISES] = {key: _pack(value, f"{PROMISES}.{key}", arrays) for key, value in promises.items()}
    if scoring_fit is not None:
        document[SCORING_FIT] = _state(scoring_fit, f"{SCORING_FIT}.", arrays)
        if isinstance(document[SCORING_FIT]["params"].get(_MODEL_PARAMETER), str):
            document[SCORING_FIT]["params"][_MODEL_PARAMETER] = document["params"][_MODEL_PARAMETER]
    stored = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    # The checksum is that of the document as it is read: a tuple is a list then.
    document = json.loads(json.dumps(document, default=_json_default))
    document[CHECKSUMS] = {"arrays": {key: _array_sha256(array) for key, array in stored.items()}}
    document[CHECKSUMS]["document"] = _document_sha256(document)
    # The JSON marks a whole run: it is never beside the arrays of another run.
    with replacing_together(Path(run_dir), (ARRAY_FILE, RUN_FILE), mark=RUN_FILE) as paths:
        write_safetensors(paths[ARRAY_FILE], stored)
        paths[RUN_FILE].write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _method_document(method: str, estimator: Any, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Return what ``run.json`` says of the method: versions, name, parameters, fitted attributes.

    Arrays are added to ``arrays``. A parameter that JSON cannot hold raises InputError.
    """
    state = _state(estimator, "", arrays)
    _check_parameters(method, estimator.get_params(deep=False), state["params"])
    model = state["params"].get(_MODEL_PARAMETER)
    if isinstance(model, str):
        state["params"][_MODEL_PARAMETER] = absolute_model(model)
    return {"run_version": RUN_VERSION, "cafe_version": __version__, "method": method, **state}


def _features_document(features: Features) -> dict[str, Any]:
    """Return what ``run.json`` says of the features: class names, encoder or both encoders, provenance."""
    encoder = features.provenance.get("encoder")
    document: dict[str, Any] = {
        "class_names": list(features.class_names),
        "encoder": absolute_model(encoder) if isinstance(encoder, str) else encoder,
    }
    if joined := features.provenance.get("joined"):
        document["encoders"] = [absolute_model(str(part.get("encoder", ""))) for part in joined]
        document["encoder"] = "+".join(document["encoders"])
    document["provenance"] = dict(features.provenance)
    return document


def load(run_dir: Path | str) -> Any:
    """Read a fitted method; it predicts exactly what it did when it was saved.

    Parameters
    ----------
    run_dir : path
        Folder that :func:`save` wrote.

    Returns
    -------
    fitted classifier
        With ``run_`` added: the contents of ``run.json``, with the array ``fitted_images``, (n, 32) uint8, in place of
        its name where it was saved.

    Raises
    ------
    InputError
        If the folder is not there or not a run, was written by a newer cafe, or is damaged: the message names the file,
        and the array where it is one.
    """
    return _load(run_dir, in_numpy=False)


def load_to_predict(run_dir: Path | str) -> Any:
    """Read a fitted method to predict with NumPy alone, where its scores are a few products of arrays.

    Parameters
    ----------
    run_dir : path
        Folder that :func:`save` wrote.

    Returns
    -------
    FittedMethod or fitted classifier
        With ``run_`` as of :func:`load`; the classifier where NumPy is not enough to predict, or the run has no
        checksums (version 1).

    Raises
    ------
    InputError
        As :func:`load`.
    """
    return _load(run_dir, in_numpy=True)


def _load(run_dir: Path | str, *, in_numpy: bool) -> Any:
    """Read a fitted method; ``in_numpy`` asks for one that predicts with NumPy alone, where that is possible."""
    from safetensors.numpy import load_file

    document = read_run(run_dir)
    path = Path(run_dir) / ARRAY_FILE
    check_regular(path)
    with reading(path, "the arrays of a run"):
        arrays = load_file(path)
    if CHECKSUMS in document:
        _check_arrays(path, arrays, document[CHECKSUMS]["arrays"])
    path = Path(run_dir) / RUN_FILE
    in_numpy = in_numpy and CHECKSUMS in document and document["method"] in SCORES
    estimator = _restored(document, document, arrays, path, in_numpy=in_numpy)
    tower = getattr(estimator, _MODEL_PARAMETER, None)
    if isinstance(tower, str):
        setattr(estimator, _MODEL_PARAMETER, model_beside(tower, Path(run_dir)))
    if CHECKSUMS not in document:
        _check_by_predicting(estimator, Path(run_dir) / RUN_FILE)
    if FITTED_IMAGES in document:
        document[FITTED_IMAGES] = _unpack(document[FITTED_IMAGES], arrays)
    if SCORING_FIT in document and PROMISES in document:
        with reading(path, "what a run promises"):
            document[PROMISES] = {key: _unpack(value, arrays) for key, value in document[PROMISES].items()}
        document[SCORING_FIT] = _restored(document, document[SCORING_FIT], arrays, path, in_numpy=in_numpy)
    estimator.run_ = document
    return estimator


def _state(estimator: Any, prefix: str, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Return parameters and fitted attributes as JSON; arrays go into ``arrays``, under keys with the prefix."""
    fitted = {name: value for name, value in vars(estimator).items() if name.endswith("_") and name[0] != "_"}
    return {
        "params": {k: _pack(v, f"{prefix}params.{k}", arrays) for k, v in estimator.get_params(deep=False).items()},
        "fitted": {k: _pack(v, f"{prefix}fitted.{k}", arrays) for k, v in fitted.items()},
    }


def state_sha256(estimator: Any) -> str:
    """Hash a fitted method: its class, its parameters and its fitted attributes.

    A method that :func:`load` read has the checksum of its run, if the run holds a checksum.

    Examples
    --------
    >>> from cafe.methods.zero_shot import ZeroShot
    >>> a, b, again = (ZeroShot(np.eye(2), logit_scale=scale).fit(np.eye(2), [0, 1]) for scale in (1.0, 2.0, 1.0))
    >>> state_sha256(a) == state_sha256(again), state_sha256(a) == state_sha256(b)
    (True, False)
    """
    sums = getattr(estimator, "run_", {}).get(CHECKSUMS)
    if sums is not None:
        checksum: str = sums["document"]
        return checksum
    arrays: dict[str, NDArray[Any]] = {}
    bare = copy(estimator)
    vars(bare).pop("run_", None)
    state = {"class": type(estimator).__name__, **_state(bare, "", arrays)}
    state["arrays"] = {key: _array_sha256(array) for key, array in arrays.items()}
    return hashlib.sha256(json.dumps(state, default=_json_default).encode()).hexdigest()


def _restored(
    document: dict[str, Any], state: dict[str, Any], arrays: dict[str, NDArray[Any]], path: Path, *, in_numpy: bool
) -> Any:
    """Return the classifier of a saved state, or a :class:`FittedMethod` that predicts like it in NumPy alone."""
    entry = find("methods", "METHOD", "method", str(document["method"]))
    with reading(path, "a run of this method"):
        parameters = {name: _unpack(value, arrays) for name, value in state["params"].items()}
        fitted = {name: _unpack(value, arrays) for name, value in state["fitted"].items()}
        if invalid := next((name for name in fitted if not _FITTED.fullmatch(name)), None):
            raise InputError(f"{path} is damaged: no method has an attribute {invalid!r} to be set")
        if in_numpy:

            def make_estimator() -> Any:
                estimator = _restored(document, state, arrays, path, in_numpy=False)
                estimator.run_ = document
                return estimator

            return FittedMethod(entry.name, entry.class_name, parameters, fitted, make_estimator)
        estimator = entry.load()(**parameters)
        for name, value in fitted.items():
            setattr(estimator, name, value)
    return estimator


def _check_by_predicting(estimator: Any, path: Path) -> None:
    """Predict one row with a run of version 1, which has no checksums. Raises InputError where arrays are missing."""
    with reading(path, "a run of this method"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one row of zeros is no batch to learn anything from
        estimator.predict_proba(np.zeros((1, int(estimator.n_features_in_)), dtype=np.float32))


def read_run(run_dir: Path | str) -> dict[str, Any]:
    """Return the contents of ``run.json``. Raises InputError as :func:`load`."""
    path = Path(run_dir) / RUN_FILE
    if not path.is_file():
        raise InputError(f"{Path(run_dir)} is not a run folder: it has no {RUN_FILE}; `cafe fit --out DIR` makes one")
    try:
        document = read_json(path)
    except CafeError as error:
        raise InputError(f"{path} is not a run of cafe, or is damaged: {error}") from error
    version = document.get("run_version") if isinstance(document, dict) else None
    if not isinstance(version, int) or version < 1:
        raise InputError(f"{path} is not a run of cafe, or is damaged: it has no run_version")
    if version > RUN_VERSION:
        raise InputError(f"{path} has run version {version}; this cafe {__version__} reads up to {RUN_VERSION}")
    run: dict[str, Any] = document
    if version > 1 or CHECKSUMS in run:
        _check_document(path, run)
    if not all(isinstance(run.get(key), dict) for key in ("params", "fitted")) or "method" not in run:
        raise InputError(f"{path} is not a run of cafe, or is damaged: it lacks method, params or fitted")
    if isinstance(run.get("encoder"), str):
        run["encoder"] = model_beside(run["encoder"], Path(run_dir))
    if isinstance(run.get("encoders"), list):
        run["encoders"] = [model_beside(str(name), Path(run_dir)) for name in run["encoders"]]
        run["encoder"] = "+".join(run["encoders"])
    return run


def _check_document(path: Path, document: dict[str, Any]) -> None:
    """Raise InputError if a ``run.json`` does not match its own checksum."""
    sums = document.get(CHECKSUMS)
    if not isinstance(sums, dict) or not isinstance(sums.get("arrays"), dict):
        raise InputError(f"{path} is damaged: it has lost its checksums")
    if sums.get("document") != _document_sha256(document):
        raise InputError(f"{path} is damaged, or was changed by hand: its contents do not match its checksum")


def _check_arrays(path: Path, arrays: dict[str, NDArray[Any]], sums: dict[str, Any]) -> None:
    """Raise InputError if an array is missing, or does not match its checksum."""
    if unmatched := sorted(arrays.keys() ^ sums.keys()):
        raise InputError(f"{path} is damaged: array {unmatched[0]!r} is in it or in {RUN_FILE}, but not in both")
    for key, array in arrays.items():
        if _array_sha256(array) != sums[key]:
            raise InputError(f"{path} is damaged: array {key!r} does not match its checksum in {RUN_FILE}")


def _array_sha256(array: NDArray[Any]) -> str:
    """Hash an array's dtype, shape and bytes."""
    head = f"{array.dtype.str} {array.shape}\n".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def _document_sha256(document: dict[str, Any]) -> str:
    """Hash the contents of ``run.json`` without its own checksum; spaces and line breaks do not count."""
    sums = {key: value for key, value in document[CHECKSUMS].items() if key != "document"}
    return hashlib.sha256(json.dumps({**document, CHECKSUMS: sums}).encode()).hexdigest()


def absolute_model(model: str) -> str:
    """Return the name of a model with a folder in it as an absolute path; any other name as it is.

    Parameters
    ----------
    model : str
        As :func:`cafe.encoders.opening.open_encoder` takes it.

    Examples
    --------
    >>> absolute_model("onnx:cafe:mini"), absolute_model("openai/clip-vit-base-patch32")
    ('onnx:cafe:mini', 'openai/clip-vit-base-patch32')
    """
    prefix, folder = _split_model_name(model)
    return f"{prefix}{folder.expanduser().absolute()}" if folder.expanduser().is_dir() else model


def model_beside(model: str, run_dir: Path) -> str:
    """Return a model's name; a folder that no longer exists is looked for beside the run and above it.

    Parameters
    ----------
    model : str
        The name in the run.
    run_dir : Path
        The run.

    Returns
    -------
    str
        With the folder's new path, if there is one: the same relative path, or a folder of the same name.
    """
    prefix, folder = _split_model_name(model)
    if folder.expanduser().is_dir() or (":" in model and not prefix):
        return model
    relative = Path(folder.name) if folder.is_absolute() else folder
    run_dir = run_dir.absolute()
    for parent in (run_dir, *run_dir.parents[:3]):
        if any((parent / relative / name).is_file() for name in ("config.json", "open_clip_config.json")):
            return f"{prefix}{parent / relative}"
    return model


def _split_model_name(model: str) -> tuple[str, Path]:
    """Split the name of a model into the names of loaders, each with its colon, and the folder behind them."""
    loader, colon, name = model.partition(":")
    if not colon or not (loader == "local-dir" or knows("encoders", "ENCODER", loader)):
        return "", Path(model)
    others, folder = _split_model_name(name)
    return f"{loader}:{others}", folder


def find_run(run: Path | str | None, cache_dir: Path) -> Path:
    """Find a run by its folder or name, or the one last used.

    Parameters
    ----------
    run : path, str or None
        A folder; or the name of a run below ``<cache-dir>/runs``, such as ``demo/fit``; None for the one last used or
        made.
    cache_dir : Path
        The cache folder, as of :func:`cafe.files.cache_dir`.

    Returns
    -------
    Path
        The folder if it is a run, else the run of that name, else the folder.

    Raises
    ------
    InputError
        If neither exists; the message names the existing runs, nearest first.
    """
    if run is None:
        current = current_run(cache_dir)
        if current is None:
            raise InputError(f"there is no run in {cache_dir / RUNS} yet; make one with: cafe fit FOLDER")
        return current
    folder, below = Path(run).expanduser(), cache_dir / RUNS
    for candidate in (folder, below / run):
        if (candidate / RUN_FILE).is_file():
            return candidate
    if folder.is_dir():
        return folder  # reading it says what it lacks
    names = run_names(cache_dir)
    near = get_close_matches(str(run), names, n=_SHOWN, cutoff=0.6)
    ordered = list(dict.fromkeys([*near, *names]))
    more = f", and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    known = (
        f"runs there are: {', '.join(ordered[:_SHOWN])}{more}" if names else "there is none yet; `cafe fit` makes one"
    )
    raise InputError(f"there is no run {str(run)!r}, neither as a folder nor in {below}; {known}")


def run_names(cache_dir: Path) -> list[str]:
    """Name the runs below ``<cache-dir>/runs``, newest first.

    Parameters
    ----------
    cache_dir : Path
        The cache folder; it need not exist.

    Returns
    -------
    list of str
        Up to two levels deep, since the run of `cafe demo` lies within its report: ``demo/fit``.
    """
    below = cache_dir / RUNS
    files = [path for pattern in (f"*/{RUN_FILE}", f"*/*/{RUN_FILE}") for path in below.glob(pattern)]
    files.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent.relative_to(below).as_posix() for path in files]


@dataclass(frozen=True)
class RunSummary:
    """One line of ``cafe runs ls``.

    Attributes
    ----------
    path : Path
        Its folder.
    name : str
        The name that ``--run`` takes: its path below ``<cache-dir>/runs``, or its folder elsewhere.
    bytes : int
        Size of its files.
    damaged : str or None
        What is wrong with it; the fields below are empty then.
    method, dataset, encoder, made : str
        As recorded; ``made`` is the time of its file, UTC, ISO 8601.
    n_classes : int
        0 where it names no classes.
    acc1 : float or None
        Accuracy of its row; None where it was not tested.
    """

    path: Path
    name: str
    bytes: int
    damaged: str | None = None
    method: str = ""
    dataset: str = ""
    encoder: str = ""
    made: str = ""
    n_classes: int = 0
    acc1: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON values."""
        return {**asdict(self), "path": str(self.path)}


def list_runs(cache_dir: Path) -> list[RunSummary]:
    """List the runs of a cache folder, the one last used or made first, so that the first is the current one.

    Parameters
    ----------
    cache_dir : Path
        The cache folder; it need not exist.

    Returns
    -------
    list of RunSummary
        Those below ``<cache-dir>/runs``, and those elsewhere that were made or used with this cache folder; damaged
        ones last, each saying what is wrong.
    """
    inside = [cache_dir / RUNS / name for name in run_names(cache_dir)]
    outside = [path for path in used_elsewhere(cache_dir, "runs") if (path / RUN_FILE).is_file()]
    summaries = [summarise_run(path, cache_dir) for path in by_last_use(cache_dir, "runs", [*inside, *outside])]
    return sorted(summaries, key=lambda summary: summary.damaged is not None)


def current_run(cache_dir: Path) -> Path | None:
    """Return the run last used or made with this cache folder; None if there is none that can be read."""
    summaries = list_runs(cache_dir)
    return summaries[0].path if summaries and summaries[0].damaged is None else None


def summarise_run(folder: Path, cache_dir: Path) -> RunSummary:
    """Summarise a run without reading its arrays; ``damaged`` holds the reason if the run cannot be read."""
    below = cache_dir / RUNS
    name = folder.relative_to(below).as_posix() if below in folder.parents else str(folder)
    files = [folder / file for file in _OWN_FILES]
    size = sum(file.stat().st_size for file in files if file.is_file())
    try:
        document = read_run(folder)
        row = document.get("row") or {}
        return RunSummary(
            folder,
            name,
            size,
            method=" ".join(filter(None, [document["method"], row.get("variant")])),
            dataset=str(row.get("dataset") or (document.get("provenance") or {}).get("dataset") or ""),
            encoder=str(document.get("encoder") or ""),
            made=datetime.fromtimestamp((folder / RUN_FILE).stat().st_mtime, UTC).isoformat(timespec="seconds"),
            n_classes=len(document.get("class_names") or ()),
            acc1=row.get("acc1"),
        )
    except (InputError, OSError, KeyError, TypeError, AttributeError) as error:
        return RunSummary(folder, name, size, damaged=str(error))


def check_run(folder: Path) -> None:
    """Raise InputError for a folder that is no run."""
    if not (folder / RUN_FILE).is_file():
        raise InputError(f"{folder} is not a run folder: it has no {RUN_FILE}; nothing was removed")


def remove_run(folder: Path) -> list[Path]:
    """Remove the files of a run, and its folder if nothing else is in it.

    Parameters
    ----------
    folder : Path
        The folder of the run.

    Returns
    -------
    list of Path
        Other files in the folder, which stay.

    Raises
    ------
    InputError
        If it is no run; nothing is removed then.
    """
    check_run(folder)
    for name in _OWN_FILES:  # run.json first: without it, the folder is no run any more
        (folder / name).unlink(missing_ok=True)
    remove_leftovers(folder)
    others = sorted(folder.iterdir())
    if not others:
        folder.rmdir()
    return others


def new_run_folder(cache_dir: Path, row: dict[str, Any]) -> Path:
    """Name a new folder below ``<cache-dir>/runs`` after a fit.

    Parameters
    ----------
    cache_dir : Path
        The cache folder.
    row : dict
        The row of the fit.

    Returns
    -------
    Path
        A folder that does not exist yet, with a number behind its name where a run of this name exists.

    Examples
    --------
    >>> row = {"dataset": "digits", "encoder": "cafe:mini", "method": "clip-adapter", "variant": "image"}
    >>> new_run_folder(Path("caches"), {**row, "shots": 16, "seed": 1, "n_train": 160}).as_posix()
    'caches/runs/digits-cafe-mini-clip-adapter-image-16-shot-seed-1'
    """
    parts = [row["dataset"], row["encoder"], row["method"]]
    if row["n_train"] > 0:
        parts += [row["variant"], "all" if row["shots"] is None else f"{row['shots']}-shot", f"seed-{row['seed']}"]
    return _new_folder(cache_dir, parts)


def new_report_folder(cache_dir: Path, suite: str, features: Sequence[Features]) -> Path:
    """Name a new folder below ``<cache-dir>/runs`` after a comparison and its caches.

    Parameters
    ----------
    cache_dir : Path
        The cache folder.
    suite : str
        Name of the suite.
    features : sequence of Features
        The features that it ran on.

    Returns
    -------
    Path
        A folder that does not exist yet, with a number behind its name where a report of this name exists.
    """
    names = [part.provenance[key] for part in features for key in ("dataset", "encoder")]
    # The names of many data sets would be longer than a file system takes.
    return _new_folder(cache_dir, ["compare", suite, *(names if len(features) <= 2 else [f"{len(features)}-caches"])])


def _new_folder(cache_dir: Path, parts: Sequence[str | None]) -> Path:
    """Return a folder that does not exist yet, named after the parts, with a number where the name is taken."""
    slugs = [file_name(part) for part in parts if part is not None]
    name = file_name("-".join(slug for slug in slugs if slug))
    first = cache_dir / RUNS / name
    return next(
        folder
        for number in count(1)
        if not (folder := first if number == 1 else first.with_name(f"{name}-{number}")).exists()
    )


def _pack(value: Any, key: str, arrays: dict[str, NDArray[Any]]) -> Any:
    """Return a value as JSON, with its arrays moved into ``arrays``; arrays of strings stay in JSON."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "US":
            return {"strings": value.tolist()}
        if value.dtype.kind == "O":
            return {"objects": value.tolist()}
        arrays[key] = value
        return {"array": key}
    if isinstance(value, dict):
        return {"mapping": {k: _pack(v, f"{key}.{k}", arrays) for k, v in value.items()}}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)) and value and not isinstance(value[0], (int, float, str)):
        return _pack(np.asarray(value), key, arrays)
    return value


def _check_parameters(method: str, parameters: dict[str, Any], packed: dict[str, Any]) -> None:
    """Raise InputError for a parameter that JSON cannot hold, such as an open text tower."""
    for name, value in packed.items():
        try:
            json.dumps(value, default=_json_default)
        except TypeError as error:
            raise InputError(
                f"parameter {name} of {method} is a {type(parameters[name]).__name__}, which a run folder cannot hold; "
                f"before saving, set_params({name}=...) to a string, number, list or array: for a model, its id or "
                "its folder as a string"
            ) from error


def _unpack(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    """Return the value that :func:`_pack` wrote as JSON."""
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    if "strings" in value:
        return np.array(value["strings"])
    if "objects" in value:
        return np.array(value["objects"], dtype=object)
    return {k: _unpack(v, arrays) for k, v in value["mapping"].items()}


def _json_default(value: Any) -> Any:
    """Return a NumPy number or array as JSON's own types, as ``default`` of :func:`json.dumps`."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written to JSON")
