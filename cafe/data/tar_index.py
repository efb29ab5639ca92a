"""Finds every sample of a webdataset shard: where its image lies in the tar, and its label."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cafe.data.extensions import EXTENSIONS
from cafe.errors import InputError

_LABEL_FILES = ("cls", "json")
_JSON_KEYS = ("class_name", "classname", "label_name", "label", "cls", "class", "category", "target")


@dataclass
class Sample:
    """One sample of a shard: the members with one name up to the first dot.

    Attributes
    ----------
    key : str
        That name, with its folder within the tar.
    offset, size : int
        Where the bytes of the image lie in the tar; -1 and 0 before it is found.
    label : str
        Class name or number; ``""`` before it is found.
    """

    key: str
    offset: int = -1
    size: int = 0
    label: str = ""


def index_shard(path: Path) -> list[Sample]:
    """Read the headers of one tar; pixels are not read.

    Raises
    ------
    InputError
        If it is compressed, damaged or no tar, or a sample has no image, two, or no label; the message names it.
    """
    samples: dict[str, Sample] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member, key, kind in _members(tar):
                sample = samples.setdefault(key, Sample(key))
                if f".{kind.rpartition('.')[2]}" in EXTENSIONS:
                    if sample.offset >= 0:
                        raise InputError(f"{path}: sample {key!r} has two images; one is needed")
                    sample.offset, sample.size = member.offset_data, member.size
                elif kind in _LABEL_FILES:
                    content = tar.extractfile(member)
                    label = _label(path, key, kind, content.read() if content else b"")
                    # .cls comes first whatever the order of the members.
                    sample.label = label if kind == "cls" else sample.label or label
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(
            f"{path} cannot be read as an uncompressed tar: {error}. A shard is read at random, so unpack .gz first; "
            f"a damaged one has to be fetched again"
        ) from error
    for sample in samples.values():
        if sample.offset < 0:
            raise InputError(f"{path}: sample {sample.key!r} has no image")
        if not sample.label:
            keys = ", ".join(_JSON_KEYS)
            raise InputError(f"{path}: sample {sample.key!r} has no label: neither .cls nor a .json with one of {keys}")
    return list(samples.values())


def _members(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, str, str]]:
    for member in tar:
        tar.members = []  # type: ignore[attr-defined]  # otherwise every header stays in memory
        folder, _, name = member.name.rpartition("/")
        if member.isfile() and not name.startswith(".") and "." in name:
            stem, _, kind = name.partition(".")
            yield member, f"{folder}/{stem}".removeprefix("./").lstrip("/"), kind.lower()


def _label(path: Path, key: str, kind: str, content: bytes) -> str:
    try:
        text = content.decode("utf-8").strip()
        if kind == "cls":
            return text
        record: Any = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path}: the .{kind} of sample {key!r} cannot be read: {error}") from error
    found = [record[name] for name in _JSON_KEYS if name in record] if isinstance(record, dict) else []
    return str(found[0]).strip() if found and isinstance(found[0], (str, int)) else ""
