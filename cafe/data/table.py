"""Tables of image paths and labels, and the folders with such a table that Hugging Face calls imagefolder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cafe.data.base import Dataset, Source
from cafe.data.content_keys import content_keys
from cafe.data.file_sizes import find_sizes
from cafe.data.images import read_image
from cafe.data.labelling import label_rows, read_class_list, split_name
from cafe.data.references import read_options, without_options
from cafe.data.table_rows import COLUMNS, EXTENSIONS, read_table
from cafe.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

SOURCE = "table"

_UNTOLD = frozenset({"metadata", "labels", "data", "index", "train", "test", "val"})  # names that say nothing
Row = tuple[Path, int, str, str, str]  # table, line, path as written, label, split


class Table(Source):
    """A CSV, TSV or JSON Lines table with a path and a label column, or a folder with a metadata table.

    Paths are relative to the table's folder. A column ``split`` gives the splits; in a folder, so do the names of
    the tables (``train.csv``, ``test.csv``) or of the folders that hold them (``train/metadata.jsonl``); what has no
    splits is divided by hash. Labels are class names, or numbers of the lines of a ``classnames.txt`` beside.
    """

    def __init__(self, path: Path, tables: Sequence[tuple[str, Path]], chosen: dict[str, str], lenient: bool) -> None:
        """Read the tables, each with the split that its name says (``""`` if none)."""
        folder = path if path.is_dir() else path.parent
        found: list[Row] = []
        for split, table in tables:
            found += [
                (table, line, image, label, split or own) for line, image, label, own in read_table(table, chosen)
            ]
        if any(row[4] for row in found) and not all(row[4] for row in found):
            raise InputError(f"{path}: some tables give splits and some do not")
        self._root, ids = _relative(folder.absolute(), found)
        _refuse_twice(ids, found)
        sizes = find_sizes(self._root, ids, path, lenient=lenient)
        labelled = label_rows(
            path,
            [row[3] for row in found],
            [row[4] for row in found],
            lambda: content_keys(self._root, [(one, sizes[one]) for one in ids]),
            read_class_list(folder),
        )
        stem = (path if path.is_dir() else path.with_suffix("")).absolute().name
        self.name = folder.absolute().name if stem.lower() in _UNTOLD else stem
        self.class_names = labelled.class_names
        self.splits = labelled.image_splits(ids, [sizes[one] for one in ids])
        self.split_origin = labelled.split_origin
        self.notes = labelled.notes

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether it is a table, or a folder with tables of the usual names."""
        path = without_options(path)
        return (path.suffix.lower() in EXTENSIONS and path.is_file()) or (path.is_dir() and bool(_tables_in(path)))

    @classmethod
    def open(cls, path: Path, *, lenient: bool = False) -> Dataset:
        """Read the table, and find the size of every image that it names.

        Raises
        ------
        InputError
            If there is no table, a column, value or (unless ``lenient``) an image is missing, an image is named
            twice, or the classes do not make a data set.
        """
        chosen = read_options(path, list(COLUMNS))
        path = without_options(path)
        if path.is_file():
            return cls(path, [("", path)], chosen, lenient)
        tables = _tables_in(path) if path.is_dir() else []
        if not tables:
            raise InputError(f"{path}: there is no table; give a {', '.join(EXTENSIONS)} file, or a folder with one")
        return cls(path, tables, chosen, lenient)

    def image(self, split: str, index: int) -> Image.Image:
        """Return one image as RGB; see :mod:`cafe.data.images`."""
        sample_id = self.splits[split].sample_ids[index]
        return read_image(self._root / sample_id, sample_id)


def _tables_in(folder: Path) -> list[tuple[str, Path]]:
    """Find metadata tables, or tables named after splits, in a folder or in its split folders."""
    own = [table for stem in ("metadata",) for table in _with_stem(folder, stem)]
    if own:
        return [("", table) for table in own[:1]]
    tables = []
    for name in sorted(os.listdir(folder)):  # noqa: PTH208 (names only)
        split = split_name(Path(name).stem)
        if split and (folder / name).is_file() and Path(name).suffix.lower() in EXTENSIONS:
            tables.append((split, folder / name))
        elif split and (folder / name).is_dir():
            tables += [(split, table) for table in _with_stem(folder / name, "metadata")[:1]]
    return tables


def _with_stem(folder: Path, stem: str) -> list[Path]:
    paths = (folder / f"{stem}{extension}" for extension in EXTENSIONS)
    return [path for path in paths if path.is_file()]


def _relative(folder: Path, found: Sequence[Row]) -> tuple[Path, list[str]]:
    """Make ids that do not change when everything moves: relative to the folder, or to what all paths share."""
    paths = []
    for table, line, image, _, _ in found:
        if "://" in image:
            raise InputError(f"{table}, line {line}: {image!r} is an address; cafe reads files and downloads nothing")
        paths.append(os.path.normpath(os.path.join(table.parent.absolute(), image)))  # noqa: PTH118 (100,000 rows)
    prefix = f"{os.path.normpath(folder)}{os.sep}"
    if not all(path.startswith(prefix) for path in paths):
        prefix = f"{os.path.commonpath([os.path.dirname(path) for path in paths]).rstrip(os.sep)}{os.sep}"  # noqa: PTH120
    return Path(prefix), [path[len(prefix) :].replace(os.sep, "/") for path in paths]


def _refuse_twice(ids: Sequence[str], found: Sequence[Row]) -> None:
    first: dict[str, int] = {}
    for number, one in enumerate(ids):
        if first.setdefault(one, number) != number:
            table, line, image, _, _ = found[number]
            earlier = found[first[one]]
            raise InputError(f"{table}, line {line}: {image!r} stands in {earlier[0].name}, line {earlier[1]}, already")
