"""Tables of image paths and labels, and the folders with such a table that Hugging Face calls imagefolder."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cafe.data.base import Dataset, Source, read_options, without_options
from cafe.data.images.content_keys import content_keys
from cafe.data.images.decoding import read_content, read_image
from cafe.data.images.examples import write_pictures
from cafe.data.images.files import find_sizes
from cafe.data.layouts.labelling import label_rows, read_class_list, split_name
from cafe.errors import CafeError, InputError
from cafe.foreign import MAX_TEXT_BYTES, check_regular, parse_json, reason_of

if TYPE_CHECKING:
    from PIL import Image

SOURCE = "table"

EXTENSIONS = (".csv", ".tsv", ".jsonl", ".ndjson")
# The first that is there counts; case does not matter.
COLUMNS = {
    "path": ("file_name", "filename", "file", "path", "filepath", "file_path", "image_path", "impath", "image", "img"),
    "label": ("class_name", "classname", "label_name", "label", "class", "category", "target"),
    "split": ("split", "subset", "partition", "set"),
}
_REQUIRED = ("path", "label")
_UNTOLD = frozenset({"metadata", "labels", "data", "index", "train", "test", "val"})  # names that say nothing
Row = tuple[Path, int, str, str, str]  # table, line, path as written, label, split


class Table(Source):
    """A CSV, TSV or JSON Lines table with a path and a label column, or a folder with a metadata table.

    Paths are relative to the table's folder, or to the one that ``labels.csv?images=DIR`` names, and lead to nowhere
    outside of it. A column ``split`` gives the splits; in a folder, so do the names of
    the tables (``train.csv``, ``test.csv``) or of the folders that hold them (``train/metadata.jsonl``); what has no
    splits is divided by hash. Labels are class names, or numbers of the lines of a ``classnames.txt`` beside.
    """

    def __init__(self, path: Path, tables: Sequence[tuple[str, Path]], chosen: dict[str, str], lenient: bool) -> None:
        """Read the tables, each with the split that its name says (``""`` if none)."""
        images = Path(chosen["images"]).expanduser() if "images" in chosen else None
        folder = path if path.is_dir() else path.parent
        found: list[Row] = []
        for split, table in tables:
            found += [
                (table, line, image, label, split or own) for line, image, label, own in read_table(table, chosen)
            ]
        if any(row[4] for row in found) and not all(row[4] for row in found):
            raise InputError(f"{path}: some tables give splits and some do not")
        self._root, ids = _relative((images or folder).absolute(), found, images)
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
        chosen = read_options(path, [*COLUMNS, "images"])
        path = without_options(path)
        if path.is_file():
            return cls(path, [("", path)], chosen, lenient)
        tables = _tables_in(path) if path.is_dir() else []
        if not tables:
            raise InputError(f"{path}: there is no table; give a {', '.join(EXTENSIONS)} file, or a folder with one")
        return cls(path, tables, chosen, lenient)

    @classmethod
    def write_example(cls, folder: Path) -> Path:
        """Write ``labels.csv`` and ten images of two classes; see the base class."""
        lines = ["file_name,label"]
        for number, name in enumerate(("cat", "dog")):
            images = write_pictures(folder, [f"photos/{name}{n}.png" for n in range(5)], start=5 * number)
            lines += [f"{image},{name}" for image in images]
        (folder / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
        return folder / "labels.csv"

    def image(self, split: str, index: int) -> Image.Image:
        """Return one image as RGB; see :mod:`cafe.data.images.decoding`."""
        sample_id = self.splits[split].sample_ids[index]
        return read_image(self._root / sample_id, sample_id)

    def content(self, split: str, index: int) -> bytes:
        """Return the bytes of one image's file."""
        sample_id = self.splits[split].sample_ids[index]
        return read_content(self._root / sample_id, sample_id)


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


def _relative(folder: Path, found: Sequence[Row], images: Path | None) -> tuple[Path, list[str]]:
    """Make ids that do not change when everything moves: relative to the folder of the images."""
    paths = []
    prefix = f"{os.path.normpath(folder).rstrip(os.sep)}{os.sep}"
    for table, line, image, _, _ in found:
        if "://" in image:
            raise InputError(f"{table}, line {line}: {image!r} is an address; cafe reads files and downloads nothing")
        base = table.parent.absolute() if images is None else folder
        path = os.path.normpath(os.path.join(base, image))  # noqa: PTH118 (100,000 rows)
        # Links are followed, since who owns the folder put them there; what a table names is not.
        if not path.startswith(prefix) or "\0" in path:
            raise InputError(
                f"{table}, line {line}: {image!r} is not inside {folder}, so it is not read; say where images are with "
                f"--dataset '{table}?images=DIR'"
            )
        paths.append(path)
    return Path(prefix), [path[len(prefix) :].replace(os.sep, "/") for path in paths]


def _refuse_twice(ids: Sequence[str], found: Sequence[Row]) -> None:
    first: dict[str, int] = {}
    for number, one in enumerate(ids):
        if first.setdefault(one, number) != number:
            table, line, image, _, _ = found[number]
            earlier = found[first[one]]
            raise InputError(f"{table}, line {line}: {image!r} stands in {earlier[0].name}, line {earlier[1]}, already")


def read_table(path: Path, chosen: Mapping[str, str]) -> list[tuple[int, str, str, str]]:
    """Read the rows of one table.

    Parameters
    ----------
    path : Path
        ``.csv`` (comma, semicolon or tab, as its first line says), ``.tsv``, or ``.jsonl``.
    chosen : mapping of str to str
        Column to use as ``path``, ``label`` or ``split`` instead of the usual names.

    Returns
    -------
    list of (int, str, str, str)
        Line number, path as written, label, and split (``""`` if there is no such column).

    Raises
    ------
    InputError
        If it cannot be read, a column or value is missing, or a split has another name than usual; the message
        names the line.
    """
    rows: list[tuple[int, str, str, str]] = []
    columns: dict[str, str] = {}
    check_regular(path, "table", at_most=MAX_TEXT_BYTES)
    try:
        for number, row in _records(path):
            columns = columns or _choose(path, list(row), chosen)
            image, label = (_text(path, number, row, columns[what]) for what in _REQUIRED)
            split = ""
            if "split" in columns:
                given = _text(path, number, row, columns["split"])
                split = split_name(given) or ""
                if not split:
                    raise InputError(f"{path}, line {number}: split {given!r} is none of train, val, test")
            rows.append((number, image, label, split))
    except CafeError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a table: {reason_of(error)}") from error
    if not rows:
        raise InputError(f"{path} has no rows; each should hold the path of an image and its label")
    return rows


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            for number, line in enumerate(file, start=1):
                if line.strip():
                    record = parse_json(line, f"{path}, line {number}")
                    if not isinstance(record, dict):
                        raise InputError(f"{path}, line {number}: a JSON object is needed, such as "
                                         '{"file_name": "a.jpg", "label": "cat"}')  # fmt: skip
                    yield number, record
            return
        head = file.readline()
        file.seek(0)
        delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=head.count)
        reader = csv.DictReader(file, delimiter=delimiter, skipinitialspace=True)
        for row in reader:
            yield reader.line_num, {(name or "").strip(): value for name, value in row.items() if name is not None}


def _choose(path: Path, there: list[str], chosen: Mapping[str, str]) -> dict[str, str]:
    columns = {}
    by_lower = {name.lower(): name for name in there}
    for what, usual in COLUMNS.items():
        if what in chosen:
            if chosen[what] not in there:
                raise InputError(f"{path} has no column {chosen[what]!r}; it has: {', '.join(there)}")
            columns[what] = chosen[what]
            continue
        found = next((by_lower[name] for name in usual if name in by_lower), None)
        if found is not None:
            columns[what] = found
        elif what in _REQUIRED:
            raise InputError(
                f"{path} has no column for the {what}: it has {', '.join(there)}; call it {usual[0]!r}, or say which "
                f"one it is with --dataset '{path}?{what}=COLUMN'"
            )
    return columns


def _text(path: Path, number: int, row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
        return str(value).strip()
    what = "is empty" if value in (None, "") or isinstance(value, str) else f"is {value!r}, not one text or number"
    raise InputError(f"{path}, line {number}: column {column!r} {what}")
