"""``cafe fit``: fit one method on a folder of images, or on cached features, and save it."""

from __future__ import annotations

import inspect
import json as json_module
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cafe.cli.chosen import same_cache_dir
from cafe.cli.extraction_text import shown_on, warn_about
from cafe.cli.fit_text import described_fit, described_leaderboard
from cafe.cli.options import (
    CacheDir,
    Device,
    FitDtype,
    Json,
    Quiet,
    Root,
    Seed,
    Selection,
    completed_from,
    listed,
    option,
    ratio,
)
from cafe.cli.problems import sigterm_as_interrupt
from cafe.cli.scikit_learn import import_scikit_learn
from cafe.cli.screen import Screen
from cafe.errors import InputError
from cafe.registry import find

if TYPE_CHECKING:
    from cafe.classifier.classifier import Classifier
    from cafe.features import Features

_DEFAULT, _ADAPTER = "auto", "clip-adapter"  # of cafe.fitting, which a help page does not wait for

# What has an option of its own, or comes from the cache.
_ELSEWHERE = {
    **{name: f"give --{name}" for name in ("variant", "alpha", "beta", "reduction", "device", "dtype")},
    "random_state": "give --seed",
    **dict.fromkeys(
        ("class_embeddings", "classes", "class_names", "projection", "text_features", "prompt_classes", "second_width"),
        "it comes from the cache",
    ),
    "unlabelled": "give --unlabelled",
}


_complete_method = completed_from("methods", "METHOD")


def fit(
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="[PATH|CACHE]",
            help="A folder with one folder of images for each class, or what else `cafe extract` takes: its features "
            "are extracted where that is needed; or a cache [default: the cache last used].",
        ),
    ] = None,
    cache: Annotated[
        str | None,
        option(
            "--cache",
            "FILE|NAME",
            "Which cache to learn from; two, A,B, of the same images by two encoders are joined [default: the one "
            "last used].",
        ),
    ] = None,
    model: Annotated[
        str | None,
        option(
            "--model",
            "ID",
            "The encoder of a data set, as for `cafe extract`; A,B for two at once [default: that of its current "
            "cache, else "
            "$CAFE_MODEL, else cafe:mini].",
        ),
    ] = None,
    split: Annotated[
        str | None,
        option("--split", "70/10/20", "Per cent of train, val, test for what has no splits [default: 50/20/30]."),
    ] = None,
    templates: Annotated[
        list[str] | None, option("--templates", "NAME|TEXT|FILE", "Of a data set, as for `cafe extract`.")
    ] = None,
    root: Root = None,
    method: Annotated[
        str | None,
        option(
            "--method",
            "NAME",
            f"See `cafe methods` [default: {_DEFAULT}; {_ADAPTER} with --variant, --alpha, --beta or --reduction].",
            complete=_complete_method,
        ),
    ] = None,
    variant: Annotated[
        str | None, option("--variant", "image|text|both", "Which tower's features are adapted.")
    ] = None,
    alpha: Annotated[
        str | None, option("--alpha", "X|auto|learned|scalar", "Weight of the adapted image feature.")
    ] = None,
    beta: Annotated[
        str | None, option("--beta", "X|auto|learned|scalar", "Weight of the adapted text feature.")
    ] = None,
    reduction: Annotated[
        int | None, option("--reduction", "R", "The bottleneck is the feature width divided by R.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        option(
            "--set",
            "NAME=VALUE",
            "Any other parameter of the method, such as form=released or n_context=4; may be repeated.",
        ),
    ] = None,
    shots: Annotated[
        int | None, option("--shots", "K", "Training images per class [default: all training images].")
    ] = None,
    unlabelled: Annotated[
        str | None,
        option(
            "--unlabelled",
            "FOLDER|SPLIT",
            "Images without labels to learn from as well: a split of the cache, or a folder, which is encoded "
            "(ss-text).",
        ),
    ] = None,
    seed: Seed = 1,
    selection: Selection = "auto",
    refit: Annotated[
        bool | None,
        typer.Option(
            "--refit/--no-refit",
            help="Fit once more after the test, on all labelled images; never on a test split that is not cafe's own "
            "[default: where cafe divided a folder and neither a method, its options nor --shots are given].",
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare/--no-compare",
            help="Test the other methods of `cafe methods` on the same test images as well, and say which are best and "
            "which cannot be told apart; kept is the method that was asked for.",
        ),
    ] = False,
    promises: Annotated[
        bool,
        typer.Option(
            "--promises/--no-promises",
            help="Fit four times more, on parts of the images, for what may be promised of new ones: thresholds "
            "of unknown images, sets of classes, calibrated probabilities, labels that look wrong.",
        ),
    ] = True,
    out: Annotated[
        Path | None, option("--out", "DIR", "Where the fitted method is saved [default: below <cache-dir>/runs].")
    ] = None,
    device: Device = "auto",
    dtype: FitDtype = "auto",
    cache_dir: CacheDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit one method on a folder of images, or on cached features, and save it.

    It is measured on the test split; nothing is ever chosen there unless oracle-test is asked for. Where a folder holds
    few images, it is measured by cross-validation.
    """
    other_settings = _settings_of(settings)
    parameters = {**_settings_of_adapter(variant, alpha, beta, reduction), **other_settings}
    if method is not None:
        find("methods", "METHOD", "method", method)
    if shots is not None and shots < 1:
        raise InputError(f"--shots takes a whole number of at least 1; got {shots}")
    if data is not None and cache is not None:
        raise InputError(f"give {data!r} or --cache {cache!r}, not both")
    with Screen(json=json, quiet=quiet) as screen:
        # Before anything is imported.
        screen.say("getting ready" if data is None and cache is None else f"looking at {data or cache}")
        from cafe.files import cache_dir as cache_folder
        from cafe.files import check_output_folder
        from cafe.runs import RUN_FILE

        if out is not None:
            check_output_folder(out, RUN_FILE, "the run")
        import_scikit_learn()
        from cafe.classifier.classifier import Classifier
        from cafe.fitting import ADAPTER, chosen_method

        name = chosen_method(method, parameters)
        if name == ADAPTER:
            _check_side(variant or "image", alpha, beta)
        if other_settings:
            _check_kinds(other_settings, find("methods", "METHOD", "method", name).load().__init__.__annotations__)
        source = data if cache is None else _caches_of(cache, cache_folder(cache_dir))
        with screen.progress("images") as images, screen.progress("templates") as text, sigterm_as_interrupt():
            classifier = Classifier.fit(
                source, model=model, method=method, parameters=parameters, shots=shots, seed=seed,
                selection=selection, split=split, templates=templates, refit=refit, root=root, device=device,
                dtype=dtype, cache_dir=cache_dir, unlabelled=unlabelled, save=out or True, compare=compare,
                promises=promises, progress=shown_on(images, text, screen), tell=screen.say,
                check_features=_refuse_zero_shot if name == "zero-shot" else None,
            )  # fmt: skip
        _answer(classifier, screen, cache_dir)


def _caches_of(cache: str, folder: Path) -> Path | list[Path]:
    """Return the cache, or the two caches, that --cache names. Raises CacheError and InputError."""
    from cafe.cache.locate import find_cache, find_caches

    names = [cache] if Path(cache).exists() else listed([cache])
    if len(names) > 2:
        raise InputError(f"--cache takes one cache, or two of the same images by two encoders; got {len(names)}")
    return find_caches(names, folder) if len(names) > 1 else find_cache(cache, folder)


def _refuse_zero_shot(features: Features) -> None:
    """Refuse zero-shot where there is no text: class means would be learned from images under its name.

    Raises
    ------
    InputError
        The message names what to do instead.
    """
    if features.text_features is None:
        encoder = features.provenance.get("encoder", "this encoder")
        raise InputError(
            f"{encoder} has no text features here, so there is no zero-shot; "
            f"leave out --method zero-shot (auto learns from the images), or extract with a CLIP, such as --model "
            f"openai/clip-vit-base-patch32; in Python, ZeroShot(class_embeddings=None) takes class means"
        )


def _answer(classifier: Classifier, screen: Screen, cache_dir: Path | None) -> None:
    """Print how a fit did, what was kept, and how to go on."""
    from cafe.runs import REPORT_FILE

    row, run = classifier.row or {}, classifier.run
    for summary in classifier.extractions:
        warn_about(summary, screen)
    extractions = [summary.to_json() for summary in classifier.extractions]
    report = Path(str(run)) / REPORT_FILE
    document = {
        "run": str(run),
        "rows": [row],
        "report": str(report) if report.is_file() else None,
        "cache": ",".join(map(str, classifier.caches)) or None,
        "extraction": extractions if len(extractions) > 1 else next(iter(extractions), None),
        "contents": classifier.contents,
        "notes": list(classifier.notes),
        "leaderboard": None if classifier.leaderboard is None else classifier.leaderboard.to_json(),
    }
    board = "" if classifier.leaderboard is None else f"\n\n{described_leaderboard(classifier.leaderboard)}"
    screen.answer(document, described_fit(row, Path(str(run))) + board)
    if row["selection"].get("note"):
        screen.warn(f"nothing could be chosen, and the default was taken: {row['selection']['note']}")
    if row["oracle"]:
        screen.warn("settings were chosen on the test set (oracle-test): the accuracy is an upper bound, not a result")
    screen.say(f"class by class, mistakes, labels that look wrong: {report}")
    screen.say("try it on an image of your own:")
    screen.next_steps(shlex.join(["cafe", "predict", *same_cache_dir(cache_dir), "IMAGE"]))


def _check_side(variant: str, alpha: str | None, beta: str | None) -> None:
    """Refuse --alpha or --beta where CLIP-Adapter's variant does not adapt that side, so that it changes nothing.

    Raises
    ------
    InputError
        The message names the option and the variants that adapt that side.
    """
    for flag, value, without, side in (("--alpha", alpha, "text", "image"), ("--beta", beta, "image", "text")):
        if value is not None and variant == without:
            raise InputError(
                f"{flag} weighs the adapted {side} feature, which --variant {without} does not have; "
                f"take --variant {side} or both, or leave {flag} out"
            )


def _settings_of_adapter(
    variant: str | None, alpha: str | None, beta: str | None, reduction: int | None
) -> dict[str, Any]:
    """Return CLIP-Adapter's parameters whose options were given, by name. Raises InputError."""
    given = {
        "variant": variant,
        "alpha": None if alpha is None else ratio(alpha, "--alpha"),
        "beta": None if beta is None else ratio(beta, "--beta"),
        "reduction": reduction,
    }
    return {name: value for name, value in given.items() if value is not None}


def _settings_of(assignments: Sequence[str] | None) -> dict[str, Any]:
    """Read settings; a value is JSON where it can be, else text.

    Raises
    ------
    InputError
        If an assignment is no ``NAME=VALUE``, or names a parameter twice or one that another option sets.

    Examples
    --------
    >>> _settings_of(["form=released", "epochs=20", "normalize=false", "n_context=4"])
    {'form': 'released', 'epochs': 20, 'normalize': False, 'n_context': 4}
    """
    settings: dict[str, Any] = {}
    for text in assignments or ():
        name, equals, value = (part.strip() for part in text.partition("="))
        if not name or not equals or not value:
            raise InputError(f"--set takes NAME=VALUE, such as form=released; got {text!r}")
        if name in _ELSEWHERE:
            raise InputError(f"--set cannot set {name}: {_ELSEWHERE[name]}")
        if name in settings:
            raise InputError(f"--set gives {name} twice")
        try:
            settings[name] = json_module.loads(value)
        except ValueError:
            settings[name] = value
    return settings


def _check_kinds(settings: Mapping[str, Any], annotations: Mapping[str, Any]) -> None:
    """Refuse text where a method has a number, and the like; unknown names are left to the method itself.

    Parameters
    ----------
    settings : mapping
        Read by :func:`_settings_of`.
    annotations : mapping of str to str or type
        Types of the method's parameters: as they are written, ``"float | str"``, where its file postpones them, else
        the types themselves.

    Raises
    ------
    InputError
        If a value is of none of these types.

    Examples
    --------
    >>> _check_kinds({"lr": 1, "epochs": None}, {"lr": "float | str", "epochs": int | None})
    """
    for name, value in settings.items():
        annotation = annotations.get(name, "Any")
        written = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
        kinds = [part.strip() for part in written.split("|")]
        if not set(kinds) <= set(_KIND_NAMES) or set(kinds) & _kinds(value):
            continue
        possible = " or ".join(_KIND_NAMES[kind] for kind in kinds)
        raise InputError(f"--set {name} takes {possible}; got {value!r}")


_KIND_NAMES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a word", "None": "null"}


def _kinds(value: Any) -> set[str]:
    """Name the types that a JSON value passes for."""
    if value is None:
        return {"None"}
    if isinstance(value, int) and not isinstance(value, bool):
        return {"int", "float"}
    return {type(value).__name__}
