"""``cafe runs``: ls, info, rm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cafe.cli.chosen import remove_confirmed
from cafe.cli.options import CacheDir, Json, Quiet, complete_run
from cafe.cli.screen import CURRENT, Screen, size
from cafe.cli.verbs import Verbs, help_without_verb
from cafe.errors import InputError
from cafe.report.tables import align_left

if TYPE_CHECKING:
    from cafe.runs import RunSummary

app = typer.Typer(cls=Verbs, help="Look at and remove runs: what cafe fit has saved.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def _runs(context: typer.Context) -> None:
    """Look at and remove runs: what cafe fit has saved."""
    help_without_verb(context)


@app.command("ls")
def ls(cache_dir: CacheDir = None, json: Json = False, quiet: Quiet = False) -> None:
    """List the runs, the one last used or made first; it is marked, and commands take it unless they name another."""
    from cafe.files import cache_dir as cache_folder
    from cafe.runs import list_runs

    with Screen(json=json, quiet=quiet) as screen:
        folder = cache_folder(cache_dir)
        runs = list_runs(folder)
        current = next((run.path for run in runs if run.damaged is None), None)
        document = {
            "cache_dir": str(folder),
            "runs": [{**run.to_json(), "current": run.path == current} for run in runs],
        }
        head = ["", "run", "method", "data set", "encoder", "accuracy", "size", "made"]
        text = "\n".join(align_left(head, [_line(run, current) for run in runs])) if runs else ""
        if runs or json:
            screen.answer(document, text)
        if not runs:
            screen.say(f"there is no run in {folder} yet; make one with: cafe fit FOLDER")
        for run in runs:
            if run.damaged is not None:
                screen.warn(run.damaged)


@app.command("info")
def info(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]",
            help="Folder, or name as `cafe runs ls` has it [default: the one last used].",
            autocompletion=complete_run,
        ),
    ] = None,
    cache_dir: CacheDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what a run is, what it was fitted on, and how it did."""
    from cafe.files import cache_dir as cache_folder
    from cafe.runs import find_run, read_run, summarise_run

    with Screen(json=json, quiet=quiet) as screen:
        caches = cache_folder(cache_dir)
        folder = find_run(run, caches)
        if run is None:
            screen.say(f"showing the run last used: {folder}")
        saved = read_run(folder)
        summary = summarise_run(folder, caches)
        if summary.damaged is not None:
            raise InputError(summary.damaged)
        row = saved.get("row") or {}
        classes = list(saved.get("class_names") or ())
        document = {**summary.to_json(), "class_names": classes, "params": saved["params"], "row": row}
        screen.answer(document, _described(summary, classes, row))


@app.command("rm")
def rm(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Folders, or names as `cafe runs ls` has them.", autocompletion=complete_run
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    cache_dir: CacheDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Remove runs, and nothing else: caches, reports and files of yours stay."""
    from cafe.files import cache_dir as cache_folder
    from cafe.runs import check_run, find_run, remove_run

    with Screen(json=json, quiet=quiet) as screen:
        # All are found before any is removed: one wrong name removes nothing.
        folders = list(dict.fromkeys(find_run(name, cache_folder(cache_dir)) for name in runs))
        for folder in folders:
            check_run(folder)

        def remove(folder: Path) -> None:
            if others := remove_run(folder):
                screen.say(f"{folder} holds other files too, which stay: {', '.join(path.name for path in others[:5])}")

        remove_confirmed(folders, remove, screen, yes=yes)


def _line(run: RunSummary, current: Path | None) -> list[str]:
    """Return the line of a run in the list of runs."""
    mark = CURRENT if run.path == current else ""
    if run.damaged is not None:
        return [mark, run.name, "damaged", "", "", "", size(run.bytes), ""]
    accuracy = "" if run.acc1 is None else f"{100 * run.acc1:.2f} %"
    return [mark, run.name, run.method, run.dataset, run.encoder, accuracy, size(run.bytes), run.made[:16]]


def _described(run: RunSummary, classes: list[str], row: dict[str, Any]) -> str:
    """Return names and values for `cafe runs info`."""
    from cafe.cli.fit_text import described_fit

    shown = ", ".join(classes[:6]) + (f", ... ({len(classes) - 6} more)" if len(classes) > 6 else "")
    lines = [described_fit(row, run.path)] if row else ["\n".join(align_left(["method", run.method], []))]
    facts = [["classes", f"{len(classes)}: {shown}"], ["made", run.made]]
    return "\n".join([*lines, *align_left(facts[0], facts[1:])])
