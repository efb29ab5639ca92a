"""``cafe predict``: name what is on new images, with a method that was fitted before."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cafe.cli.options import CacheDir, Device, Dtype, Json, Quiet
from cafe.cli.runs import find_run, run_names
from cafe.cli.screen import Screen
from cafe.errors import InputError, UnreadableImageError
from cafe.report.table import align_left

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cafe.encoders.base import Encoder


def _complete_run(incomplete: str) -> list[str]:
    from cafe.files import cache_dir as cache_folder

    return [name for name in run_names(cache_folder()) if name.startswith(incomplete)]


def predict(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="Images, or folders of images at any depth.")
    ],
    run: Annotated[
        str,
        typer.Option(
            "--run",
            metavar="DIR|NAME",
            help="Folder that `cafe fit` saved to, or its name below <cache-dir>/runs.",
            autocompletion=_complete_run,
        ),
    ],
    top: Annotated[int, typer.Option("--top", metavar="N", help="How many classes to name for each image.")] = 3,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="ID", help="Where the encoder is now, if it has moved [default: as in the run]."
        ),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    cache_dir: CacheDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Name the most probable classes of new images."""
    if top < 1:
        raise InputError(f"--top takes a whole number of at least 1; got {top}")
    with Screen(json=json, quiet=quiet) as screen:
        from cafe.files import cache_dir as cache_folder

        paths = image_files(images)
        folder = find_run(run, cache_folder(cache_dir))

        # After the paths: a wrong one should not wait for torch.
        from cafe.encoders.opening import open_encoder
        from cafe.runs import load

        estimator = load(folder)
        named = _encoder_of(folder, estimator.run_)
        try:
            encoder = open_encoder(model or named, device, dtype)
        except InputError as error:
            if model is not None:
                raise
            raise InputError(
                f"the run {folder} needs its encoder: {error}; say where it is now with --model"
            ) from error
        check_encoder(estimator.run_, encoder)
        found, unreadable = [], []
        with screen.progress("images") as progress:
            for done, (path, result) in enumerate(_predictions(paths, estimator, encoder, top), start=1):
                if isinstance(result, UnreadableImageError):
                    unreadable.append({"image": str(path), "reason": result.reason})
                else:
                    found.append({"image": str(path), "predictions": result})
                progress(done, len(paths))
        for one in unreadable:
            screen.warn(f"image {one['image']!r} was left out: {one['reason']}")
        if not found:
            raise InputError(f"none of the {len(paths)} images can be read, the first {unreadable[0]['image']!r}")
        screen.answer({"run": str(folder), "images": found, "unreadable": unreadable}, _described(found))


def image_files(given: Sequence[Path]) -> list[Path]:
    """List the images that were named, and those in the folders that were named, each once.

    Raises
    ------
    InputError
        If something is not there, or a folder holds no image.
    """
    from cafe.data.images.files import list_images

    found: dict[Path, None] = {}
    for path in given:
        if path.is_dir():
            inside = [path / name for name, _ in list_images(path).files]
            if not inside:
                raise InputError(f"there is no image in the folder {path}")
            found.update(dict.fromkeys(inside))
        elif path.exists():
            found[path] = None
        else:
            raise InputError(f"no such image or folder: {str(path)!r}")
    return list(found)


def _encoder_of(folder: Path, run: Mapping[str, Any]) -> str:
    """Name the encoder of a run; one that was saved without its features cannot see images."""
    if not run.get("encoder") or not run.get("class_names"):
        raise InputError(f"the run {folder} names no encoder and no classes, so it cannot name what is on an image")
    return str(run["encoder"])


def check_encoder(run: Mapping[str, Any], encoder: Encoder) -> None:
    """Refuse an encoder whose image features are not those that the method was fitted on.

    Raises
    ------
    InputError
        If weights or preprocessing differ; a different computing dtype does not count.

    Warns
    -----
    UserWarning
        If the features were imported: of their encoder there is only the name that a user gave.
    """
    fitted, here = run["provenance"]["image"]["encoder"], encoder.identity()["image"]
    if "named_by_user" in fitted:
        warnings.warn(
            f"this run was fitted on imported features, said to be of {fitted['named_by_user']!r}; whether "
            f"{encoder.id!r} makes the same ones cannot be checked",
            UserWarning,
            stacklevel=2,
        )
        return
    differing = sorted(key for key in {*fitted, *here} - {"dtype"} if fitted.get(key) != here.get(key))
    if differing:
        raise InputError(
            f"encoder {encoder.id!r} is not the one that this run was fitted with: {', '.join(differing)} differ; "
            f"name the right one with --model"
        )


def _predictions(
    paths: Sequence[Path], estimator: Any, encoder: Encoder, top: int
) -> Iterator[tuple[Path, list[dict[str, Any]] | UnreadableImageError]]:
    """Yield the classes of every image, or why it cannot be read; images of one batch together, in order."""
    import numpy as np

    decoder = estimator.run_["provenance"]["image"].get("decoder", "pillow")  # as the features of the fit were made
    for start in range(0, len(paths), encoder.batch_size):
        batch = paths[start : start + encoder.batch_size]
        crops = [_crop(path, encoder, decoder) for path in batch]
        readable = [crop for crop in crops if not isinstance(crop, UnreadableImageError)]
        probabilities = iter(())
        if readable:
            probabilities = iter(estimator.predict_proba(_features(estimator, encoder, np.stack(readable))))
        for path, crop in zip(batch, crops, strict=True):
            if isinstance(crop, UnreadableImageError):
                yield path, crop
            else:
                yield path, _top_classes(next(probabilities), estimator, top)


def _features(estimator: Any, encoder: Encoder, crops: NDArray[np.uint8]) -> NDArray[Any]:
    """Return what the method was fitted on: a method that trains the projection takes the features before it."""
    if getattr(estimator, "projection", None) is not None:
        return encoder.encode_images_unprojected(crops)[1]
    return encoder.encode_images(crops)


def _crop(path: Path, encoder: Encoder, decoder: str) -> NDArray[np.uint8] | UnreadableImageError:
    from cafe.data.images.decoding import decoding_with, read_image

    try:
        with decoding_with(decoder):
            return encoder.cropper(read_image(path, str(path)))
    except UnreadableImageError as error:
        return error


def _top_classes(probabilities: NDArray[Any], estimator: Any, top: int) -> list[dict[str, Any]]:
    order = (-probabilities).argsort(kind="stable")[:top]
    names = estimator.run_["class_names"]
    return [
        {"class": str(names[int(estimator.classes_[column])]), "probability": float(probabilities[column])}
        for column in order
    ]


def _described(found: Sequence[dict[str, Any]]) -> str:
    lines = [
        [one["image"], *(f"{guess['class']} {100 * guess['probability']:.1f} %" for guess in one["predictions"])]
        for one in found
    ]
    return "\n".join(align_left(lines[0], lines[1:]))
