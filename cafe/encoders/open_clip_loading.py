"""Reads an open_clip checkpoint: a name and a tag, a repository of the hub, or a local folder."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cafe.errors import InputError, MissingDependencyError, unknown_name

_SCHEMAS = ("local-dir:", "hf-hub:")


@dataclass(frozen=True)
class OpenCLIPCheckpoint:
    """The parts of a checkpoint as open_clip loads them.

    Attributes
    ----------
    model : torch.nn.Module
        In float32, on the CPU, in evaluation mode.
    tokenizer : callable
        Texts to token ids (n, context).
    config : dict
        The model's configuration, with the QuickGELU that its weights were trained with.
    revision : str or None
        Commit of the hub's repository; None for a folder.
    """

    model: Any
    tokenizer: Any
    config: dict[str, Any]
    revision: str | None


def load_open_clip(source: str) -> OpenCLIPCheckpoint:
    """Load model and tokenizer.

    Parameters
    ----------
    source : str
        ``"RN50/openai"``, a model and a tag of open_clip's list; ``"hf-hub:owner/name"``; or ``"local-dir:PATH"``, a
        folder with ``open_clip_config.json`` and the weights.

    Returns
    -------
    OpenCLIPCheckpoint

    Raises
    ------
    InputError
        If it is not there, is not complete, or names no weights.
    MissingDependencyError
        If open_clip is not installed.
    """
    library = import_open_clip()
    if source.startswith(_SCHEMAS):
        name, tag, fixed = source, None, {}
        config, revision = _schema_config(library, source)
    else:
        name, tag = _name_and_tag(library, source)
        # The tag knows with which activation its weights were trained; the model's name is not asked.
        listed = library.get_pretrained_cfg(name, tag)
        fixed = {"quick_gelu": bool(listed.get("quick_gelu", False))}
        config = {**library.get_model_config(name), **fixed}
        revision = _commit(_quietly(lambda: library.download_pretrained(listed), source))
    model = _quietly(lambda: library.create_model(name, pretrained=tag, require_pretrained=True, **fixed), source)
    tokenizer = _quietly(lambda: library.get_tokenizer(name), source)
    return OpenCLIPCheckpoint(model.eval().requires_grad_(False), tokenizer, config, revision)


def import_open_clip() -> Any:
    """Import the library, or say how to get it.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    InputError
        If it is, but does not work with the torch that is installed.
    """
    try:
        import open_clip
    except ModuleNotFoundError as error:
        raise MissingDependencyError("open_clip_torch", "open-clip", "a model of open_clip") from error
    # A torchvision that was built for another torch fails with whatever type the first missing symbol suggests.
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise InputError(
            f"open_clip is installed but cannot be imported ({_first_line(error)}); "
            f"install a torchvision that belongs to the installed torch"
        ) from error
    return open_clip


def _name_and_tag(library: Any, source: str) -> tuple[str, str]:
    name, _, tag = source.rpartition("/")
    name = name.replace("/", "-")  # ViT-B/32, as the paper writes it
    if not name and tag in library.list_models():
        name, tag = tag, ""
    if name not in library.list_models():
        raise InputError(
            f"{unknown_name('model of open_clip', name or tag, library.list_models())}; it is given as MODEL/TAG, "
            f"such as open_clip:RN50/openai, or as open_clip:local-dir:PATH or open_clip:hf-hub:owner/name"
        )
    if not library.get_pretrained_cfg(name, tag):
        raise unknown_name(f"tag of open_clip:{name}", tag, library.list_pretrained_tags_by_model(name))
    return name, tag


def _schema_config(library: Any, source: str) -> tuple[dict[str, Any], str | None]:
    schema, _, rest = source.partition(":")
    if schema == "local-dir":
        path, revision = Path(rest) / "open_clip_config.json", None
        if not path.is_file():
            raise InputError(f"{rest} is no folder of open_clip: it has no open_clip_config.json")
    else:
        from huggingface_hub import hf_hub_download

        path = Path(_quietly(lambda: hf_hub_download(rest, "open_clip_config.json"), source))
        revision = _commit(str(path))
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["model_cfg"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no configuration of open_clip: {_first_line(error)}") from error
    return config, revision


def _quietly(load: Any, source: str) -> Any:
    with _silence():
        try:
            return load()
        # Foreign files make the library raise nearly anything; the cause stays attached.
        except Exception as error:
            raise InputError(f"open_clip cannot load {source}: {_first_line(error)}") from error


@contextmanager
def _silence() -> Iterator[None]:
    """Silence the library's log, which goes to the root logger, and its warnings; what matters is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _commit(path: str) -> str | None:
    # The hub cache keeps every commit's files in a folder of its own: .../snapshots/<commit>/...
    commit = re.search(r"/snapshots/([0-9a-f]{40})/", Path(path).as_posix())
    return commit[1] if commit else None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
