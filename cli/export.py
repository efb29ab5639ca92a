"""``cafe export``: a run as one ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cafe.cli.options import CacheDir, Json, MovedModel, Quiet, RunOption, option
from cafe.cli.screen import Screen, size
from cafe.errors import InputError, unknown_name

FORMATS = ("onnx",)


def export(
    export_format: Annotated[str, option("--format", "onnx", "Of the file.")] = "onnx",
    run: RunOption = None,
    out: Annotated[
        Path | None, option("--out", "FILE", "The file [default: named after the run, in the current folder].")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that is there.")] = False,
    model: MovedModel = None,
    cache_dir: CacheDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a classifier as one ONNX file: image tower, head and softmax.

    The file is compared with torch on real images before it takes its name. `cafe predict --run FILE.onnx` and
    `cafe serve --run FILE.onnx` take it, and any program with ONNX Runtime does.
    """
    if export_format not in FORMATS:
        raise unknown_name("format", export_format, FORMATS)
    with Screen(json=json, quiet=quiet) as screen:
        from cafe.files import cache_dir as cache_folder
        from cafe.runs import find_run

        folder = find_run(run, cache_folder(cache_dir))
        target = Path(f"{folder.name}.onnx") if out is None else out
        if target.suffix != ".onnx":
            raise InputError(f"--out takes a file that ends in .onnx; got {str(target)!r}")
        if target.is_dir():
            raise InputError(f"--out takes a file, and {str(target)!r} is a folder")
        if target.exists() and not force:
            raise InputError(f"{str(target)!r} is there already; name another with --out, or replace it with --force")
        screen.say(f"using the run last used: {folder}" if run is None else f"opening the run {folder}")
        from cafe.classifier.classifier import Classifier

        classifier = Classifier.load(folder, model=model, device="cpu", dtype="float32", cache_dir=cache_dir)
        screen.say("exporting, and comparing ONNX Runtime with torch on real images")
        summary = classifier.export_onnx(target)
        text = (
            f"{summary.path}  {size(summary.bytes)}, opset {summary.opset}, {summary.dtype}: "
            f"{', '.join(summary.outputs)}\n"
            f"compared with torch on {summary.images} images: probabilities differ by {summary.largest_difference:.1e} "
            "at most"
        )
        screen.answer({"run": str(folder), **summary.to_json()}, text)
        screen.say(f"try it:\n  cafe predict --run {summary.path} IMAGE")
