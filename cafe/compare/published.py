"""Published accuracies with their sources, for comparison with measured ones.

``tables/*.json`` hold one published table each: source, backbone, protocol, whether anything was chosen on test data
(true, false, or null where its rows differ or that is not known), and rows with accuracies in per cent.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_TABLES = Path(__file__).parent / "tables"
_VIT = re.compile(r"vit[-_ ]?(?:(?P<size>[blh])|base|large)[-_/ ]?(?:patch)?(?P<patch>14|16|32)", re.IGNORECASE)
_RESNET = re.compile(r"(?<![a-z0-9])(?:rn|resnet[-_]?)(50x4|50x16|50x64|50|101)(?![0-9x])", re.IGNORECASE)


@functools.cache
def published_tables() -> dict[str, dict[str, Any]]:
    """Return all published tables by name.

    Examples
    --------
    >>> table = published_tables()["tip_adapter_log"]
    >>> table["backbone"], table["rows"][0]["acc1"]["imagenet"]
    ('RN50', 60.32)
    """
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(_TABLES.glob("*.json"))}


def backbone(encoder: str) -> str | None:
    """Return the backbone that an encoder's id names, as papers write it; None if it names none.

    Examples
    --------
    >>> backbone("openai/clip-vit-base-patch16"), backbone("open_clip:RN50/openai"), backbone("cafe:mini")
    ('ViT-B/16', 'RN50', None)
    """
    if "+" in encoder:  # two encoders, which no published table has
        return None
    vit, resnet = _VIT.search(encoder), _RESNET.search(encoder)
    if vit:
        size = (vit["size"] or ("b" if "base" in vit[0].lower() else "l")).upper()
        return f"ViT-{size}/{vit['patch']}"
    return f"RN{resnet[1]}" if resnet else None


def beside_published(summary: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put published accuracies beside those of a summary.

    A published figure is listed if data set, method and shots are the same; the difference is computed only if the
    backbone is the same too.

    Parameters
    ----------
    summary : sequence of dict
        Of a comparison.

    Returns
    -------
    list of dict
        dataset, series, method, shots, part, table, source, label, published, here and difference (in per cent, here
        minus published; None where backbones differ), backbone, backbone_here, protocol, chosen_on_test (of the
        published figure) and chosen_on (of the one here).
    """
    rows = []
    for entry in summary:
        # Papers publish no curve over a parameter; rows chosen on test data are not compared.
        if entry["x"] is not None or entry["acc1_mean"] is None or entry["oracle"]:
            continue
        backbone_here = backbone(str(entry["encoder"]))
        for name, table in published_tables().items():
            rows += [
                _difference(entry, backbone_here, name, table, row)
                for row in table["rows"]
                if _is_comparable(entry, table, row)
            ]
    return rows


def _test_set(entry: dict[str, Any], table: dict[str, Any]) -> str | None:
    """Return the data set that a summary row was tested on: in a table of distribution shift, the part of the test."""
    name: str | None = entry["part"] if table.get("kind") == "shift" else entry["dataset"]
    return name


def _is_comparable(entry: dict[str, Any], table: dict[str, Any], row: dict[str, Any]) -> bool:
    """Return whether ``row`` of a published ``table`` has the data set, method and shots of the summary's ``entry``."""
    shift = table.get("kind") == "shift"
    if (entry["part"] is not None) is not shift or (shift and entry["dataset"] != "imagenet"):
        return False
    same = (entry["method"], entry["shots"]) == (row["method"], row["shots"])
    # Published CLIP-Adapter is the image adapter.
    return same and _test_set(entry, table) in row.get("acc1", {}) and entry["variant"] in (None, "image")


def _difference(
    entry: dict[str, Any], backbone_here: str | None, name: str, table: dict[str, Any], row: dict[str, Any]
) -> dict[str, Any]:
    """Return a published accuracy, the measured one of a summary row (``entry``), and their difference."""
    published, measured = row["acc1"][_test_set(entry, table)], 100 * entry["acc1_mean"]
    published_with = row.get("backbone", table["backbone"])
    return {
        **{key: entry[key] for key in ("dataset", "series", "method", "shots", "part")},
        "table": name, "source": table["source"], "label": row["label"], "published": published, "here": measured,
        "difference": measured - published if backbone_here == published_with else None,
        "backbone": published_with, "backbone_here": backbone_here,
        "protocol": table["protocol"], "chosen_on_test": table["chosen_on_test"], "chosen_on": entry.get("chosen_on"),
    }  # fmt: skip
