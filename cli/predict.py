"""``cafe predict``: name what is on new images, with a method that was fitted before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cafe.cli.options import CacheDir, Device, Dtype, Json, Quiet
from cafe.cli.screen import Screen
from cafe.errors import InputError
from cafe.report.tables import align_left


def _complete_run(incomplete: str) -> list[str]:
    from cafe.files import cache_dir as cache_folder
    from cafe.runs import run_names

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
        from cafe.classifier.images import image_files

        paths = image_files(images)

        # After the paths: a wrong one should not wait for torch.
        from cafe.classifier.classifier import Classifier

        classifier = Classifier.load(run, model=model, device=device, dtype=dtype, cache_dir=cache_dir)
        with screen.progress("images") as progress:
            predictions = classifier.top(paths, top, on_error="skip", progress=progress)
        named = [one for one in predictions if one.unreadable is None]
        unreadable = [one for one in predictions if one.unreadable is not None]
        for one in unreadable:
            screen.warn(f"image {one.image!r} was left out: {one.unreadable}")
        if not named:
            raise InputError(f"none of the {len(paths)} images can be read, the first {unreadable[0].image!r}")
        document = {
            "run": str(classifier.run),
            "images": [one.to_json() for one in named],
            "unreadable": [one.to_json() for one in unreadable],
        }
        lines = [
            [one.image, *(f"{name} {100 * probability:.1f} %" for name, probability in one.classes)] for one in named
        ]
        screen.answer(document, "\n".join(align_left(lines[0], lines[1:])))
