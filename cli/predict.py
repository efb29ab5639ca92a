"""``cafe predict``: name what is on new images, with a fitted method or with names of classes alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cafe.cli.chosen import chosen_run, is_exported_file, open_exported_file
from cafe.cli.options import CacheDir, Device, Dtype, Json, Quiet, RunOrFile, listed, option
from cafe.cli.problems import sigterm_as_interrupt
from cafe.cli.screen import Screen
from cafe.errors import InputError
from cafe.report.rows import counted

if TYPE_CHECKING:
    from cafe.classifier.classifier import Classifier
    from cafe.classifier.evaluation import Evaluation, LabelledFolder
    from cafe.classifier.images import ImageInput
    from cafe.classifier.onnx_classifier import OnnxClassifier
    from cafe.classifier.prediction import Prediction
    from cafe.classifier.reading import ReadImage

_SHOWN_LEFT_OUT = 5
_WIDEST_NAME = 60  # columns that the names of images are padded to at most


def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE|FOLDER|-...",
            help="Images, folders of images at any depth, patterns such as 'photos/*.jpg'; - reads a list of these "
            "from standard input, one on each line. A folder whose folders have the names of the classes is evaluated "
            "as well.",
        ),
    ],
    run: RunOrFile = None,
    classes: Annotated[
        list[str] | None,
        option("--classes", "cat,dog", "Names of classes instead of a run: zero-shot, without any label; a list."),
    ] = None,
    templates: Annotated[
        list[str] | None, option("--templates", "NAME|TEXT|FILE", "Of --classes, as for `cafe extract`.")
    ] = None,
    out: Annotated[
        Path | None, option("--out", "FILE.csv", "Write a table, one image a line, instead of printing.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that --out names.")] = False,
    top: Annotated[int, option("--top", "N", "How many classes to name for each image.")] = 3,
    unknown: Annotated[
        str,
        option(
            "--unknown",
            "off|auto|RATE",
            "Which images are called unknown, since they look like none of the classes: none, or so many that "
            "this share of images of the classes is called so by mistake; auto is 0.05 where the run has a threshold.",
        ),
    ] = "auto",
    coverage: Annotated[
        float | None,
        option(
            "--coverage",
            "0.95",
            "Also give a set of classes for each image, so that this share of images has its class in its set.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        option(
            "--model",
            "ID",
            "The encoder of --classes [default: $CAFE_MODEL, else cafe:mini]; or where that of the run is now, if "
            "it has moved [default: as in the run].",
        ),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    cache_dir: CacheDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Name the most probable classes of new images.

    Images are read and named one after the other, so there may be any number of them.
    """
    if top < 1:
        raise InputError(f"--top takes a whole number of at least 1; got {top}")
    if classes and run is not None:
        raise InputError("give --run for a fitted classifier, or --classes for names alone; not both")
    if templates and not classes:
        raise InputError("--templates go with --classes; a run has its own")
    rate = _false_alarms(unknown)
    if coverage is not None and not 0 < coverage < 1:
        raise InputError(f"--coverage takes a share between 0 and 1, such as 0.95; got {coverage:g}")
    with Screen(json=json, quiet=quiet) as screen, sigterm_as_interrupt(), ExitStack() as stack:
        # Before anything is imported: it may take a second.
        screen.say(f"looking at {images[0] if len(images) == 1 else counted(len(images), 'path')}")
        if out is not None:
            from cafe.classifier.prediction_table import check_table

            check_table(out, force)
        left_out: list[str] = []
        # Before the encoder: a wrong path should not wait for it. What comes through a pipe is not waited for.
        named = _named_images(images, left_out.append)
        inputs = named if "-" in images else list(named)
        classifier = _opened(run, classes, templates, model, device, dtype, cache_dir, screen)
        if rate == "auto" and not classes and classifier.why_nothing_is_unknown:
            screen.say(f"no image is called unknown: {classifier.why_nothing_is_unknown}")
        labelled = _labelled_folder(classifier, inputs, images)
        progress = stack.enter_context(screen.progress("images"))
        if out is None:
            answers = classifier.predictions(inputs, top, unknown=rate, coverage=coverage)
        else:
            table = classifier.predictions_to_table(
                out, inputs, top, unknown=rate, coverage=coverage, labelled=labelled, tell=screen.say
            )
            answers = stack.enter_context(table)
        predictions, unreadable, done = _show(answers, inputs, labelled, screen, progress, with_table=out is not None)
        _tell_left_out(left_out, unreadable, screen)
        if not done:
            raise InputError("standard input names no image; give one path on each line")
        if done == len(unreadable):
            raise InputError(f"none of {counted(done, 'image')} can be read, the first {unreadable[0].image!r}")
        evaluation = None if labelled is None else _evaluated(labelled, screen)
        document = {
            "run": None if classifier.run is None else str(classifier.run),
            "images": [prediction.to_json() for prediction in predictions],
            "unreadable": [prediction.to_json() for prediction in unreadable],
            "left_out": left_out,
            "evaluation": None if evaluation is None else evaluation.to_json(),
            "out": None if out is None else str(out),
        }
        # The table takes its place only now that it is whole.
        stack.close()
        _answer(document, evaluation, done - len(unreadable), screen)


def _false_alarms(unknown: str) -> float | Literal["auto", "off"]:
    """Read ``--unknown``: a rate or a word. Raises InputError."""
    if unknown == "auto":
        return "auto"
    if unknown == "off":
        return "off"
    try:
        rate = float(unknown)
    except ValueError:
        rate = 0.0
    if not 0 < rate < 1:
        raise InputError(f"--unknown takes off, auto or a rate of false alarms such as 0.05; got {unknown!r}")
    return rate


def _named_images(paths: Sequence[str], left_out: Callable[[str], None]) -> Iterator[ImageInput]:
    """Go through the images that were named, each once; ``-`` stands for the lines of standard input."""
    from cafe.classifier.images import files_of

    seen = set[str]()
    for path in paths:
        for line in filter(None, (line.rstrip("\r\n") for line in sys.stdin)) if path == "-" else [path]:
            for image in files_of(line, left_out):
                if image.name not in seen:
                    seen.add(image.name)
                    yield image


def _opened(
    run: str | None, classes: list[str] | None, templates: list[str] | None, model: str | None, device: str,
    dtype: str, cache_dir: Path | None, screen: Screen,
) -> Classifier | OnnxClassifier:  # fmt: skip
    """Open an exported file, a zero-shot classifier of ``classes``, or a fitted run, whichever the options name."""
    if is_exported_file(run):
        for flag, value, possible in (("--device", device, "cpu"), ("--dtype", dtype, "float32")):
            if value not in ("auto", possible):
                raise InputError(f"a file of `cafe export` runs with {flag} {possible}; got {value}")
        if model is not None:
            raise InputError("--model names an encoder, and a file of `cafe export` holds its own; leave it out")
        return open_exported_file(str(run), screen)
    if classes:
        screen.say(f"zero-shot among {counted(len(listed(classes)), 'class', 'classes')}")
    folder = None if classes else chosen_run(run, cache_dir, screen)
    from cafe.classifier.classifier import Classifier

    if folder is None:
        return Classifier.zero_shot(listed(classes), model=model, templates=templates, device=device, dtype=dtype)
    return Classifier.load(folder, model=model, device=device, dtype=dtype, cache_dir=cache_dir)


def _labelled_folder(
    classifier: Classifier | OnnxClassifier, inputs: Iterable[ImageInput], paths: Sequence[str]
) -> LabelledFolder | None:
    """Return the object that evaluates images by their folders; None where no folder is named as a class."""
    from cafe.classifier.evaluation import LabelledFolder

    if not isinstance(inputs, list) or not all(map(os.path.isdir, paths)):
        return None
    labelled = LabelledFolder(classifier.classes_, classifier.fitted_images)
    return labelled if labelled.fits(inputs) else None


def _show(
    answers: Iterable[tuple[ReadImage, Any, Prediction]],
    inputs: Iterable[ImageInput],
    labelled: LabelledFolder | None,
    screen: Screen,
    progress: Callable[[int, int], None],
    *,
    with_table: bool,
) -> tuple[list[Prediction], list[Prediction], int]:
    """Print a line for each answer, unless the answers go to a table; show progress, and collect what is needed later.

    Every image with its probabilities is added to ``labelled``, if that is given.

    Returns
    -------
    predictions : list of Prediction
        Predictions that --json prints; empty without it.
    unreadable : list of Prediction
        Predictions of images that cannot be read.
    done : int
        Number of answers.
    """
    total = len(inputs) if isinstance(inputs, list) else None
    widest = 0 if total is None else min(_WIDEST_NAME, max(len(image.name) for image in inputs))
    predictions, unreadable, done = [], [], 0
    for done, (image, probabilities, prediction) in enumerate(answers, start=1):
        if labelled is not None:
            labelled.add(image, probabilities)
        if prediction.unreadable is not None:
            unreadable.append(prediction)
        elif screen.json:
            predictions.append(prediction)
        if not with_table and prediction.unreadable is None:
            screen.result(_line(prediction, widest))
        if total is not None and (with_table or not screen.shows_results):
            progress(done, total)
    return predictions, unreadable, done


def _evaluated(labelled: LabelledFolder, screen: Screen) -> Evaluation | None:
    """Return the evaluation of a folder of labelled images; None, and a message, where they cannot be evaluated."""
    try:
        evaluation = labelled.evaluation()
    except InputError as error:  # no image is left to be tested on; the names that were asked for are given
        screen.say(f"not evaluated: {error}")
        return None
    if evaluation.fitted is None:
        screen.warn(
            "this run does not say which images it was fitted on: where some of them are among these, the accuracy "
            "is too high"
        )
    return evaluation


def _line(prediction: Prediction, widest: int) -> str:
    """Return the line of an image: its name and its most probable classes."""
    guesses = "  ".join(f"{name} {100 * probability:.1f} %" for name, probability in prediction.classes)
    said = f"unknown (nearest: {guesses})" if prediction.unknown else guesses
    among = "" if prediction.set is None else f"  in {{{', '.join(prediction.set)}}}"
    return f"{prediction.image:<{widest}}  {said}{among}"


def _tell_left_out(others: Sequence[str], unreadable: Sequence[Prediction], screen: Screen) -> None:
    """Report how many images and files were left out, and name the first of them."""
    for prediction in unreadable[:_SHOWN_LEFT_OUT]:
        screen.warn(f"image {prediction.image!r} was left out: {prediction.unreadable}")
    if len(unreadable) > _SHOWN_LEFT_OUT:
        screen.warn(f"{counted(len(unreadable), 'image')} were left out in all; --json and --out name all of them")
    if others:
        shown = ", ".join(repr(name) for name in others[:_SHOWN_LEFT_OUT])
        more = f", and {len(others) - _SHOWN_LEFT_OUT:,} more" if len(others) > _SHOWN_LEFT_OUT else ""
        were_left_out = (
            "file was left out: no image by its name, or that is not UTF-8"
            if len(others) == 1
            else "files were left out: no images by their names, or these are not UTF-8"
        )
        screen.say(f"{len(others):,} {were_left_out}: {shown}{more}")


def _answer(document: dict[str, Any], evaluation: Evaluation | None, n_named: int, screen: Screen) -> None:
    """Write what --json asks for, or the evaluation of a folder of labelled images."""
    lines = []
    if document["out"] is not None:
        lines.append(f"{counted(n_named, 'image')} named in {document['out']}")
    if evaluation is not None:
        lines.append(described_evaluation(evaluation))
    if lines or screen.json:
        screen.answer(document, "\n".join(lines))


def described_evaluation(evaluation: Evaluation) -> str:
    """Write an evaluation on one line for people."""
    left_out = [
        text
        for number, text in (
            (evaluation.fitted, "that the run was fitted on"),
            (evaluation.other_classes, "of other classes"),
            (evaluation.unreadable, "that cannot be read"),
        )
        if number
        for text in [f"{number:,} {text}"]
    ]
    tested = f"{counted(evaluation.n_test, 'image')} of {counted(len(evaluation.recall), 'class', 'classes')}"
    low, high = (100 * end for end in evaluation.acc1_interval)
    accuracy = f"accuracy {100 * evaluation.acc1:.2f} % (95 % interval {low:.1f} to {high:.1f}) on {tested}"
    return accuracy + (f"; left out: {', '.join(left_out)}" if left_out else "")
