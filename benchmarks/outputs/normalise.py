"""What a command says and leaves behind, as text in which only what a user would notice can differ."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

NUMBER = r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
TIMES = ("(?:fit_|promises_)?seconds(?:_mean|_std)?", "images_per_second", "read", "encode", "write")
MASKED_COLUMNS = {"fit_seconds": "<seconds>", "cafe_version": "<version>"}
SUBSTITUTIONS = [
    # JSON, on one line or indented; it stays JSON.
    (rf'"({"|".join(TIMES)})": {NUMBER}', r'"\1": "<seconds>"'),
    (rf'"fit_seconds_ci95": \[\s*{NUMBER},\s*{NUMBER}\s*\]', '"fit_seconds_ci95": ["<seconds>"]'),
    (r'"bottleneck": "(?:read|encode|write)"', '"bottleneck": "<clock>"'),
    (r": 1\d{18}\b", ": <nanoseconds>"),  # of last_used.json
    (r'"cafe_version": "[^"]*"', '"cafe_version": "<version>"'),
    # Prose.
    (r"[\d,]+ images/s \(.*?\)", "<rate> images/s (<clocks>)"),
    (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:\+00:00|Z)?", "<date>"),
    (r"\b(?:\d+ h \d+ min|\d+ min \d+ s|\d+(?:\.\d+)? s)\b", "<time>"),
    (r"^cafe \d+\.\d+\S*$", "cafe <version>"),
    (r"(<dt>cafe version</dt><dd>)[^<]*", r"\1<version>"),
    # Where an error happened within the code is no business of the user's; that there is a traceback is.
    (r"(Traceback \(most recent call last\):\n)(?:[ ].*\n)+", r"\1  <frames>\n"),
]
PATTERNS = [(re.compile(pattern, re.MULTILINE), text) for pattern, text in SUBSTITUTIONS]


@dataclass(frozen=True)
class Normaliser:
    """Replaces what may differ between two recordings.

    Attributes
    ----------
    folders : sequence of (Path, str)
        Folders of the recording and what stands for them, the innermost first.
    """

    folders: Sequence[tuple[Path, str]]

    def text(self, text: str) -> str:
        """Return prose or JSON without times, dates, versions and temporary folders."""
        for folder, name in self.folders:
            text = text.replace(str(folder), name)
        for pattern, replacement in PATTERNS:
            text = pattern.sub(replacement, text)
        return text

    def document(self, text: str) -> str:
        """Return a JSON file with the members of each object sorted: they have no order that a reader could rely on."""
        try:
            return json.dumps(json.loads(self.text(text)), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        except ValueError:
            return self.text(text)

    def table(self, text: str) -> str:
        """Return a CSV file with the columns masked that hold times or versions."""
        rows = list(csv.reader(io.StringIO(text)))
        if written(rows) != text:
            return "(not written as Python's csv module does)\n" + self.text(text)
        head = rows[0] if rows else []
        masked = [[MASKED_COLUMNS.get(name, cell) for name, cell in zip(head, row, strict=True)] for row in rows[1:]]
        return self.text(written([head, *masked]))

    def page(self, text: str) -> str:
        """Return an HTML page, a table row on each line, with pictures as hashes and columns masked as in a table."""
        text = re.sub(r"data:image/png;base64,([\w+/=]+)", lambda match: f"<picture {sha256(match[1].encode())}>", text)
        head: list[str] = []
        lines = []
        for line in text.replace("</tr>", "</tr>\n").splitlines():
            if "<th " in line:
                head = re.findall(r"<th [^>]*>(.*?)</th>", line)
            cells = re.findall(r"<td>(.*?)</td>", line)
            if head and len(cells) == len(head) and not MASKED_COLUMNS.keys().isdisjoint(head):
                masked = (MASKED_COLUMNS.get(name, cell) for name, cell in zip(head, cells, strict=True))
                line = "".join(f"<td>{cell}</td>" for cell in masked)
            lines.append(line)
        return self.text("\n".join(lines) + "\n")


def written(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def sha256(content: bytes) -> str:
    """Return the hash in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def described_array(array: Any) -> str:
    """Return dtype, shape and hash of an array; of texts and other objects the hash of how they print."""
    array = np.asarray(array)
    content = repr(array.tolist()).encode() if array.dtype.hasobject else np.ascontiguousarray(array).tobytes()
    return f"{array.dtype} {list(array.shape)} {sha256(content)}"


def described_file(path: Path, normaliser: Normaliser) -> str:
    """Return what a file holds, as text that two recordings share."""
    kinds: dict[str, Callable[[Path, Normaliser], str]] = {
        ".h5": cache_as_text,
        ".npz": npz_as_text,
        ".safetensors": safetensors_as_text,
        ".dat": safetensors_as_text,  # the name that a scene gives to one
        ".parquet": parquet_as_text,
        ".png": picture_as_text,
    }
    texts = {".csv": normaliser.table, ".html": normaliser.page, ".json": normaliser.document}
    if path.suffix in kinds:
        try:
            return kinds[path.suffix](path, normaliser)
        except Exception as error:  # a scene may leave broken files on purpose
            return f"cannot be read ({type(error).__name__}): {sha256(path.read_bytes())}\n"
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return f"{sha256(path.read_bytes())}\n"
    return texts.get(path.suffix, normaliser.text)(text)


def cache_as_text(path: Path, normaliser: Normaliser) -> str:
    """Describe an HDF5 file: attributes, arrays with how they are stored, and the provenance in full."""
    import h5py

    lines: list[str] = []

    def attributes(name: str, item: Any) -> None:
        for key, value in sorted(item.attrs.items()):
            value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
            # `attributes_sha256` covers the times.
            if key in ("cafe_version", "attributes_sha256") or key.startswith("seconds"):
                value = "<not compared>"
            lines.append(f"{name or '/'} @{key} = {value!r}")

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            stored = (item.chunks, item.compression, item.id.get_create_plist().get_layout())
            lines.append(f"{name} {described_array(item[()])} stored {stored}")
        else:
            lines.append(f"{name}/")
        attributes(name, item)

    with h5py.File(path, "r") as file:
        attributes("", file)
        file.visititems(visit)
        if "provenance" in file:
            document = json.loads(np.asarray(file["provenance"]).reshape(-1)[0])
            lines += ["provenance:", json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)]
    return normaliser.text("\n".join(lines) + "\n")


def npz_as_text(path: Path, normaliser: Normaliser) -> str:
    """Describe the arrays of an ``.npz`` file, in its order; a single text in full."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    single = {name for name, array in arrays.items() if array.dtype.kind == "U" and array.ndim == 0}
    shown = {name: str(array) if name in single else described_array(array) for name, array in arrays.items()}
    return normaliser.text("".join(f"{name} {text}\n" for name, text in shown.items()))


def safetensors_as_text(path: Path, normaliser: Normaliser) -> str:
    """Describe arrays and metadata of a safetensors file."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        lines = [f"{name} {described_array(file.get_tensor(name))}" for name in sorted(file.keys())]
        lines += [f"@{name} = {value}" for name, value in sorted((file.metadata() or {}).items())]
    return normaliser.text("\n".join(lines) + "\n")


def parquet_as_text(path: Path, normaliser: Normaliser) -> str:
    """Describe schema, metadata and columns of a parquet file."""
    from pyarrow import parquet

    table = parquet.read_table(path)
    lines = [str(table.schema.remove_metadata())]
    lines += [f"@{key!r} = {value!r}" for key, value in sorted((table.schema.metadata or {}).items())]
    lines += [f"{name} {sha256(repr(table[name].to_pylist()).encode())}" for name in table.column_names]
    return normaliser.text("\n".join(lines) + "\n")


def picture_as_text(path: Path, _: Normaliser) -> str:
    """Describe a picture by its size and pixels."""
    from PIL import Image

    with Image.open(path) as picture:
        return f"{picture.format} {picture.mode} {picture.size} {sha256(picture.tobytes())}\n"
