"""What an encoder is: a frozen image tower, nearly always a frozen text tower, and their own preprocessing.

One file here per library, with ``ENCODER = "name"``; ``--model name:...`` opens it.
"""

from __future__ import annotations

import copy
import csv
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from cafe.compute import ENCODING_DTYPES
from cafe.encoders.text_towers.base import TextTower
from cafe.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

_TABLES = Path(__file__).parent / "models"


class Cropper(Protocol):
    """Picklable and without the model: what extraction workers need to turn an image into pixels.

    It is called from several threads at once, and must not change anything that another call sees.
    """

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize and crop one RGB image as the checkpoint says: (height, width, 3), uint8."""


@dataclass(frozen=True)
class KnownModel:
    """A model worth knowing, for ``cafe models``.

    Attributes
    ----------
    family : str
        As docs/encoders.md calls it.
    summary : str
        What it is.
    good_at : str
        What it is taken for.
    parameters : float or None
        Of both towers, in millions; counted on the architecture. None where it is not known here.
    width : int or None
        Of a feature.
    resolution : int or None
        Pixels of a side; None where images keep their shape.
    licence : str
        Of the weights, as their publisher has it; empty where the publisher names none.
    kind : str
        ``"hub"``, downloaded on first use; or ``"folder"``, of files that are put together by hand.
    """

    family: str
    summary: str
    good_at: str
    parameters: float | None = None
    width: int | None = None
    resolution: int | None = None
    licence: str = ""
    kind: str = "hub"


def model_tables() -> list[str]:
    """Return the libraries that have a table of models worth knowing.

    Examples
    --------
    >>> "vision" in model_tables()
    True
    """
    return sorted(path.stem for path in _TABLES.glob("*.csv"))


def read_known_models(library: str) -> dict[str, KnownModel]:
    """Read the models of a library that are worth knowing from their table, ``models/LIBRARY.csv``.

    Returns
    -------
    dict of str to KnownModel
        By what ``--model`` takes. An empty cell is a number that is not known, or a licence that is not named.

    Examples
    --------
    >>> read_known_models("vision")["facebook/dinov2-small"].width
    384
    """
    numbers: dict[str, Callable[[str], Any]] = {"parameters": float, "width": int, "resolution": int}
    with (_TABLES / f"{library}.csv").open(encoding="utf-8", newline="") as table:
        return {
            row.pop("model"): KnownModel(
                **row | {name: read(row[name]) if row[name] else None for name, read in numbers.items()}
            )
            for row in csv.DictReader(table)
        }


class Encoder(ABC):
    """A frozen CLIP, or a frozen model of images alone.

    Attributes
    ----------
    id : str
        What the user asked for, such as ``"cafe:mini"`` or ``"openai/clip-vit-base-patch32"``.
    dim : int
        Feature width d, after the projection.
    logit_scale : float
        Learned scale, exponentiated; 100, OpenAI's, where there is no text tower.
    logit_bias : float
        0 but for SigLIP.
    device, dtype : str
        Where and in what the towers run: ``"cpu"``, ``"float32"``.
    batch_size : int
        Images or prompts encoded together: a default for that device, fixed, so that speed never changes bytes;
        :meth:`with_batch_size` gives another.
    cropper : Cropper
        Image to uint8 pixels.
    parallel : bool
        Whether images may be encoded by several threads at once; extraction on a CPU then encodes batches side by
        side. An extraction that is interrupted waits for the next module of torch, or the next call of
        :func:`cafe.encoders.stopping.check_stopped`, within a batch.
    reopen : callable or None
        Where the dtype was left to cafe (``"auto"``): opens the same encoder in the dtype that it is given. None where
        the dtype was asked for, and stays.
    dtypes : tuple of str
        What ``dtype`` may be beside ``"auto"``.
    known_models : mapping of str to KnownModel
        Models of this library that are worth knowing, as ``--model`` takes them; ``cafe models`` lists them.
    """

    id: str
    dim: int
    logit_scale: float
    logit_bias: float
    device: str
    dtype: str
    batch_size: int
    cropper: Cropper
    parallel: bool = False
    reopen: Callable[[str], Encoder] | None = None
    dtypes: ClassVar[tuple[str, ...]] = ENCODING_DTYPES
    known_models: ClassVar[Mapping[str, KnownModel]] = {}

    @property
    def least_rows(self) -> int:
        """Rows of which a batch must have a multiple, so that what else is in it changes no bit of an image's features.

        Extraction fills other batches up. 1, the default, is right where an image is computed by itself.
        """
        return 1

    @property
    def has_text(self) -> bool:
        """Whether there is a text tower; without, :meth:`encode_text` refuses, and ``identity()["text"]`` is None."""
        return True

    @property
    def takes_views(self) -> bool:
        """Whether augmented views, which are made of bytes, can be encoded."""
        return True

    @classmethod
    def open(cls, source: str, device: str, dtype: str, model_id: str | None = None) -> Self:
        """Load a model. An encoder that is made in Python alone need not have it; one in this folder must.

        Parameters
        ----------
        source : str
            The part after the library's name and a colon: a folder, or whatever the library knows models by.
        device, dtype : str
            As for :func:`cafe.encoders.open_encoder`; see :func:`cafe.compute.choose_device` and
            :func:`cafe.compute.choose_encoding_dtype`.
        model_id : str or None
            What the encoder calls itself, which is what the user typed; None takes ``source``.

        Raises
        ------
        InputError
            If it is not there, or the device or dtype cannot be had.
        MissingDependencyError
            If the library is not installed.
        """
        raise InputError(f"{cls.__name__} is not opened by a name; make it in Python, and hand it to extract()")

    @classmethod
    def write_example(cls, folder: Path) -> str:
        """Write a tiny model into an empty folder, and return what a user would give to open it.

        The contract tests open it with :func:`cafe.encoders.open_encoder`, in every dtype. Random weights do, if
        different images and different texts get different features; see :mod:`cafe.encoders.examples`.

        Raises
        ------
        CafeError
            If the library is not installed, or cannot be imported; the tests are skipped then.
        """
        raise InputError(f"{cls.__name__} writes no example of a model; encoders of cafe/encoders do")

    def with_batch_size(self, batch_size: int) -> Self:
        """Return an encoder of the same towers, not copied, that encodes so many images or prompts together."""
        other = copy.copy(self)
        other.batch_size = batch_size
        return other

    @abstractmethod
    def encode_images(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode pixels (n, height, width, 3) to features (n, d): rescaled and normalised on the device."""

    def start_images(self, crops: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
        """Begin to encode pixels (n, height, width, 3), and return what waits for their features (n, d).

        On a device of its own, the copy and the work may go on after the return; the array may be filled anew at
        once. An encoder that does not override this encodes here and now.
        """
        features = self.encode_images(crops)
        return lambda: features

    def projection(self) -> NDArray[np.float32] | None:
        """Return the image tower's final projection (w, d); None where it has none that is one matrix (SigLIP)."""
        return None

    def encode_images_unprojected(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Encode pixels to features (n, d), and to what goes into the projection, (n, w), in one pass.

        ``encode_images`` gives the same features; the second times :meth:`projection` are the first up to rounding.

        Raises
        ------
        InputError
            If there is no projection.
        """
        raise InputError(
            f"encoder {self.id!r} has no projection at its end that is one matrix, so there are no features before it"
        )

    def encode_for_prediction(self, crops: NDArray[np.uint8], *, unprojected: bool = False) -> NDArray[np.float32]:
        """Encode pixels to name what is on them, in whatever way is soonest done.

        Parameters
        ----------
        crops : ndarray of shape (n, height, width, 3), uint8
            Of any number of images.
        unprojected : bool, default=False
            Whether what goes into the projection is wanted in place of the features.

        Returns
        -------
        ndarray of shape (n, d) or (n, w), float32
            Up to rounding what :meth:`encode_images` gives; an encoder that does not override this gives just that.
        """
        return self.encode_images_unprojected(crops)[1] if unprojected else self.encode_images(crops)

    def image_identity(self) -> dict[str, Any]:
        """Return the part ``image`` of :meth:`identity`; an encoder may know it before the rest."""
        image: dict[str, Any] = self.identity()["image"]
        return image

    @abstractmethod
    def encode_text(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Encode prompts to features (n, d), in chunks; a long prompt is cut at the tower's context."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return what changes a feature, as two JSON parts plus what is only recorded.

        Keys: ``image`` (weights_sha256 of the image side, preprocessing with its backend, dtype),
        ``text`` (weights_sha256 of the text side, tokenizer_sha256, dtype; None without a text tower),
        ``recorded`` (id, revision, library versions, device).
        """

    def text_tower(self) -> TextTower:
        """Return the live text tower, for methods that learn prompts.

        Raises
        ------
        InputError
            If this encoder's library has none here.
        """
        raise InputError(f"encoder {self.id!r} gives no live text tower, which methods that learn prompts need")
