"""The ``cafe`` command: which verbs there are. Nothing but wiring."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from cafe.cli import cache, compare, demo, export, extract, fit, lists, predict, push, runs, serve
from cafe.cli.problems import run
from cafe.cli.verbs import Verbs, help_without_verb
from cafe.cli.waiting import wait_briefly
from cafe.version import __version__

_EPILOG = "Exit codes: 0 done, 1 failed, 2 wrong usage or bad input, 130 interrupted. CAFE_DEBUG=1 shows tracebacks."
# How many garbage collections of middle-aged objects there are for a full one; Python has 10. While libraries are
# imported, each full one walks through all that was imported before: a tenth of the processor time of a fit with torch.
_MIDDLE_FOR_A_FULL = 100

app = typer.Typer(
    name="cafe",
    cls=Verbs,
    epilog=_EPILOG,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _show_version(asked_for: bool) -> None:
    if asked_for:
        typer.echo(f"cafe {__version__}")
        raise typer.Exit()


@app.callback(invoke_without_command=True)
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


app.command("demo")(demo.demo)
app.command("extract")(extract.extract)
app.command("fit")(fit.fit)
app.command("compare")(compare.compare)
app.command("predict")(predict.predict)
app.command("export")(export.export)
app.command("serve")(serve.serve)
app.command("push")(push.push)
app.add_typer(cache.app, name="cache")
app.add_typer(runs.app, name="runs")
app.command("datasets")(lists.datasets)
app.command("methods")(lists.methods)
app.command("models")(lists.models)
app.command("suites")(lists.suites)
app.command("templates")(lists.templates)


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
    command = typer.main.get_command(app)
    args = None if arguments is None else list(arguments)
    return run(lambda: command.main(args=args, prog_name="cafe", standalone_mode=False))


def main() -> None:
    """Run ``cafe`` as a program."""
    wait_briefly(os.environ)
    gc.set_threshold(*gc.get_threshold()[:2], _MIDDLE_FOR_A_FULL)
    code = call()
    # The interpreter would look for unreachable objects among all modules before it ends, torch's among them: a seventh
    # of the processor time of a short command. Frozen objects are left out.
    gc.freeze()
    sys.exit(code)
