"""``cafe push``: a run to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cafe.cli.chosen import chosen_run
from cafe.cli.options import CacheDir, Json, Quiet, RunOption
from cafe.cli.screen import Screen


def push(
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Of the Hub: owner/name; made where it is not there.")],
    run: RunOption = None,
    private: Annotated[bool, typer.Option("--private", help="A new repository is seen by its owner alone.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Push report.html too, which shows some of your images.")
    ] = False,
    cache_dir: CacheDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Push a run to the Hub: the fitted part, run.json and the model card; no image, and nothing of this machine.

    The token is found as all programs of the Hub find it (`hf auth login`, or HF_TOKEN), and neither shown nor kept.
    Python fetches the run with `cafe.Classifier.from_pretrained(REPO)`.
    """
    with Screen(json=json, quiet=quiet) as screen:
        from cafe.sharing.hub import push_run

        folder = chosen_run(run, cache_dir, screen, verb="pushing")
        summary = push_run(folder, repo, private=private, with_report=report)
        if Path(summary.encoder).is_absolute():
            screen.warn(f"its encoder is the folder {summary.encoder}, which others must have and name with --model")
        text = f"{', '.join(summary.files)} pushed to {summary.url}"
        screen.answer({"run": str(folder), **summary.to_json()}, text)
        screen.say(f'in Python: cafe.Classifier.from_pretrained("{repo}")')
