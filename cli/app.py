"""The ``cafe`` command: which verbs there are. Nothing but wiring.

A command line names one verb, and only the file of that verb is imported, and only its options are read.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Annotated

import typer

from cafe.cli.problems import run
from cafe.cli.verbs import Verbs, help_without_verb
from cafe.cli.waiting import wait_briefly
from cafe.version import __version__

_EPILOG = "Exit codes: 0 done, 1 failed, 2 wrong usage or bad input, 130 interrupted. CAFE_DEBUG=1 shows tracebacks."
# How many garbage collections of middle-aged objects there are for a full one; Python has 10. While libraries are
# imported, each full one walks through all that was imported before: a tenth of the processor time of a fit with torch.
_MIDDLE_FOR_A_FULL = 100

# The file of each verb, in the order of the help page. It has a function of the verb's name, or an ``app`` of the verbs
# below it.
_OWN_FILES = "demo", "extract", "fit", "compare", "predict", "export", "serve", "push", "cache", "runs"
_LISTS = "datasets", "methods", "models", "suites", "templates"
_FILES = {**{verb: verb for verb in _OWN_FILES}, **dict.fromkeys(_LISTS, "lists")}


def _show_version(asked_for: bool) -> None:
    if asked_for:
        typer.echo(f"cafe {__version__}")
        raise typer.Exit()


def _cafe(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Few-shot image classifiers from a frozen CLIP: features are extracted once, then every method fits in seconds.

    Start with: cafe demo
    """
    help_without_verb(context)


def app_with(verbs: Iterable[str] = _FILES) -> typer.Typer:
    """Return the command with some verbs, all unless they are named.

    Parameters
    ----------
    verbs : iterable of str
        Such as ``["fit"]``.

    Examples
    --------
    >>> len(app_with(["fit"]).registered_commands)
    1
    """
    app = typer.Typer(
        name="cafe",
        cls=Verbs,
        epilog=_EPILOG,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    app.callback(invoke_without_command=True)(_cafe)
    for verb in verbs:
        file = import_module(f"cafe.cli.{_FILES[verb]}")
        if hasattr(file, "app"):
            app.add_typer(file.app, name=verb)
        else:
            app.command(verb)(getattr(file, verb))
    return app


def call(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Parameters
    ----------
    arguments : sequence of str or None
        What stands after ``cafe``; None takes it from ``sys.argv``.

    Returns
    -------
    int
        0 done, 1 failed on the way, 2 wrong usage or bad input, 130 interrupted.

    Examples
    --------
    >>> call(["--version"])
    cafe 0.1.0
    0
    """
    args = None if arguments is None else list(arguments)
    first = (sys.argv[1:] if args is None else args)[:1]

    def command_line() -> int | None:
        app = app_with(first if set(first) & set(_FILES) else _FILES)
        code: int | None = typer.main.get_command(app).main(args=args, prog_name="cafe", standalone_mode=False)
        return code

    return run(command_line)


def main() -> None:
    """Run ``cafe`` as a program."""
    wait_briefly(os.environ)
    gc.set_threshold(*gc.get_threshold()[:2], _MIDDLE_FOR_A_FULL)
    code = call()
    # The interpreter would look for unreachable objects among all modules before it ends, torch's among them: a seventh
    # of the processor time of a short command. Frozen objects are left out.
    gc.freeze()
    sys.exit(code)
