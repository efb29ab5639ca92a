"""Opens an encoder by name, folder or hub id, and lists the models worth knowing."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from cafe.compute import choose_device
from cafe.encoders.base import Encoder, KnownModel, model_tables, read_known_models
from cafe.errors import CafeError, InputError, unknown_name
from cafe.foreign import read_json
from cafe.mini import MODEL_FOLDER
from cafe.registry import entries, find, knows

MINI = "cafe:mini"
DEFAULT_LIBRARY = "transformers"
IMAGES_ALONE = "vision"
_MINI_MODEL = KnownModel(
    "cafe:mini",
    "a small CLIP trained by this project on images it drew itself; comes with it",
    "digits and shapes, and trying things out",
    1.3,
    128,
    32,
    "MIT",
    "embedded",
)


def open_encoder(
    model: str = MINI, device: str = "auto", dtype: str = "auto", *, preferred_dtype: str | None = None
) -> Encoder:
    """Open a frozen CLIP, or a frozen model of images alone.

    Parameters
    ----------
    model : str, default "cafe:mini"
        ``"cafe:mini"``, a local folder in the hub's layout, or a hub id such as
        ``"openai/clip-vit-base-patch32"`` or ``"facebook/dinov2-base"``. A leading library name and a colon choose
        another loader: ``"open_clip:RN50/openai"``, ``"open_clip:local-dir:PATH"``; or the engine of the image tower:
        ``"onnx:MODEL"``, ``"onnx-int8:MODEL"``.
    device : str, default "auto"
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
    dtype : str, default "auto"
        ``"auto"`` (bfloat16 on CUDA, and on a CPU where the tower's products are measured a third faster in it; else
        float32), ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    preferred_dtype : str, default=None
        What ``"auto"`` takes in place of a measurement: the dtype of features that are there.

    Returns
    -------
    Encoder

    Raises
    ------
    InputError
        If the model is unknown, not a CLIP or not to be had, or the device or dtype cannot be had.
    """
    library, source = _library_and_source(os.fspath(model))
    choose_device(device)  # a wrong one is said before anything is read
    encoder: Encoder | None = None
    if library is None:
        from cafe.encoders.standalone.encoder import open_standalone

        encoder = open_standalone(source, device, dtype, os.fspath(model), preferred_dtype=preferred_dtype)
    if encoder is None:
        library = library or (
            IMAGES_ALONE if os.fspath(model) != MINI and _is_image_tower_alone(source) else DEFAULT_LIBRARY
        )
        wanted = preferred_dtype if dtype == "auto" and preferred_dtype is not None else dtype
        encoder = (
            find("encoders", "ENCODER", "library", library)
            .load()
            .open(source, device, wanted, model_id=os.fspath(model))
        )
    assert encoder is not None, "an encoder, or an exception"
    if dtype == "auto":
        encoder.reopen = partial(open_encoder, model, encoder.device)
    return encoder


def _library_and_source(model: str) -> tuple[str | None, str]:
    """Split what a user gave into the library, None where no library was named, and what that library takes.

    Raises
    ------
    InputError
        If it is no name that a model can have, or ``cafe:mini`` has not been trained.
    """
    folder = Path(model).expanduser()
    if model == MINI:
        if not (MODEL_FOLDER / "config.json").is_file():
            raise InputError(
                f"{MINI} has not been trained here: {MODEL_FOLDER} holds no model; "
                f"make it with: python -m cafe.mini.train --out {MODEL_FOLDER}"
            )
        return None, str(MODEL_FOLDER)
    if model and folder.exists():
        if not folder.is_dir():
            raise InputError(f"{model} is a file; give the folder that holds config.json and the weights")
        return None, str(folder)
    prefix, colon, name = model.partition(":")
    if colon and knows("encoders", "ENCODER", prefix):
        return prefix, name
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model) or model.startswith("."):
        raise _unknown_model(model)
    return None, model


def _is_image_tower_alone(source: str) -> bool:
    # A folder whose configuration names a text tower needs no look by the library, whose import takes seconds.
    with suppress(CafeError, OSError):
        config = read_json(Path(source) / "config.json")
        if isinstance(config, dict) and config.get("text_config"):
            return False
    from cafe.encoders.towers.checkpoints import is_image_tower_alone

    return is_image_tower_alone(source)


def known_models() -> list[dict[str, Any]]:
    """List models worth knowing, without importing torch.

    Returns
    -------
    list of dict
        Each with ``name``, ``kind``: ``"embedded"``, ``"hub"`` (downloaded on first use) or ``"folder"`` (a local
        folder), and the other fields of :class:`~cafe.encoders.base.KnownModel`. The hub ids are examples, those that
        each library's file names; any CLIP of the hub works, any model of images alone, and any of open_clip.

    Examples
    --------
    >>> known_models()[0]["name"]
    'cafe:mini'
    """
    libraries = entries("encoders", "ENCODER")
    listed: list[tuple[str, KnownModel]] = [
        item
        for library in sorted(libraries, key=lambda library: (library != DEFAULT_LIBRARY, library))
        for item in libraries[library].load().known_models.items()
    ]
    folder = KnownModel(
        "any",
        "any local folder with a model in the hub's layout: config.json, weights, preprocessor, a CLIP's tokenizer",
        "what it was trained for",
        kind="folder",
    )
    return [{"name": name, **asdict(model)} for name, model in [(MINI, _MINI_MODEL), *listed, ("PATH", folder)]]


def known_model(name: str) -> KnownModel | None:
    """Return one of :func:`known_models` by its name; None for another name.

    No library's file is imported for a model of the tables, as it is for a list of all.

    Examples
    --------
    >>> known_model("facebook/metaclip-b32-400m").licence, known_model("my/own")
    ('CC-BY-NC-4.0', None)
    """
    if name == MINI:
        return _MINI_MODEL
    for library in model_tables():
        if (model := read_known_models(library).get(name)) is not None:
            return model
    models = (entry.load().known_models.get(name) for entry in entries("encoders", "ENCODER").values())
    return next(filter(None, models), None)


def _unknown_model(given: str) -> InputError:
    if given.startswith((".", "~", "/")) or os.sep in given:
        return InputError(f"no such model folder: {given!r}; give a folder, {MINI}, or a hub id such as owner/name")
    names = [row["name"] for row in known_models() if row["kind"] != "folder"]
    return InputError(f"{unknown_name('model', given, names)}; or any local folder or hub id of a CLIP")
