"""The parts of a checkpoint in the hub's layout as transformers loads them, for pairs of towers and single ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cafe.encoders.towers.refusals import check_preprocessing, why_refused
from cafe.errors import InputError

BACKEND = "pil"  # of the image processor; named, since other backends make other pixels

_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def load_config(source: str) -> Any:
    """Load the configuration of a folder or hub id.

    Raises
    ------
    InputError
        If it is not there, is of a type that the library does not know, or asks for code of its own.
    """
    from transformers import AutoConfig

    folder = Path(source)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise InputError(f"{source} is not a CLIP checkpoint: it has no config.json")
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    # Foreign files make the library raise nearly anything; the cause stays attached.
    except Exception as error:
        if folder.is_dir():
            raise InputError(f"{source} is not a CLIP checkpoint: {why_refused(error)}") from error
        raise _not_on_hub(source, error) from error


def is_image_tower_alone(source: str) -> bool:
    """Whether a folder or hub id holds a model of images alone, as DINOv2's, by its configuration.

    Raises
    ------
    InputError
        As :func:`load_config`.
    """
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    with quiet():
        config = load_config(source)
        known: Any = MODEL_MAPPING  # the library does not annotate it
        model_class = known.get(type(config), None)
    if isinstance(model_class, tuple):  # several, of one configuration
        model_class = model_class[0]
    takes_images = getattr(model_class, "main_input_name", None) == "pixel_values"
    return takes_images and not hasattr(model_class, "get_text_features")


def _not_on_hub(source: str, error: Exception) -> InputError:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return InputError(
            f"model {source!r} is neither a folder nor in the local hub cache, and HF_HUB_OFFLINE forbids "
            f"downloading it; fetch it once with network access (hf download {source}), or give a folder"
        )
    return InputError(f"model {source!r} is neither a folder nor to be had from the hub: {why_refused(error)}")


def load_processor(source: str, pin: dict[str, str], *, other_backends: bool = False) -> Any:
    """Load the image processor.

    Parameters
    ----------
    source : str
        Folder or hub id.
    pin : dict
        ``{"revision": commit}``, or empty for a folder.
    other_backends : bool, default False
        Whether one may come that does not run on Pillow, since the library has no other for this kind of model.

    Raises
    ------
    InputError
        If there is none, it asks for code of its own, or it runs on another backend alone.
    """
    # By its full name: up to 5.17 at least, the short one demands torchvision, whatever the backend.
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    try:
        loader: Any = AutoImageProcessor  # the library does not annotate it
        processor = loader.from_pretrained(source, backend=BACKEND, trust_remote_code=False, **pin)
    except Exception as error:
        if not any(has_file(source, name, pin) for name in _PROCESSOR_FILES):
            raise InputError(
                f"{source} has no image processor: it lacks {_PROCESSOR_FILES[0]}, the pixels that the model takes"
            ) from error
        raise InputError(f"the image processor of {source} cannot be loaded: {why_refused(error)}") from error
    # The library falls back to whatever is installed; other pixels must not come in unnoticed.
    backend = getattr(processor, "backend", None)
    if backend != BACKEND and not other_backends:
        raise InputError(f"the image processor of {source} runs on {backend!r} only; {BACKEND!r} is needed here")
    check_preprocessing(source, processor)
    return processor


def has_file(source: str, name: str, pin: dict[str, str]) -> bool:
    """Whether a folder or repository has a file of that name."""
    return file_of(source, name, pin) is not None


def file_of(source: str, name: str, pin: dict[str, str]) -> Path | None:
    """Return a file of a folder or repository; None where it has none of that name."""
    from transformers.utils.hub import cached_file

    path = cached_file(
        source,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **pin,
    )
    return None if path is None else Path(path)


def revision_of(source: str) -> str | None:
    """Return the commit that a hub id was resolved to; None for a folder."""
    from transformers.utils.hub import cached_file

    if Path(source).is_dir():
        return None
    return commit_of(cached_file(source, "config.json") or "")


def commit_of(path: str) -> str | None:
    """Return the commit that a file of the hub cache belongs to; None for a file elsewhere."""
    # The hub cache keeps every commit's files in a folder of its own: .../snapshots/<commit>/...
    commit = re.search(r"/snapshots/([0-9a-f]{40})/", Path(path).as_posix())
    return commit[1] if commit else None


def pin_of(source: str) -> dict[str, str]:
    """Return what makes all files come from the commit that the configuration came from; empty for a folder."""
    revision = revision_of(source)
    return {} if revision is None else {"revision": revision}


def load_model(source: str, pin: dict[str, str]) -> tuple[Any, frozenset[str]]:
    """Load a model in the dtype that it was saved in, on the CPU, in evaluation mode.

    Returns
    -------
    model : torch.nn.Module
        Without gradients.
    missing : frozenset of str
        Weights that the files lack: the library fills them with random numbers and goes on.

    Raises
    ------
    InputError
        If it cannot be loaded.
    """
    from transformers import AutoModel

    try:
        model, info = AutoModel.from_pretrained(
            source, dtype="auto", output_loading_info=True, trust_remote_code=False, **pin
        )
    except Exception as error:
        raise InputError(f"the weights of {source} cannot be loaded: {why_refused(error)}") from error
    return model.eval().requires_grad_(False), frozenset(info["missing_keys"])


def check_complete(source: str, missing: Iterable[str]) -> None:
    """Refuse a model that lacks weights which features need. Raises InputError, which names the first."""
    if names := sorted(missing):
        raise InputError(f"{source} lacks {len(names)} of the model's weights, such as {names[0]!r}")


def settings_of(config: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return those settings of a configuration that it has."""
    return {name: getattr(config, name) for name in names if getattr(config, name, None) is not None}


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the library's bars and advice while loading; what matters is raised."""
    from transformers.utils import logging

    log: Any = logging  # the library does not annotate it
    bars, verbosity = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar()
    log.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
