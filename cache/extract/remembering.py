"""Text features that are kept while an extraction is unfinished, like its shards of image features."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.cache.extract.partial import Partial
from cafe.cache.extract.plan import Plan
from cafe.cache.format.fingerprint import fingerprint
from cafe.encoders.base import Encoder
from cafe.files import replacing


def remembered(plan: Plan, partial: Partial) -> Plan:
    """Return the plan with an encoder that keeps the features of every chunk of prompts in the partial folder.

    A chunk that is there already, from a run that was cut off, is read instead of encoded. Its name is a fingerprint
    of the text tower, the batch size and the prompts themselves.
    """
    identity = {"text": plan.text["encoder"], "batch_size": partial.batch_size, "recorded": dict(plan.recorded)}
    return replace(plan, encoder=_Remembering(plan.encoder, partial.folder, identity))


class _Remembering(Encoder):
    """The text side of an encoder, with a memory on disk; all the rest is the encoder's own."""

    def __init__(self, encoder: Encoder, folder: Path, identity: dict[str, Any]) -> None:
        self._encoder, self._folder, self._identity = encoder, folder, identity
        self.dim, self.batch_size = encoder.dim, encoder.batch_size

    def encode_images(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._encoder.encode_images(crops)

    def encode_text(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        key = fingerprint({**self._identity, "prompts": list(prompts)})
        path = self._folder / f"text-{key[:24]}.npz"
        features = _read(path, key)
        if features is None:
            features = self._encoder.encode_text(prompts)
            with replacing(path, prepare=False) as temporary, temporary.open("wb") as stream:
                about = np.frombuffer(json.dumps({"key": key}).encode(), dtype=np.uint8)
                np.savez(stream, features=features, about=about)
        return features

    def identity(self) -> dict[str, Any]:
        return self._encoder.identity()


def _read(path: Path, key: str) -> NDArray[np.float32] | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            if json.loads(file["about"].tobytes())["key"] != key:
                return None
            features: NDArray[np.float32] = file["features"]
            return features
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
