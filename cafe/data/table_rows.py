"""Reads CSV, TSV and JSON Lines: an image path, a label and perhaps a split in each row."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cafe.data.labelling import split_name
from cafe.errors import InputError

EXTENSIONS = (".csv", ".tsv", ".jsonl", ".ndjson")
# The first that is there counts; case does not matter.
COLUMNS = {
    "path": ("file_name", "filename", "file", "path", "filepath", "file_path", "image_path", "impath", "image", "img"),
    "label": ("class_name", "classname", "label_name", "label", "class", "category", "target"),
    "split": ("split", "subset", "partition", "set"),
}
_REQUIRED = ("path", "label")


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
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise InputError(f"{path} cannot be read as a table: {error}") from error
    if not rows:
        raise InputError(f"{path} has no rows; each should hold the path of an image and its label")
    return rows


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            for number, line in enumerate(file, start=1):
                if line.strip():
                    record = json.loads(line)
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
