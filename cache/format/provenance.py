"""The origin of features: the fields of the fingerprints, and fields that are only recorded."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cafe.cache.format.fingerprint import canonical_json, fingerprint
from cafe.errors import InputError

_LIBRARIES = ("torch", "transformers", "open_clip_torch", "pillow", "numpy", "h5py", "safetensors")


@dataclass(frozen=True)
class Provenance:
    """The record of how a cache was made; FORMAT.md describes every key.

    Attributes
    ----------
    dataset : str
        Name of the data set.
    encoder : str
        Id of the encoder, as asked for.
    image, text : mapping, mapping or None
        Every input that changes an image feature, or a text feature; see :mod:`cafe.cache.format.fingerprint`.
    recorded : mapping
        Fields that are no part of the identity: revisions, device, library versions.
    seeds : sequence of int
        Seeds that were used.
    unreadable : sequence of mapping
        Images that could not be decoded: ``split``, ``sample_id``, ``reason``.
    """

    dataset: str
    encoder: str
    image: Mapping[str, Any]
    text: Mapping[str, Any] | None = None
    recorded: Mapping[str, Any] = field(default_factory=dict)
    seeds: Sequence[int] = ()
    unreadable: Sequence[Mapping[str, str]] = ()

    @property
    def image_fingerprint(self) -> str:
        """Identity of the image features."""
        return fingerprint(self.image)

    @property
    def text_fingerprint(self) -> str:
        """Identity of the text features; empty if there are none."""
        return "" if self.text is None else fingerprint(self.text)

    @property
    def fingerprint(self) -> str:
        """Identity of both."""
        return fingerprint({"image": self.image, "text": self.text})

    def to_json(self) -> bytes:
        """Return the content of the array ``provenance``, which leaves out the two names."""
        return canonical_json(
            {
                "image": self.image,
                "text": self.text,
                "recorded": self.recorded,
                "seeds": list(self.seeds),
                "unreadable": [dict(item) for item in self.unreadable],
            }
        )

    @classmethod
    def from_json(cls, dataset: str, encoder: str, text: str | bytes) -> Provenance:
        """Read what :meth:`to_json` wrote."""
        return cls._from_mapping({**json.loads(text), "dataset": dataset, "encoder": encoder})

    @classmethod
    def of(cls, provenance: Mapping[str, Any]) -> Provenance:
        """Make the record from the ``provenance`` of loaded Features.

        Raises
        ------
        InputError
            If a field is missing that every cache needs.
        """
        missing = [key for key in ("dataset", "encoder", "image") if key not in provenance]
        if missing:
            raise InputError(f"provenance lacks {', '.join(missing)}; a cache cannot be written without")
        return cls._from_mapping(provenance)

    @classmethod
    def _from_mapping(cls, given: Mapping[str, Any]) -> Provenance:
        """Make the record from its fields; those that a cache may lack get their defaults."""
        return cls(
            dataset=given["dataset"],
            encoder=given["encoder"],
            image=given["image"],
            text=given.get("text"),
            recorded=given.get("recorded", {}),
            seeds=given.get("seeds", ()),
            unreadable=given.get("unreadable", ()),
        )


def library_versions(*also: str) -> dict[str, str]:
    """Return the versions of libraries that may change a feature's last bits, without importing them.

    Parameters
    ----------
    *also : str
        Optional packages that were used this time.
    """
    versions = {"python": platform.python_version()}
    for name in (*_LIBRARIES, *also):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
