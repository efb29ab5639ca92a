"""``cafe fit``: fit one method on cached features and save it."""

from __future__ import annotations

import inspect
import json as json_module
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cafe.cli.caches import chosen_cache
from cafe.cli.options import CacheDir, Device, FitDtype, Json, Quiet, Seed, Selection, ratio
from cafe.cli.screen import Screen, duration
from cafe.errors import InputError
from cafe.registry import entries, find
from cafe.report.tables import align_left

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cafe.features import Features

DEFAULT_METHOD = "auto"
# Where only options of its own are given.
ADAPTER = "clip-adapter"

# What has an option of its own, or comes from the cache.
_ELSEWHERE = {
    **{name: f"give --{name}" for name in ("variant", "alpha", "beta", "reduction", "device", "dtype")},
    "random_state": "give --seed",
    **dict.fromkeys(
        ("class_embeddings", "classes", "class_names", "projection", "text_features", "prompt_classes"),
        "it comes from the cache",
    ),
    "unlabelled": "give --unlabelled",
}


def _complete_method(incomplete: str) -> list[str]:
    return [name for name in entries("methods", "METHOD") if name.startswith(incomplete)]


def fit(
    cache: Annotated[
        str | None,
        typer.Option("--cache", metavar="FILE|NAME", help="Which cache to learn from [default: the newest]."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="NAME",
            help=f"See `cafe methods` [default: {DEFAULT_METHOD}; {ADAPTER} with --variant, --alpha, --beta or "
            "--reduction].",
            autocompletion=_complete_method,
        ),
    ] = None,
    variant: Annotated[
        str | None, typer.Option("--variant", metavar="image|text|both", help="Which tower's features are adapted.")
    ] = None,
    alpha: Annotated[
        str | None,
        typer.Option("--alpha", metavar="X|auto|learned|scalar", help="Weight of the adapted image feature."),
    ] = None,
    beta: Annotated[
        str | None,
        typer.Option("--beta", metavar="X|auto|learned|scalar", help="Weight of the adapted text feature."),
    ] = None,
    reduction: Annotated[
        int | None, typer.Option("--reduction", metavar="R", help="The bottleneck is the feature width divided by R.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other parameter of the method, such as form=released or n_context=4; may be repeated.",
        ),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option("--shots", metavar="K", help="Training images per class [default: all training images]."),
    ] = None,
    unlabelled: Annotated[
        str | None,
        typer.Option(
            "--unlabelled",
            metavar="FOLDER|SPLIT",
            help="Images without labels to learn from as well: a split of the cache, or a folder, which is encoded "
            "(ss-text).",
        ),
    ] = None,
    seed: Seed = 1,
    selection: Selection = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Where the fitted method is saved [default: below <cache-dir>/runs]."
        ),
    ] = None,
    device: Device = "auto",
    dtype: FitDtype = "auto",
    cache_dir: CacheDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit one method on cached features and save it.

    It is measured on the test split; nothing is ever chosen there unless oracle-test is asked for.
    """
    given = {
        "variant": variant,
        "alpha": None if alpha is None else ratio(alpha, "--alpha"),
        "beta": None if beta is None else ratio(beta, "--beta"),
        "reduction": reduction,
    }
    own = _settings_of(settings)
    parameters = {**{name: value for name, value in given.items() if value is not None}, **own}
    method = method or (ADAPTER if any(value is not None for value in given.values()) else DEFAULT_METHOD)
    find("methods", "METHOD", "method", method)
    if shots is not None and shots < 1:
        raise InputError(f"--shots takes a whole number of at least 1; got {shots}")
    if method == ADAPTER:
        _check_side(variant or "image", alpha, beta)
    with Screen(json=json, quiet=quiet) as screen:
        from cafe.cache.format.reader import load_features
        from cafe.files import cache_dir as cache_folder
        from cafe.files import check_output_folder
        from cafe.runs import RUN_FILE, new_run_folder, save

        if out is not None:
            check_output_folder(out, RUN_FILE, "the run")
        folder = cache_folder(cache_dir)
        features = load_features(chosen_cache(cache, folder, screen), memmap="auto")

        # After the cache: a missing one should not wait for torch.
        from cafe.fitting import check_learns_unlabelled, fit_method

        if own:
            _check_kinds(own, find("methods", "METHOD", "method", method).load().__init__.__annotations__)
        if unlabelled is not None:
            check_learns_unlabelled(method)
        aside = _unlabelled(unlabelled, features, device, screen)
        fitted = fit_method(
            features, method, parameters, shots=shots, seed=seed, selection=selection, device=device, dtype=dtype,
            unlabelled=aside, unlabelled_name=unlabelled or "",
        )  # fmt: skip
        run = out or new_run_folder(folder, fitted.row)
        save(fitted.estimator, run, row=fitted.row, features=features)
        screen.answer({"run": str(run), "rows": [fitted.row]}, described(fitted.row, run))
        if fitted.row["selection"].get("note"):
            screen.warn(f"nothing could be chosen, and the default was taken: {fitted.row['selection']['note']}")
        if fitted.row["oracle"]:
            screen.warn(
                "settings were chosen on the test set (oracle-test): the accuracy is an upper bound, not a result"
            )
        screen.say("try it on an image of your own:")
        screen.next_steps(f"cafe predict --run {run} IMAGE")


def _unlabelled(given: str | None, features: Features, device: str, screen: Screen) -> str | NDArray[Any] | None:
    """Return the split, or the features of the folder, that --unlabelled names; None for none.

    Raises
    ------
    InputError
        If it names neither.
    """
    if given is None or given in features.splits:
        return given
    if not Path(given).is_dir():
        raise InputError(
            f"--unlabelled takes a split of the cache ({', '.join(features.splits)}) or a folder of images; "
            f"got {given!r}"
        )
    from cafe.classifier.encoding import encode_like

    with screen.progress("images") as progress:
        return encode_like(features, given, device=device, progress=progress)


def _check_side(variant: str, alpha: str | None, beta: str | None) -> None:
    """Refuse a ratio of the side that CLIP-Adapter's variant leaves as it is: it would change nothing.

    Raises
    ------
    InputError
        Naming the option and the variants that have that side.
    """
    for option, value, without, side in (("--alpha", alpha, "text", "image"), ("--beta", beta, "image", "text")):
        if value is not None and variant == without:
            raise InputError(
                f"{option} weighs the adapted {side} feature, which --variant {without} does not have; "
                f"take --variant {side} or both, or leave {option} out"
            )


def described(row: dict[str, Any], run: Path) -> str:
    """Write one fitted row for people."""
    shots = "all training images" if row["shots"] is None else f"{row['shots']} shot{'s' if row['shots'] > 1 else ''}"
    trained = f"{row['n_train']:,} images ({shots}, seed {row['seed']}) in {duration(row['fit_seconds'])}"
    if row.get("n_unlabelled"):
        trained += f", and {row['n_unlabelled']:,} unlabelled ({row['unlabelled']})"
    if row["n_train"] == 0:
        trained = "no image: it reads text alone"
    pairs = [
        [
            " ".join(str(word) for word in (row["method"], row["variant"]) if word),
            f"{row['dataset']}, {row['encoder']}",
        ],
        ["trained on", trained],
        ["accuracy", f"{_percent(row['acc1'])} on {row['n_test']:,} test images"],
        ["zero-shot", _percent(row["zero_shot_acc1"])],
        ["chosen", _chosen(row["selection"])],
        ["saved in", str(run)],
    ]
    first, *rest = [pair for pair in pairs if pair[1]]
    return "\n".join(align_left(first, rest))


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


def _chosen(selection: dict[str, Any]) -> str:
    values = ((name, f"{v:.4g}" if isinstance(v, float) else v) for name, v in (selection.get("chosen") or {}).items())
    chosen = ", ".join(f"{name} {value}" for name, value in values)
    how = "not chosen: the default" if selection["policy"] == "fixed" else f"by {selection['policy']}"
    return f"{chosen} ({how})" if chosen else ""


def _settings_of(given: Sequence[str] | None) -> dict[str, Any]:
    """Read settings; a value is JSON where it can be, else text.

    Raises
    ------
    InputError
        If one is no ``NAME=VALUE``, is given twice, or is set in another way.

    Examples
    --------
    >>> _settings_of(["form=released", "epochs=20", "normalize=false", "n_context=4"])
    {'form': 'released', 'epochs': 20, 'normalize': False, 'n_context': 4}
    """
    settings: dict[str, Any] = {}
    for text in given or ():
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
        wanted = " or ".join(_KIND_NAMES[kind] for kind in kinds)
        raise InputError(f"--set {name} takes {wanted}; got {value!r}")


_KIND_NAMES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a word", "None": "null"}


def _kinds(value: Any) -> set[str]:
    """Name the types that a JSON value passes for."""
    if value is None:
        return {"None"}
    if isinstance(value, int) and not isinstance(value, bool):
        return {"int", "float"}
    return {type(value).__name__}
