"""Options that several verbs share, and how lists and residual ratios are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import typer

from cafe.errors import InputError
from cafe.registry import entries

ALL = "all"
_Number = TypeVar("_Number", int, float)
NAMES_FOR_RATIO = ("auto", "learned", "scalar")


def _keep_measurements(folder: Path | None) -> Path | None:
    """Keep measurements of this machine in the cache folder that was named."""
    from cafe.measured import keep_in

    keep_in(folder)
    return folder


def option(flag: str, metavar: str, help: str, *, complete: Callable[[str], list[str]] | None = None) -> Any:
    """Return an option as its line of the help page has it: its flag, what it takes, and what it is for.

    Parameters
    ----------
    flag, metavar, help : str
        Such as ``"--shots"``, ``"K"`` and ``"Training images per class."``.
    complete : callable or None, default=None
        From the beginning of a value to the values that begin so, for the shell.
    """
    return typer.Option(flag, metavar=metavar, help=help, autocompletion=complete)


def completed_from(folder: str, constant: str) -> Callable[[str], list[str]]:
    """Return what completes the names of a folder whose files set a constant; see :mod:`cafe.registry`."""
    return lambda incomplete: [name for name in entries(folder, constant) if name.startswith(incomplete)]


def complete_run(incomplete: str) -> list[str]:
    """Return the names of runs that begin so, for the shell."""
    from cafe.files import cache_dir as cache_folder
    from cafe.runs import run_names

    return [name for name in run_names(cache_folder()) if name.startswith(incomplete)]


def _dtype_option(types: str, purpose: str) -> Any:
    """Return the option ``--dtype`` of a verb that computes in some of the types."""
    return option("--dtype", f"auto|{types}", f"Floating-point type to {purpose} in.")


def _run_option(metavar: str, or_else: str) -> Any:
    """Return the option ``--run``; ``or_else`` says what may stand in place of a run."""
    return option(
        "--run",
        metavar,
        f"Folder that `cafe fit` saved to, or its name as `cafe runs ls` has it{or_else} [default: the run last used].",
        complete=complete_run,
    )


Json: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")
]
Quiet: TypeAlias = Annotated[
    bool, typer.Option("--quiet", "-q", help="No prose and no progress; warnings and errors stay.")
]
Device: TypeAlias = Annotated[str, option("--device", "auto|cpu|cuda[:i]|mps", "Where to compute.")]
Dtype: TypeAlias = Annotated[str, _dtype_option("float32|bfloat16|float16", "compute")]
FitDtype: TypeAlias = Annotated[str, _dtype_option("float32|bfloat16|float64|tf32", "train")]
DemoDtype: TypeAlias = Annotated[str, _dtype_option("float32|bfloat16", "encode and train")]
Seed: TypeAlias = Annotated[int, option("--seed", "S", "Seed of the few-shot draw and of training.")]
CacheDir: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir",
        metavar="DIR",
        help="Folder of caches and runs [default: $CAFE_CACHE, else $XDG_CACHE_HOME/cafe].",
        callback=_keep_measurements,
    ),
]
NoUseOfCacheDir: TypeAlias = Annotated[
    Path | None,
    option(
        "--cache-dir",
        "DIR",
        "Taken by every verb, so that scripts can give it everywhere; nothing is read from it here.",
    ),
]
Root: TypeAlias = Annotated[
    Path | None,
    option("--root", "DIR", "Folder that holds the named data set [default: $CAFE_DATA]."),
]
RunOption: TypeAlias = Annotated[str | None, _run_option("DIR|NAME", "")]
RunOrFile: TypeAlias = Annotated[str | None, _run_option("DIR|NAME|FILE.onnx", ", or a file of `cafe export`")]
MovedModel: TypeAlias = Annotated[
    str | None, option("--model", "ID", "Where the run's encoder is now, if it has moved.")
]
Shots: TypeAlias = Annotated[
    list[str] | None,
    option("--shots", "1,2,4,all", "Training images per class, or all there are; a list."),
]
Seeds: TypeAlias = Annotated[list[str] | None, option("--seeds", "1,2,3", "Seeds of the few-shot draws; a list.")]
OneSeed: TypeAlias = Annotated[int | None, option("--seed", "S", "One seed: the same as --seeds S.")]
Selection: TypeAlias = Annotated[
    str,
    option(
        "--selection",
        "POLICY",
        "How settings are chosen: auto, fixed, few-shot-val, cross-validation, or oracle-test "
        "(looks at the test set; every result it touches is marked).",
    ),
]


def listed(values: Sequence[str] | None) -> list[str]:
    """Read a list that is comma-separated, given by repeating the option, or both.

    Examples
    --------
    >>> listed(["1,2", "4"]), listed(None)
    (['1', '2', '4'], [])
    """
    return [part for value in values or () for part in map(str.strip, value.split(",")) if part]


def _distinct(
    values: Sequence[str] | None, convert: Callable[[str], _Number], is_valid: Callable[[_Number], bool], expected: str
) -> list[_Number]:
    """Convert the parts of a list, each once. Raises InputError, which begins with ``expected``."""
    numbers: dict[_Number, None] = {}
    for text in listed(values):
        try:
            number = convert(text)
            valid = is_valid(number)
        except ValueError:
            valid = False
        if not valid:
            raise InputError(f"{expected}; got {text!r}")
        numbers[number] = None
    return list(numbers)


def whole_numbers(values: Sequence[str] | None, option: str, *, least: int) -> list[int]:
    """Read a list of whole numbers; a number given twice counts once.

    Raises
    ------
    InputError
        If it is something else; the message names the option.

    Examples
    --------
    >>> whole_numbers(["1,2,4"], "--shots", least=1)
    [1, 2, 4]
    """
    return _distinct(
        values, int, lambda n: n >= least, f"{option} takes whole numbers of at least {least}, such as 1,2,4"
    )


def numbers_of_shots(values: Sequence[str]) -> list[int | None]:
    """Read numbers of training images per class, of which ``all`` is None.

    Raises
    ------
    InputError
        If it is something else.

    Examples
    --------
    >>> numbers_of_shots(["1,2", "all"])
    [1, 2, None]
    """
    texts = listed(values)
    shots: list[int | None] = [*whole_numbers([text for text in texts if text != ALL], "--shots", least=1)]
    return shots + [None] if ALL in texts else shots


def chosen_seeds(seeds: Sequence[str] | None, seed: int | None, default: Sequence[str]) -> list[int]:
    """Read the seeds of a comparison from ``--seeds``, or from ``--seed`` for a single one.

    Raises
    ------
    InputError
        If both are given, or something else than whole numbers.

    Examples
    --------
    >>> chosen_seeds(["1,2"], None, ["1,2,3"]), chosen_seeds(None, 7, ["1,2,3"]), chosen_seeds(None, None, ["1,2,3"])
    ([1, 2], [7], [1, 2, 3])
    """
    if seed is None:
        return whole_numbers(seeds or default, "--seeds", least=0)
    if seeds:
        raise InputError(f"give --seed {seed} for one seed, or --seeds {','.join(listed(seeds))} for a list; not both")
    return whole_numbers([str(seed)], "--seed", least=0)


def numbers(values: Sequence[str] | None, option: str) -> list[float]:
    """Read a list of numbers; a number given twice counts once.

    Raises
    ------
    InputError
        If it is something else; the message names the option.

    Examples
    --------
    >>> numbers(["0,0.2", "1"], "--values")
    [0.0, 0.2, 1.0]
    """
    return _distinct(values, float, math.isfinite, f"{option} takes numbers, such as 0,0.2,1")


def ratio(text: str, option: str) -> float | str:
    """Read a residual ratio: a number, or the name of a way to find one.

    Raises
    ------
    InputError
        If it is neither.

    Examples
    --------
    >>> ratio("0.2", "--alpha"), ratio("learned", "--alpha")
    (0.2, 'learned')
    """
    if text in NAMES_FOR_RATIO:
        return text
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{option} takes a number or one of {', '.join(NAMES_FOR_RATIO)}; got {text!r}") from None
