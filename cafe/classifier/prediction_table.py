"""Writes the table of predictions, a CSV file with one image a line; a call that was killed is carried on by the next.

Until the table is whole, a file beside it, called ``NAME.csv.partial``, keeps the predictions: its first line is the
request, and each further line is one encoding batch; every line has its SHA-256. The next call keeps the batches of
images whose bytes are the same, and encodes the other images in the same batches as before, so that the table is the
same to the byte.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

import numpy as np

from cafe.cache.locks import try_claim
from cafe.classifier.images import ImageInput
from cafe.classifier.prediction import Array, Prediction
from cafe.classifier.reading import ReadImage, read_ahead
from cafe.errors import InputError, UnreadableImageError
from cafe.files import open_lock_file, prepare_folder, replacing
from cafe.names import csv_cell
from cafe.version import __version__

if TYPE_CHECKING:
    from cafe.classifier.evaluation import LabelledFolder

SUFFIX = ".csv"
_PARTIAL = ".partial"
_CERTAINTY_COLUMNS = ("unknown", "unknown_score", "set")  # the set is a list as JSON
_GUESS_COLUMNS = ("class", "probability")  # of each guess; those of the second end in _2, and so on

Answer = tuple[ReadImage, Array, Prediction]  # as of ImageClassifier.predictions
Predictor = Callable[[Iterable[ImageInput]], Iterator[Answer]]


class TableInterrupted(KeyboardInterrupt):
    """Ctrl-C or a signal before a table was whole; the message says what is kept."""


def check_table(out: Path, force: bool) -> None:
    """Raise InputError where no table can be written to a path."""
    if out.suffix.lower() != SUFFIX:
        raise InputError(f"--out takes a file that ends in {SUFFIX}; got {str(out)!r}")
    if out.is_dir():
        raise InputError(f"--out takes a file, and {str(out)!r} is a folder")
    if out.exists() and not force:
        raise InputError(f"{str(out)!r} is there already; name another file, or replace it with --force")


@contextmanager
def writing_table(
    out: Path,
    images: Iterable[ImageInput],
    predict: Predictor,
    *,
    request: Mapping[str, Any],
    batch_size: int,
    top: int,
    labelled: LabelledFolder | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[Iterator[Answer]]:
    """Yield an iterator that predicts images and writes each prediction to a table, put in place at the end.

    Parameters
    ----------
    out : Path
        The table, as of :func:`check_table`.
    images : iterable of ImageInput
        A list, or an iterator.
    predict : callable
        Predicts images, in batches of ``batch_size`` readable ones.
    request : mapping
        JSON: all that a prediction depends on besides the image. Predictions that were kept for another request are
        dropped.
    batch_size : int
        As above.
    top : int
        Number of classes in each row.
    labelled : LabelledFolder, default=None
        Gives the label of each image; None leaves the column out, and keeps no probabilities.
    tell : callable, default: none
        Called with a sentence about the predictions that are kept.

    Yields
    ------
    iterator of (ReadImage, ndarray, Prediction)
        As of ``predict``, with those that were kept.

    Raises
    ------
    InputError
        If another process writes the same table, or its folder cannot be written to.
    TableInterrupted
        In place of KeyboardInterrupt.
    """
    out = out.absolute()
    prepare_folder(out.parent)
    claim = try_claim(out.with_name(f".{out.name}{_PARTIAL}.lock"))
    if claim is None:
        raise InputError(f"{str(out)!r} is being written by another process right now; wait for it, or name another")
    with claim:
        partial = _Partial(out.with_name(out.name + _PARTIAL), {**request, "labelled": labelled is not None}, tell)
        try:
            with replacing(out) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
                table = _Table(stream, top, labelled)
                yield _predict_and_record(images, predict, partial, batch_size, table, labelled is not None, tell)
                stream.flush()
                if not partial.is_whole:
                    raise InputError(f"{str(out)!r} was not written: not all of its images were gone through")
        except KeyboardInterrupt as error:
            raise TableInterrupted(f"interrupted; {partial.described()}") from error
        except BaseException:
            partial.close()
            raise
        partial.remove()


def _predict_and_record(
    images: Iterable[ImageInput],
    predict: Predictor,
    partial: _Partial,
    batch_size: int,
    table: _Table,
    with_probabilities: bool,
    tell: Callable[[str], None],
) -> Iterator[Answer]:
    """Yield the prediction of every image in order: kept ones where images are unchanged, then new ones.

    Each prediction is written to the table, and each new batch of ``batch_size`` readable images to the partial file.
    """
    unread = iter(images)
    n_kept, changed = 0, list[ImageInput]()  # changed: images taken from ``unread`` that differ from the kept batch
    for kept in partial.batches():
        changed = list(islice(unread, len(kept)))
        answers = _kept_answers(changed, kept)
        if answers is None:
            partial.cut()
            break
        for answer in answers:
            table.add(answer)
            yield answer
        n_kept, changed = n_kept + len(kept), []
    if n_kept:
        tell(f"{n_kept:,} images were named before this run began; these rows are kept")
    # A list stays a list: the features of its files are looked up in caches by their sizes.
    remaining = images[n_kept:] if isinstance(images, list) else chain(changed, unread)
    batch, n_readable = list[Answer](), 0
    for answer in predict(remaining):
        table.add(answer)
        batch.append(answer)
        n_readable += answer[0].unreadable is None
        if n_readable == batch_size:  # the batches that are scored together end here too
            partial.append([_as_json(each, with_probabilities) for each in batch])
            batch, n_readable = [], 0
        yield answer
    partial.is_whole = True


def _as_json(answer: Answer, with_probabilities: bool) -> dict[str, Any]:
    """Return an answer as JSON for the partial file."""
    image, probabilities, prediction = answer
    return {
        "sha256": None if image.sha256 is None else image.sha256.hex(),
        "prediction": asdict(prediction),
        "probabilities": [probabilities.dtype.str, b64encode(probabilities.tobytes()).decode()]
        if with_probabilities
        else None,
    }


def _kept_answers(images: Sequence[ImageInput], kept: Sequence[Mapping[str, Any]]) -> list[Answer] | None:
    """Return the kept predictions of a batch if its images have the same names and bytes now; else None."""
    if [image.name for image in images] != [each["prediction"]["image"] for each in kept]:
        return None
    answers = []
    for image, each in zip(read_ahead(images, _no_cropper, "pillow", lambda _: True), kept, strict=True):
        sha256 = None if image.sha256 is None else image.sha256.hex()
        if sha256 is None or sha256 != each["sha256"]:  # an image that cannot be read at all is tried again
            return None
        prediction = Prediction(
            **{
                **each["prediction"],
                "classes": tuple((name, p) for name, p in each["prediction"]["classes"]),
                "set": None if each["prediction"]["set"] is None else tuple(each["prediction"]["set"]),
            }
        )
        read = ReadImage(
            image.input,
            image.sha256,
            unreadable=None
            if prediction.unreadable is None
            else UnreadableImageError(image.input.name, prediction.unreadable),
        )
        dtype, packed = each["probabilities"] or ("<f4", "")
        answers.append((read, np.frombuffer(b64decode(packed), dtype), prediction))
    return answers


def _no_cropper() -> Any:
    """Fail: an image that is compared by its bytes alone is never cropped."""
    raise AssertionError("an image that is only compared by its bytes is cropped")


class _Partial:
    """The file that keeps the predictions of a table that is not whole yet."""

    def __init__(self, path: Path, request: Mapping[str, Any], tell: Callable[[str], None]) -> None:
        self._path = path
        # Like a claim's: no link, and no file that has a second name.
        self._file: BinaryIO = os.fdopen(open_lock_file(path), "r+b")
        self._n_images = 0
        self.is_whole = False  # whether all images have been gone through
        self._start = self._end = 0  # of the batch that was read or written last
        head = {"format": "cafe-predictions", "format_version": 1, "cafe_version": __version__, "request": request}
        head = json.loads(json.dumps(head))  # as it is read back
        recorded = self._next_line()
        if recorded != head:
            if recorded is not None:
                tell(f"{path} was begun with another run or other options, and is begun anew")
            self.cut()
            self._write(head)

    def batches(self) -> Iterator[list[dict[str, Any]]]:
        """Yield the batches that are kept, and cut off a line that a kill left unfinished."""
        while (kept := self._next_line()) is not None:
            yield kept
            self._n_images += len(kept)  # the caller goes on only if the images are the same
        self.cut()

    def cut(self) -> None:
        """Remove the batch that was read last, and all that follow, from the file."""
        self._file.seek(self._start)
        self._file.truncate()

    def append(self, batch: Sequence[Mapping[str, Any]]) -> None:
        """Add a batch to the file."""
        self._write(batch)
        self._n_images += len(batch)

    def described(self) -> str:
        """Close the file, and return a sentence about what it keeps."""
        n, path = self._n_images, self._path
        self.close()
        if not n:
            return "nothing was done yet that could be kept"
        return f"the rows of {n:,} images are kept in {path}, and the same command carries on from there"

    def close(self) -> None:
        """Close the file for the next call; without a batch, remove it."""
        self._file.close()
        if not self._n_images:
            self._path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the file, after the table has taken its place."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _next_line(self) -> Any:
        """Read the next line; None at the end, or where the line is not whole."""
        self._start = self._end
        line = self._file.readline()
        self._end += len(line)
        sha256, _, text = line.partition(b" ")
        if not line.endswith(b"\n") or hashlib.sha256(text[:-1]).hexdigest().encode() != sha256:
            self._end = self._start
            return None
        return json.loads(text)

    def _write(self, value: Any) -> None:
        """Append a value as one line: the SHA-256 of its JSON, and the JSON."""
        text = json.dumps(value).encode()
        self._file.write(hashlib.sha256(text).hexdigest().encode() + b" " + text + b"\n")
        self._file.flush()
        self._start = self._end = self._file.tell()


class _Table:
    """Writes the head and the rows of a table."""

    def __init__(self, stream: TextIO, top: int, labelled: LabelledFolder | None) -> None:
        self._writer = csv.writer(stream, lineterminator="\n")
        self._top, self._labelled = top, labelled
        guesses = [
            f"{name}{'' if place == 1 else f'_{place}'}" for place in range(1, top + 1) for name in _GUESS_COLUMNS
        ]
        label = [] if labelled is None else ["label"]
        self._writer.writerow(["image", *label, *guesses, *_CERTAINTY_COLUMNS, "unreadable"])

    def add(self, answer: Answer) -> None:
        """Write the row of one image."""
        image, _, prediction = answer
        guesses = [text for name, p in prediction.classes for text in (csv_cell(name), f"{p:.6f}")]
        guesses += [""] * (len(_GUESS_COLUMNS) * self._top - len(guesses))
        label = [] if self._labelled is None else [csv_cell(self._labelled.name_of(image.input))]
        certainty = [
            "" if prediction.unknown is None else str(prediction.unknown).lower(),
            "" if prediction.unknown_score is None else f"{prediction.unknown_score:.6f}",
            "" if prediction.set is None else csv_cell(json.dumps(prediction.set, ensure_ascii=False)),
        ]
        row = [csv_cell(image.input.name), *label, *guesses, *certainty, csv_cell(prediction.unreadable or "")]
        self._writer.writerow(row)
