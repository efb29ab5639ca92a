"""Tables of image paths and labels, and the folders with such a table that Hugging Face calls imagefolder."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cafe.data.base import Dataset, ImageFiles, Source, read_options, without_options
from cafe.data.images.content_keys import content_keys
from cafe.data.images.examples import write_pictures
from cafe.data.images.files import find_sizes
from cafe.data.layouts.labelling import label_rows, read_class_list, split_name
from cafe.errors import CafeError, InputError
from cafe.foreign import MAX_TEXT_BYTES, check_regular, parse_json, reason_of

SOURCE = "table"

EXTENSIONS = (".csv", ".tsv", ".jsonl", ".ndjson")
# The first of these names that a table has is taken; case does not matter.
COLUMNS = {
    "path": ("file_name", "filename", "file", "path", "filepath", "file_path", "image_path", "impath", "image", "img"),
    "label": ("class_name", "classname", "label_name", "label", "class", "category", "target"),
    "split": ("split", "subset", "partition", "set"),
}
_REQUIRED = ("path", "label")
_GENERIC_STEMS = frozenset(
    {"metadata", "labels", "data", "index", "train", "test", "val"}
)  # file names that say nothing about the data set
TableRow = tuple[Path, int, str, str, str]  # table, line, path as written, label, split


class Table(ImageFiles, Source):
    """A CSV, TSV or JSON Lines table with a path and a label column, or a folder with a metadata table.

    Paths are relative to the table's folder, or to the one that ``labels.csv?images=DIR`` names, and may not lead out
    of it. A column ``split`` gives the splits; in a folder, so do the names of the tables (``train.csv``,
    ``test.csv``) or of the folders that hold them (``train/metadata.jsonl``). Images without a split are divided by
    hash. Labels are class names, or line numbers of a ``classnames.txt`` in the same folder.
    """

    def __init__(self, path: Path, tables: Sequence[tuple[str, Path]], chosen: dict[str, str], lenient: bool) -> None:
        """Read the tables, each with the split that its name says (``""`` if none)."""
        images = Path(chosen["images"]).expanduser() if "images" in chosen else None
        folder = path if path.is_dir() else path.parent
        rows: list[TableRow] = []
        for split, table in tables:
            rows += [
                (table, line, image, label, split or row_split)
                for line, image, label, row_split in read_table(table, chosen)
            ]
        if any(row[4] for row in rows) and not all(row[4] for row in rows):
            raise InputError(f"{path}: some tables give splits and some do not")
        self._image_root, ids = _relative_ids((images or folder).absolute(), rows, images)
        _refuse_repeated(ids, rows)
        sizes = find_sizes(self._image_root, ids, path, lenient=lenient)
        labelled = label_rows(
            path,
            [row[3] for row in rows],
            [row[4] for row in rows],
            lambda: content_keys(self._image_root, [(sample_id, sizes[sample_id]) for sample_id in ids]),
            read_class_list(folder),
        )
        stem = (path if path.is_dir() else path.with_suffix("")).absolute().name
        self.name = folder.absolute().name if stem.lower() in _GENERIC_STEMS else stem
        self.class_names = labelled.class_names
        self.splits = labelled.image_splits(ids, [sizes[sample_id] for sample_id in ids])
        self.split_origin = labelled.split_origin
        self.notes = labelled.notes

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Return whether the path is a table, or a folder with tables of the usual names."""
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


def _tables_in(folder: Path) -> list[tuple[str, Path]]:
    """Find the metadata table of a folder; or else tables named after splits, and those in its split folders."""
    if metadata := _tables_named(folder, "metadata"):
        return [("", metadata[0])]
    tables = []
    for name in sorted(os.listdir(folder)):  # noqa: PTH208 (names only)
        split = split_name(Path(name).stem)
        if split and (folder / name).is_file() and Path(name).suffix.lower() in EXTENSIONS:
            tables.append((split, folder / name))
        elif split and (folder / name).is_dir():
            tables += [(split, table) for table in _tables_named(folder / name, "metadata")[:1]]
    return tables


def _tables_named(folder: Path, stem: str) -> list[Path]:
    """Return the tables of a folder with this name, one for each extension."""
    paths = (folder / f"{stem}{extension}" for extension in EXTENSIONS)
    return [path for path in paths if path.is_file()]


def _relative_ids(folder: Path, rows: Sequence[TableRow], images: Path | None) -> tuple[Path, list[str]]:
    """Return the folder of the images, and each path relative to it, which stays the same if the folder moves."""
    paths = []
    prefix = f"{os.path.normpath(folder).rstrip(os.sep)}{os.sep}"
    for table, line, image, _, _ in rows:
        if "://" in image:
            raise InputError(f"{table}, line {line}: {image!r} is an address; cafe reads files and downloads nothing")
        base = table.parent.absolute() if images is None else folder
        path = os.path.normpath(os.path.join(base, image))  # noqa: PTH118 (100,000 rows)
        # Links are followed: the owner of the folder made them. A path in a table may come from a stranger.
        if not path.startswith(prefix) or "\0" in path:
            raise InputError(
                f"{table}, line {line}: {image!r} is not inside {folder}, so it is not read; say where images are with "
                f"--dataset '{table}?images=DIR'"
            )
        paths.append(path)
    return Path(prefix), [path[len(prefix) :].replace(os.sep, "/") for path in paths]


def _refuse_repeated(ids: Sequence[str], rows: Sequence[TableRow]) -> None:
    """Raise an error if two rows name the same image."""
    first_row: dict[str, int] = {}
    for row, sample_id in enumerate(ids):
        if first_row.setdefault(sample_id, row) != row:
            table, line, image, _, _ = rows[row]
            earlier = rows[first_row[sample_id]]
            raise InputError(f"{table}, line {line}: {image!r} is already in {earlier[0].name}, line {earlier[1]}")


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
        If the table cannot be read, a column or value is missing, or a split has another name than usual; the message
        names the line.
    """
    rows: list[tuple[int, str, str, str]] = []
    columns: dict[str, str] = {}
    check_regular(path, "table", at_most=MAX_TEXT_BYTES)
    try:
        for number, row in _records(path):
            columns = columns or _find_columns(path, list(row), chosen)
            image, label = (_text_cell(path, number, row, columns[role]) for role in _REQUIRED)
            split = ""
            if "split" in columns:
                split_text = _text_cell(path, number, row, columns["split"])
                split = split_name(split_text) or ""
                if not split:
                    raise InputError(f"{path}, line {number}: split {split_text!r} is none of train, val, test")
            rows.append((number, image, label, split))
    except CafeError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a table: {reason_of(error)}") from error
    if not rows:
        raise InputError(f"{path} has no rows; each should hold the path of an image and its label")
    return rows


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read a table row by row: the line number, and the values by column."""
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


def _find_columns(path: Path, header: list[str], chosen: Mapping[str, str]) -> dict[str, str]:
    """Return the columns of path, label and split: the user's choice, else the usual names."""
    columns = {}
    by_lower = {name.lower(): name for name in header}
    for role, usual_names in COLUMNS.items():
        if role in chosen:
            if chosen[role] not in header:
                raise InputError(f"{path} has no column {chosen[role]!r}; it has: {', '.join(header)}")
            columns[role] = chosen[role]
            continue
        column = next((by_lower[name] for name in usual_names if name in by_lower), None)
        if column is not None:
            columns[role] = column
        elif role in _REQUIRED:
            raise InputError(
                f"{path} has no column for the {role}: it has {', '.join(header)}; call it {usual_names[0]!r}, or "
                f"say which one it is with --dataset '{path}?{role}=COLUMN'"
            )
    return columns


def _text_cell(path: Path, number: int, row: Mapping[str, Any], column: str) -> str:
    """Return one value as text, after checking that it is a text or a number."""
    value = row.get(column)
    if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
        return str(value).strip()
    problem = "is empty" if value in (None, "") or isinstance(value, str) else f"is {value!r}, not one text or number"
    raise InputError(f"{path}, line {number}: column {column!r} {problem}")
