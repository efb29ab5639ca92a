"""``cafe compare``: run a suite over shots and seeds, and write a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cafe.cli.chosen import chosen_caches
from cafe.cli.options import (
    CacheDir,
    Device,
    FitDtype,
    Json,
    OneSeed,
    Quiet,
    Seeds,
    Selection,
    Shots,
    chosen_seeds,
    completed_from,
    listed,
    numbers,
    numbers_of_shots,
    option,
)
from cafe.cli.scikit_learn import import_scikit_learn
from cafe.cli.screen import Screen
from cafe.registry import find
from cafe.report.tables import terminal_table

if TYPE_CHECKING:
    from cafe.report.comparison import Comparison

DEFAULT_SHOTS = ("1,2,4,8,16",)
DEFAULT_SEEDS = ("1,2,3",)


_complete_suite = completed_from("compare.suites", "SUITE")


def compare(
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="See `cafe suites`.", autocompletion=_complete_suite)],
    cache: Annotated[
        list[str] | None,
        option(
            "--cache",
            "FILE,...",
            "Caches to compare on; a list; shift learns from the first; two of one data set by two encoders are "
            "compared joined as well [default: the one last used].",
        ),
    ] = None,
    shots: Shots = None,
    seeds: Seeds = None,
    seed: OneSeed = None,
    methods: Annotated[
        list[str] | None, option("--methods", "NAME,...", "Only these methods of the suite; a list.")
    ] = None,
    include: Annotated[
        list[str] | None, option("--include", "NAME,...", "Costly methods to run too, such as coop; a list.")
    ] = None,
    values: Annotated[
        list[str] | None, option("--values", "X,...", "Values of what the suite varies (alpha, bottleneck); a list.")
    ] = None,
    selection: Selection = "auto",
    out: Annotated[
        Path | None, option("--out", "DIR", "Where the report is written [default: below <cache-dir>/runs].")
    ] = None,
    device: Device = "auto",
    dtype: FitDtype = "auto",
    cache_dir: CacheDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a suite over shots and seeds and write a report.

    Prints the table; the report is results.jsonl, results.csv, table.md, figure.png and report.html.
    """
    find("compare.suites", "SUITE", "suite", suite)
    for name in (*listed(methods), *listed(include)):
        find("methods", "METHOD", "method", name)
    all_shots = numbers_of_shots(shots or DEFAULT_SHOTS)
    all_seeds = chosen_seeds(seeds, seed, DEFAULT_SEEDS)
    all_values = numbers(values, "--values")
    with Screen(json=json, quiet=quiet) as screen:
        screen.say(f"comparing {suite}")  # before anything is imported
        from cafe.cache.format.reader import read_features
        from cafe.files import cache_dir as cache_folder
        from cafe.files import check_output_folder
        from cafe.runs import new_report_folder

        if out is not None:
            check_output_folder(out, "results.jsonl", "the report")
        folder = cache_folder(cache_dir)
        features = [read_features(path) for path in chosen_caches(cache, folder, screen)]

        # After the caches: a missing one should not wait for torch.
        import_scikit_learn()
        from cafe.compare import compare as run_suite
        from cafe.report.files import write_report

        with screen.progress("series") as progress:
            comparison = run_suite(
                suite, features, shots=all_shots, seeds=all_seeds, methods=listed(methods) or None,
                include=listed(include), values=all_values, selection=selection, device=device, dtype=dtype,
                progress=progress,
            )  # fmt: skip
        folder = out or new_report_folder(folder, suite, features)
        files = write_report(folder, comparison)
        _answer(comparison, files, folder, screen)


def _answer(comparison: Comparison, files: list[Path], folder: Path, screen: Screen) -> None:
    """Print the table, what is to be said of it, and where the report is."""
    fields = ("suite", "title", "rows", "summary", "pairs", "published", "notes", "seconds")
    document = {**{name: getattr(comparison, name) for name in fields}, "files": files}
    screen.answer(document, terminal_table(comparison.summary, layout=comparison.layout))
    for note in comparison.notes:
        screen.say(f"note: {note}")
    if spent := comparison.time_summary():
        screen.say(spent)
    screen.say(f"\nfigure: {folder / 'figure.png'}\nreport: {folder / 'report.html'}")
