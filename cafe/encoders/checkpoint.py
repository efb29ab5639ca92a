"""Reads a CLIP checkpoint, a folder or a hub id, with transformers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cafe.errors import InputError

BACKEND = "pil"  # of the image processor; named, since other backends make other pixels
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
_NEEDED = ("get_image_features", "get_text_features")
_SCALES = ("logit_scale", "temperature")  # one of them


@dataclass(frozen=True)
class Checkpoint:
    """The parts of a checkpoint as transformers loads them.

    Attributes
    ----------
    model : torch.nn.Module
        In the dtype that it was saved in, on the CPU, in evaluation mode.
    tokenizer, processor : object
        Transformers' tokenizer and image processor.
    revision : str or None
        Commit of the hub's repository; None for a folder.
    """

    model: Any
    tokenizer: Any
    processor: Any
    revision: str | None


def load_checkpoint(source: str) -> Checkpoint:
    """Load model, tokenizer and image processor.

    Parameters
    ----------
    source : str
        A folder in the hub's layout, or a hub id. With ``HF_HUB_OFFLINE=1`` a hub id is only looked up
        in the local hub cache.

    Returns
    -------
    Checkpoint

    Raises
    ------
    InputError
        If it is not there, is not a CLIP, or lacks weights, tokenizer or image processor.
    """
    with _quiet():
        config = _load_config(source)
        revision = _revision(source)
        # All files come from the one commit that the configuration came from.
        pin = {} if revision is None else {"revision": revision}
        model = _load_model(source, config, pin)
        checkpoint = Checkpoint(model, _load_tokenizer(source, pin), _load_processor(source, pin), revision)
    _check_vocabulary(source, checkpoint)
    return checkpoint


def _load_config(source: str) -> Any:
    from transformers import AutoConfig

    folder = Path(source)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise InputError(f"{source} is not a CLIP checkpoint: it has no config.json")
    try:
        return AutoConfig.from_pretrained(source)
    # Foreign files make the library raise nearly anything; the cause stays attached.
    except Exception as error:
        if folder.is_dir():
            raise InputError(f"{source} is not a CLIP checkpoint: {_first_line(error)}") from error
        raise _not_on_hub(source, error) from error


def _not_on_hub(source: str, error: Exception) -> InputError:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return InputError(
            f"model {source!r} is neither a folder nor in the local hub cache, and HF_HUB_OFFLINE forbids "
            f"downloading it; fetch it once with network access (hf download {source}), or give a folder"
        )
    return InputError(f"model {source!r} is neither a folder nor to be had from the hub: {_first_line(error)}")


def _load_model(source: str, config: Any, pin: dict[str, str]) -> Any:
    from transformers import AutoModel

    try:
        model, info = AutoModel.from_pretrained(source, dtype="auto", output_loading_info=True, **pin)
    except Exception as error:
        raise InputError(f"the weights of {source} cannot be loaded: {_first_line(error)}") from error
    if not all(hasattr(model, name) for name in _NEEDED) or not any(hasattr(model, name) for name in _SCALES):
        raise InputError(
            f"{source} is not a CLIP: a model of type {config.model_type!r} has no image and text features"
        )
    # The library fills what a file lacks with random numbers and goes on.
    if missing := sorted(info["missing_keys"]):
        raise InputError(f"{source} lacks {len(missing)} of the model's weights, such as {missing[0]!r}")
    return model.eval().requires_grad_(False)


def _load_tokenizer(source: str, pin: dict[str, str]) -> Any:
    from transformers import AutoTokenizer

    # Without files the library makes up an empty tokenizer for some models.
    if not any(_has_file(source, name, pin) for name in _TOKENIZER_FILES):
        raise InputError(f"{source} has no tokenizer; one of these files is needed: {', '.join(_TOKENIZER_FILES)}")
    try:
        return AutoTokenizer.from_pretrained(source, **pin)
    except Exception as error:
        raise InputError(f"the tokenizer of {source} cannot be loaded: {_first_line(error)}") from error


def _load_processor(source: str, pin: dict[str, str]) -> Any:
    # By its full name: up to 5.17 at least, the short one demands torchvision, whatever the backend.
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    try:
        loader: Any = AutoImageProcessor  # the library does not annotate it
        processor = loader.from_pretrained(source, backend=BACKEND, **pin)
    except Exception as error:
        raise InputError(f"the image processor of {source} cannot be loaded: {_first_line(error)}") from error
    # The library falls back to whatever is installed; other pixels must not come in unnoticed.
    if processor.backend != BACKEND:
        raise InputError(
            f"the image processor of {source} runs on {processor.backend!r} only; {BACKEND!r} is needed here"
        )
    return processor


def _check_vocabulary(source: str, checkpoint: Checkpoint) -> None:
    text = checkpoint.model.config.text_config
    tokenizer = checkpoint.tokenizer
    if len(tokenizer) > text.vocab_size:
        raise InputError(
            f"the tokenizer of {source} has {len(tokenizer)} tokens but its text tower knows {text.vocab_size}; "
            f"they do not belong together"
        )
    # CLIP's text feature is read at the end token (2 marks old checkpoints, where it is the highest token); were
    # it never found, every prompt would give the same feature.
    if text.model_type == "clip_text_model" and text.eos_token_id not in (2, tokenizer.eos_token_id):
        raise InputError(
            f"{source} ends prompts with token {tokenizer.eos_token_id} but its text tower reads token "
            f"{text.eos_token_id}; set eos_token_id of text_config in config.json"
        )


def _has_file(source: str, name: str, pin: dict[str, str]) -> bool:
    from transformers.utils.hub import cached_file

    found = cached_file(
        source,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **pin,
    )
    return found is not None


def _revision(source: str) -> str | None:
    from transformers.utils.hub import cached_file

    if Path(source).is_dir():
        return None
    path = Path(cached_file(source, "config.json") or "").as_posix()
    # The hub cache keeps every commit's files in a folder of its own: .../snapshots/<commit>/config.json
    commit = re.search(r"/snapshots/([0-9a-f]{40})/", path)
    return commit.group(1) if commit else None


@contextmanager
def _quiet() -> Iterator[None]:
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


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
