"""Writes features to files that other tools read: npz, safetensors, parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import CafeError, InputError, MissingDependencyError, unknown_name
from cafe.features import Features
from cafe.files import replacing, replacing_together, write_safetensors

FORMATS = ("npz", "parquet", "safetensors")


def export_features(
    features: Features, out: Path | str, layout: str | None = None, *, force: bool = False
) -> list[Path]:
    """Write features to a file of another format; the arrays keep their dtype and their bytes.

    Parameters
    ----------
    features : Features
        As loaded from a cache.
    out : path
        The file to make.
    layout : str or None
        One of ``FORMATS``; None takes the suffix of ``out``.
    force : bool, default False
        Replace an existing file.

    Returns
    -------
    list of Path
        The files: ``out``, and for parquet with text a second one, ``NAME.text.parquet``.

    Raises
    ------
    InputError
        If the format is unknown or ``out`` is there already.
    """
    out = Path(out)
    if layout is None:
        layout = out.suffix.removeprefix(".").lower()
        if layout not in FORMATS:
            endings = ", ".join(f".{name}" for name in FORMATS)
            raise InputError(
                f"the ending of {str(out)!r} names no format; end it in one of {endings}, or give --format"
            )
    if layout not in FORMATS:
        raise unknown_name("format", layout, FORMATS)
    has_text = layout == "parquet" and features.text_features is not None
    paths = [out, out.with_suffix(".text.parquet")] if has_text else [out]
    if taken := [str(path) for path in paths if path.exists() and not force]:
        raise InputError(f"{', '.join(taken)} exists already; name another file, or replace it with --force")
    try:
        if layout == "npz":
            with replacing(out) as temporary, temporary.open("wb") as stream:
                arrays = {
                    **_arrays(features),
                    **_texts(features),
                    "metadata": np.array(json.dumps(_metadata(features))),
                }
                np.savez(stream, allow_pickle=False, **arrays)
        elif layout == "safetensors":
            _safetensors(features, out)
        else:
            _parquet(features, paths)
    except OSError as error:
        raise CafeError(f"{out} could not be written: {error}") from error
    return paths


def _arrays(features: Features) -> dict[str, NDArray[Any]]:
    """Return all numeric arrays by their exported names."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, split in features.splits.items():
        arrays[f"{name}_features"] = np.ascontiguousarray(split.image_features)
        arrays[f"{name}_labels"] = split.labels
        for key in ("view_features", "projection_features", "image_sha256"):
            if (array := getattr(split, key)) is not None:
                arrays[f"{key}_of_{name}"] = np.ascontiguousarray(array)
    for key in ("text_features", "prompt_features", "prompt_classes"):
        if (array := getattr(features, key)) is not None:
            arrays[key if key == "text_features" else f"text_{key}"] = array
    return arrays


def _texts(features: Features) -> dict[str, NDArray[np.str_]]:
    """Return all arrays of texts by their exported names."""
    texts = {f"{name}_sample_ids": split.sample_ids for name, split in features.splits.items()}
    return {
        **texts,
        "class_names": np.array(features.class_names),
        "templates": np.array(features.templates, dtype=np.str_),
    }


def _metadata(features: Features) -> dict[str, Any]:
    """Return logit scale, bias and provenance."""
    return {
        "logit_scale": features.logit_scale,
        "logit_bias": features.logit_bias,
        "provenance": dict(features.provenance),
    }


def _safetensors(features: Features, out: Path) -> None:
    """Write one safetensors file, with the texts in its metadata."""
    texts = {name: json.dumps(texts.tolist()) for name, texts in _texts(features).items()}
    metadata = {name: json.dumps(value) for name, value in _metadata(features).items()}
    with replacing(out) as temporary:
        write_safetensors(temporary, _arrays(features), {**texts, **metadata})


def _parquet(features: Features, paths: list[Path]) -> None:
    """Write a table with a row for each image, and to a second file one with a row for each template and class."""
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError("pyarrow", "parquet", "writing parquet") from error
    names = np.array(features.class_names)
    with_hashes = any(split.image_sha256 is not None for split in features.splits.values())
    parts = []
    for name, split in features.splits.items():
        columns = {
            "split": [name] * len(split),
            "sample_id": split.sample_ids,
            "label": split.labels,
            "class_name": names[split.labels],
        }
        if with_hashes:  # a column for all splits, or none
            hashes = [None] * len(split) if split.image_sha256 is None else list(map(bytes, split.image_sha256))
            columns["image_sha256"] = pa.array(hashes, type=pa.binary(32))
        parts.append(pa.table({**columns, "image_features": _rows(pa, split.image_features)}))
    metadata = {"class_names": list(features.class_names), "templates": list(features.templates), **_metadata(features)}
    table = pa.concat_tables(parts).replace_schema_metadata({"cafe": json.dumps(metadata)})
    tables = [table]
    if features.text_features is not None:
        m, c, d = features.text_features.shape
        text = {
            "template": [features.templates[i] if features.templates else "" for i in range(m) for _ in range(c)],
            "label": np.tile(np.arange(c), m),
            "class_name": np.tile(names, m),
            "text_features": _rows(pa, features.text_features.reshape(m * c, d)),
        }
        tables.append(pa.table(text))
    # Together, so that the text of one export never lies beside the images of another.
    with replacing_together(paths[0].parent, [path.name for path in paths], mark=paths[0].name) as temporaries:
        for path, content in zip(paths, tables, strict=True):
            pyarrow.parquet.write_table(content, temporaries[path.name])


def _rows(pa: Any, features: NDArray[Any]) -> Any:
    """Return the rows of a matrix as a column of lists."""
    # float32, since few readers of parquet know half floats; no value changes.
    flat = np.ascontiguousarray(features, dtype=np.float32).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), features.shape[1])
