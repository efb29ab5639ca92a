"""``cafe fit``: fit one method on cached features and save it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cafe.cli.caches import chosen_cache
from cafe.cli.options import CacheDir, Device, FitDtype, Json, Quiet, Seed, Selection, ratio
from cafe.cli.progress import duration
from cafe.cli.runs import RUN_FILE, check_folder, new_run_folder
from cafe.cli.screen import Screen
from cafe.cli.settings import Settings, check_kinds, settings_of
from cafe.errors import InputError
from cafe.registry import entries, find
from cafe.report.table import align_left

DEFAULT_METHOD = "clip-adapter"


def _complete_method(incomplete: str) -> list[str]:
    return [name for name in entries("methods", "METHOD") if name.startswith(incomplete)]


def fit(
    cache: Annotated[
        str | None,
        typer.Option("--cache", metavar="FILE|NAME", help="Which cache to learn from [default: the newest]."),
    ] = None,
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help="See `cafe methods`.", autocompletion=_complete_method)
    ] = DEFAULT_METHOD,
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
    settings: Settings = None,
    shots: Annotated[
        int | None,
        typer.Option("--shots", metavar="K", help="Training images per class [default: all training images]."),
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
    own = settings_of(settings)
    parameters = {**{name: value for name, value in given.items() if value is not None}, **own}
    check_names(method, shots)
    if method == DEFAULT_METHOD:
        check_side(variant or "image", alpha, beta)
    if out is not None:
        check_folder(out, RUN_FILE, "the run")
    with Screen(json=json, quiet=quiet) as screen:
        from cafe.cache.format.reader import load_features
        from cafe.files import cache_dir as cache_folder

        folder = cache_folder(cache_dir)
        features = load_features(chosen_cache(cache, folder, screen), memmap="auto")

        # After the cache: a missing one should not wait for torch.
        from cafe.fitting import fit_method
        from cafe.runs import save

        if own:
            check_kinds(own, find("methods", "METHOD", "method", method).load().__init__.__annotations__)
        fitted = fit_method(
            features, method, parameters, shots=shots, seed=seed, selection=selection, device=device, dtype=dtype
        )
        run = out or run_folder(folder, fitted.row)
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


def check_side(variant: str, alpha: str | None, beta: str | None) -> None:
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


def check_names(method: str, shots: int | None) -> None:
    """Refuse what can be seen to be wrong before anything heavy is loaded.

    Raises
    ------
    InputError
        If the method is unknown or the number of shots is not positive.
    """
    find("methods", "METHOD", "method", method)
    if shots is not None and shots < 1:
        raise InputError(f"--shots takes a whole number of at least 1; got {shots}")


def run_folder(cache_dir: Path, row: dict[str, Any]) -> Path:
    """Name a new folder after what was fitted."""
    shots = "all" if row["shots"] is None else f"{row['shots']}-shot"
    if row["n_train"] == 0:
        return new_run_folder(cache_dir, row["dataset"], row["encoder"], row["method"])
    return new_run_folder(
        cache_dir, row["dataset"], row["encoder"], row["method"], row["variant"], shots, f"seed-{row['seed']}"
    )


def described(row: dict[str, Any], run: Path) -> str:
    """Write one fitted row for people."""
    shots = "all training images" if row["shots"] is None else f"{row['shots']} shot{'s' if row['shots'] > 1 else ''}"
    trained = f"{row['n_train']:,} images ({shots}, seed {row['seed']}) in {duration(row['fit_seconds'])}"
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
