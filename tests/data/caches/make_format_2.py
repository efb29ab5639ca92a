"""Makes format-2.h5, a real file of format version 2, from FORMAT.md alone: nothing of cafe is imported.

    python tests/data/caches/make_format_2.py

It holds what format-1.h5 holds. The file is committed and never made anew, as that one.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np


def set_text(item: h5py.HLObject, name: str, value: str | list[str]) -> None:
    encoded = value.encode() if isinstance(value, str) else [text.encode() for text in value]
    kind = h5py.string_dtype("utf-8", np.array(encoded).dtype.itemsize)
    item.attrs.create(name, np.array(encoded, dtype=kind), dtype=kind)


def attribute_lines(attributes: dict[str, Any]) -> list[str]:
    return [f"{name} {json.dumps(value)}\n" for name, value in sorted(attributes.items())]


def sha256(lines: list[str]) -> str:
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def main() -> None:
    from make_format_1 import ARRAYS, ATTRIBUTES  # beside this file

    with h5py.File(Path(__file__).parent / "format-2.h5", "w", libver=("v108", "v108")) as file:
        lines = []
        for name, array in sorted(ARRAYS.items()):
            dataset = file.create_dataset(name, data=array, track_times=False)
            digest = hashlib.sha256(array.tobytes()).hexdigest()
            set_text(dataset, "sha256", digest)
            lines.append(f"{name} {array.dtype.str} {list(array.shape)} {digest}\n")
        attributes = {**ATTRIBUTES, "format_version": 2, "splits": ["train", "test"]}
        stable = {name: value for name, value in attributes.items() if name != "created"}
        attributes["content_sha256"] = sha256(lines + attribute_lines(stable))
        attributes["attributes_sha256"] = sha256(attribute_lines(attributes))
        for name, value in attributes.items():
            if isinstance(value, str | list):
                set_text(file, name, value)
            else:
                file.attrs[name] = value


if __name__ == "__main__":
    main()
