"""Webdataset shards on the local disk."""

from __future__ import annotations

import glob
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cafe.data.base import Dataset, EncodedImages, Source
from cafe.data.images.content_keys import content_keys
from cafe.data.images.decoding import MAX_FILE_BYTES
from cafe.data.images.examples import example_picture, write_tar
from cafe.data.images.files import IMAGE_EXTENSIONS, natural_order
from cafe.data.images.other_formats import HEIC_EXTENSIONS
from cafe.data.layouts.labelling import label_rows, read_class_list, split_name
from cafe.errors import CafeError, InputError, UnreadableImageError
from cafe.foreign import check_regular, parse_json, read_text, reason_of
from cafe.prompts import GENERIC_TEMPLATE

SOURCE = "webdataset"

_LABEL_FILES = ("cls", "json")
_JSON_KEYS = ("class_name", "classname", "label_name", "label", "cls", "class", "category", "target")
MAX_LABEL_BYTES = 2**20  # of a .cls or .json
MAX_SHARDS = 100_000  # that a pattern names
_TEMPLATES = "zeroshot_classification_templates.txt"  # as CLIP_benchmark writes it


class WebDataset(EncodedImages, Source):
    """Webdataset shards: a folder of tars, one tar, or a pattern such as 'train-{000..009}.tar'.

    A sample is an image with a ``.cls`` or ``.json`` of the same name. Splits are the folders that hold the tars
    (``train/0.tar``, as CLIP_benchmark has them) or begin their names (``train-000.tar``); tars without either are
    divided by hash. ``classnames.txt`` beside them names numbered classes. Nothing is unpacked: an image is read
    from its place in the tar.
    """

    def __init__(self, folder: Path, name: str, shards: list[Path]) -> None:
        """Index the shards."""
        self._root, self.name = folder.absolute(), name
        self._shards = [os.path.relpath(shard, folder) for shard in shards]
        ids, labels, splits, places, sizes = [], [], [], [], []
        for number, shard in enumerate(shards):
            stem = Path(self._shards[number]).with_suffix("").as_posix()
            for sample in index_shard(shard):
                ids.append(f"{stem}/{sample.key}")
                labels.append(sample.label)
                splits.append(_split_of(shard, folder))
                places.append((number, sample.offset))
                sizes.append(sample.size)
        if len(set(splits)) > 1 and "" in splits:
            raise InputError(f"{folder}: some tars belong to a split by their name or folder and some do not")
        self._places = dict(zip(ids, places, strict=True))
        size_of = dict(zip(ids, sizes, strict=True))
        labelled = label_rows(
            folder,
            labels,
            splits,
            lambda: content_keys(
                folder, list(size_of.items()), lambda sample_id: self._read(sample_id, size_of[sample_id])
            ),
            read_class_list(folder),
        )
        self.class_names, self.split_origin = labelled.class_names, labelled.split_origin
        self.splits, self.notes = labelled.image_splits(ids, sizes), labelled.notes
        self.templates = _templates(folder)

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Return whether the path is a tar, a pattern of tars, or a folder with tars or with split folders of tars."""
        return bool(_shards_of(path)[1])

    @classmethod
    def open(cls, path: Path, *, lenient: bool = False) -> Dataset:
        """Index the shards; ``lenient`` changes nothing, since no list names images.

        Raises
        ------
        InputError
            If there are no tars, one is damaged or compressed, a sample is incomplete, or the classes do not make a
            data set.
        """
        folder, shards = _shards_of(path)
        if not shards:
            raise InputError(f"{path}: there are no tars; give a folder of tars, one tar, or 'train-{{000..009}}.tar'")
        missing = [shard for shard in shards if not shard.is_file()]
        if missing:
            raise InputError(f"{path} names {len(missing)} shards that are not there, the first: {missing[0]}")
        name = path.absolute().name if path.is_dir() else re.split(r"[-_.{*?\[]", path.name)[0]
        dataset_name = name if name and not split_name(name) else folder.absolute().name
        return cls(folder, dataset_name or "webdataset", shards)

    @classmethod
    def write_example(cls, folder: Path) -> Path:
        """Write ``train/0.tar`` and ``test/0.tar`` with six images each, and ``classnames.txt``; see the base class."""
        for number, split in enumerate(("train", "test")):
            members = {}
            for n in range(6):
                members[f"s{n:07d}.png"] = example_picture(10 * number + n)
                members[f"s{n:07d}.cls"] = str(n % 2).encode()
            write_tar(folder / split / "0.tar", members)
        (folder / "classnames.txt").write_text("cat\nhot dog\n", encoding="utf-8")
        return folder

    def content(self, split: str, index: int) -> bytes:
        """Return the bytes of one image, read from its place in the tar."""
        part = self.splits[split]
        sample_id = part.sample_ids[index]
        content = self._read(sample_id, int(part.sizes[index]))
        if content is None:
            shard = self._shards[self._places[sample_id][0]]
            raise UnreadableImageError(sample_id, f"the shard {shard} cannot be read there")
        return content

    def _read(self, sample_id: str, size: int) -> bytes | None:
        """Return the bytes of an image from its place in a shard, None if the shard no longer has them."""
        number, offset = self._places[sample_id]
        try:
            with (self._root / self._shards[number]).open("rb") as file:
                file.seek(offset)
                content = file.read(size)
        except OSError:
            return None
        return content if len(content) == size else None


def _shards_of(path: Path) -> tuple[Path, list[Path]]:
    """Return the folder and its shards, in natural order."""
    if path.is_dir():
        below = [folder for folder in sorted(path.iterdir()) if split_name(folder.name) and folder.is_dir()]
        shards = [tar for folder in (path, *below) for tar in folder.glob("*.tar")]
        return path, sorted(shards, key=lambda tar: natural_order(os.fspath(tar)))
    if path.suffix.lower() != ".tar":
        return path.parent, []
    if path.is_file():
        return path.parent, [path]
    shards = []
    for name in _expand_pattern(os.fspath(path)):
        # A name without * stays in the list even if no file has it, so that the error names it.
        shards += [Path(match) for match in sorted(glob.glob(name))] if "*" in name else [Path(name)]  # noqa: PTH207
    if shards in ([], [path]):
        return path.parent, []
    return Path(os.path.commonpath([shard.parent for shard in shards])), shards


def _expand_pattern(pattern: str) -> list[str]:
    """Expand ``{000..009}`` and ``{a,b}`` as a shell would."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if not match:
        return [pattern]
    if _count_names(pattern) > MAX_SHARDS:
        raise InputError(f"the pattern {pattern[:80]!r} names more than {MAX_SHARDS:,} shards")
    span = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if span:
        width = len(span[1])
        middle = [str(number).zfill(width) for number in range(int(span[1]), int(span[2]) + 1)]
    else:
        middle = match[1].split(",")
    return [
        name for text in middle for name in _expand_pattern(pattern[: match.start()] + text + pattern[match.end() :])
    ]


def _count_names(pattern: str) -> int:
    """Return how many names a pattern expands to, without expanding it."""
    count = 1
    for braces in re.findall(r"\{([^{}]*)\}", pattern):
        span = re.fullmatch(r"(\d{1,12})\.\.(\d{1,12})", braces)
        if span is None and re.fullmatch(r"\d+\.\.\d+", braces):
            return MAX_SHARDS + 1  # a number of so many digits is above any limit
        count *= max(0, int(span[2]) - int(span[1]) + 1) if span else braces.count(",") + 1
    return count


def _split_of(shard: Path, folder: Path) -> str:
    """Return the split that a shard's folder or name says, or an empty text."""
    parent = shard.parent.name if shard.parent != folder else ""
    return split_name(parent) or split_name(re.split(r"[-_.\d]", shard.name)[0]) or ""


def _templates(folder: Path) -> tuple[str, ...]:
    """Return the templates that CLIP_benchmark wrote beside the shards, else the generic one."""
    path = folder / _TEMPLATES
    if not path.is_file():
        return (GENERIC_TEMPLATE,)
    lines = read_text(path).splitlines()
    return tuple(line.strip() for line in lines if "{c}" in line or "{}" in line) or (GENERIC_TEMPLATE,)


@dataclass
class ShardSample:
    """One sample of a shard: the members with one name up to the first dot.

    Attributes
    ----------
    key : str
        That name, with its folder within the tar.
    offset, size : int
        Place and number of the image's bytes in the tar; -1 and 0 until the image is found.
    label : str
        Class name or number; ``""`` until it is found.
    """

    key: str
    offset: int = -1
    size: int = 0
    label: str = ""


def index_shard(path: Path) -> list[ShardSample]:
    """Read the headers of one tar; pixels are not read.

    Raises
    ------
    InputError
        If the file is compressed, damaged or no tar, or a sample has no image, two, or no label (the message says).
    """
    samples: dict[str, ShardSample] = {}
    length = check_regular(path, "tar")
    try:
        with tarfile.open(path, "r:") as tar:
            for member, key, kind in _members(tar):
                sample = samples.setdefault(key, ShardSample(key))
                if f".{kind.rpartition('.')[2]}" in IMAGE_EXTENSIONS | HEIC_EXTENSIONS:
                    if sample.offset >= 0:
                        raise InputError(f"{path}: sample {key!r} has two images; one is needed")
                    if member.sparse is not None or member.offset_data + member.size > length:
                        raise InputError(
                            f"{path}: the image of sample {key!r} is not whole in the tar: it is stored with holes, or "
                            f"the tar ends before it"
                        )
                    if member.size > MAX_FILE_BYTES:
                        raise InputError(f"{path}: the image of sample {key!r} has {member.size:,} bytes: no image")
                    sample.offset, sample.size = member.offset_data, member.size
                elif kind in _LABEL_FILES:
                    if member.size > MAX_LABEL_BYTES:
                        raise InputError(
                            f"{path}: the .{kind} of sample {key!r} has {member.size:,} bytes; no label is longer than "
                            f"{MAX_LABEL_BYTES:,}"
                        )
                    content = tar.extractfile(member)
                    label = _label(path, key, kind, content.read() if content else b"")
                    # .cls comes first whatever the order of the members.
                    sample.label = label if kind == "cls" else sample.label or label
    except CafeError:
        raise
    except Exception as error:  # a damaged header makes the library raise nearly anything
        raise InputError(
            f"{path} cannot be read as an uncompressed tar: {reason_of(error)}. A shard is read at random, so unpack "
            f".gz first; a damaged one has to be fetched again"
        ) from error
    for sample in samples.values():
        if sample.offset < 0:
            raise InputError(f"{path}: sample {sample.key!r} has no image")
        if not sample.label:
            keys = ", ".join(_JSON_KEYS)
            raise InputError(f"{path}: sample {sample.key!r} has no label: neither .cls nor a .json with one of {keys}")
    return list(samples.values())


def _members(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, str, str]]:
    """Return each file in a tar, with the key of its sample and its extension."""
    for member in tar:
        tar.members = []  # type: ignore[attr-defined]  # otherwise every header stays in memory
        folder, _, name = member.name.rpartition("/")
        if member.isfile() and not name.startswith(".") and "." in name:
            stem, _, kind = name.partition(".")
            yield member, f"{folder}/{stem}".removeprefix("./").lstrip("/"), kind.lower()


def _label(path: Path, key: str, kind: str, content: bytes) -> str:
    """Read the label in a .cls or .json file."""
    try:
        text = content.decode("utf-8").strip()
        if kind == "cls":
            return text
    except ValueError as error:
        raise InputError(f"{path}: the .{kind} of sample {key!r} cannot be read: {error}") from error
    record: Any = parse_json(text, f"{path}: the .{kind} of sample {key!r}")
    values = [record[name] for name in _JSON_KEYS if name in record] if isinstance(record, dict) else []
    return str(values[0]).strip() if values and isinstance(values[0], (str, int)) else ""
