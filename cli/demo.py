"""``cafe demo``: the whole of cafe on what comes with it, offline."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cafe.cli.chosen import same_cache_dir
from cafe.cli.compare import DEFAULT_SEEDS, DEFAULT_SHOTS
from cafe.cli.extract import DEFAULT_MODEL
from cafe.cli.extraction_text import described_extraction, shown_on, warn_about
from cafe.cli.fit_text import described_fit
from cafe.cli.options import CacheDir, DemoDtype, Device, Json, Quiet, Seed, whole_numbers
from cafe.cli.screen import Screen, duration
from cafe.report.tables import terminal_table

if TYPE_CHECKING:
    from cafe.cache.extract.progress import ExtractionSummary
    from cafe.features import Features
    from cafe.report.comparison import Comparison

DATASET = "digits"
SUITE = "baselines"
FIT_SHOTS = 16


def demo(
    seed: Seed = 1,
    device: Device = "auto",
    dtype: DemoDtype = "auto",
    cache_dir: CacheDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the whole of cafe on what comes with it, offline.

    Extracts features of real handwritten digits with a small CLIP (both come with cafe), fits the default method,
    compares the baselines, and writes a table, a figure and a page.
    """
    started = time.monotonic()
    with Screen(json=json, quiet=quiet) as screen:
        screen.say("getting ready: digits, and the small CLIP that comes with cafe")
        from cafe.cache.format.reader import read_features
        from cafe.files import cache_dir as cache_folder
        from cafe.fitting import check_device_and_dtype
        from cafe.report.files import write_report
        from cafe.runs import RUNS

        check_device_and_dtype(device, dtype)
        folder = cache_folder(cache_dir)
        run = folder / RUNS / "demo"
        summary = _extract(screen, folder, device, dtype)
        features = read_features(summary.path)
        row = _fit(screen, summary.path, run / "fit", seed, device, dtype, folder)
        comparison = _compare(screen, features, device, dtype)
        files = write_report(run, comparison)
        document = {
            "cache": summary.to_json(),
            "run": str(run / "fit"),
            "fit": row,
            "rows": comparison.rows,
            "summary": comparison.summary,
            "files": files,
            "seconds": time.monotonic() - started,
        }
        screen.answer(document, terminal_table(comparison.summary))
        _farewell(screen, run, cache_dir, time.monotonic() - started)


def _extract(screen: Screen, folder: Path, device: str, dtype: str) -> ExtractionSummary:
    """Extract the demo's data set into a cache in the folder, and return the summary, which is printed too."""
    from cafe.cache.extract.run import extract
    from cafe.cache.locate import cache_path
    from cafe.data.opening import open_dataset
    from cafe.encoders.opening import open_encoder

    _headline(screen, "1 of 3: every image through the frozen encoder, once")
    dataset = open_dataset(DATASET, None)
    encoder = open_encoder(DEFAULT_MODEL, device, dtype)
    with screen.progress("images") as images, screen.progress("templates") as text:
        path = cache_path(folder, dataset.name, encoder.id)
        summary = extract(dataset, encoder, path, progress=shown_on(images, text))
    warn_about(summary, screen)
    screen.say(described_extraction(summary))
    return summary


def _fit(screen: Screen, cache: Path, run: Path, seed: int, device: str, dtype: str, folder: Path) -> dict[str, Any]:
    """Fit and save as `cafe fit --shots` does, so that the run can say what is unknown, and has its page."""
    from cafe.classifier.classifier import Classifier
    from cafe.fitting import DEFAULT_METHOD

    _headline(screen, f"2 of 3: {DEFAULT_METHOD} on {FIT_SHOTS} images of each class, from the cache")
    classifier = Classifier.fit(
        cache, shots=FIT_SHOTS, seed=seed, device=device, dtype=dtype, cache_dir=folder, save=run
    )
    row = classifier.row or {}
    screen.say(described_fit(row, run))
    return row


def _compare(screen: Screen, features: Features, device: str, dtype: str) -> Comparison:
    """Compare the methods of the demo's suite on the extracted features."""
    from cafe.compare import compare

    _headline(screen, "3 of 3: the baselines, at five numbers of shots and three seeds")
    shots = whole_numbers(DEFAULT_SHOTS, "--shots", least=1)
    seeds = whole_numbers(DEFAULT_SEEDS, "--seeds", least=0)
    with screen.progress("series") as progress:
        return compare(SUITE, [features], shots=shots, seeds=seeds, device=device, dtype=dtype, progress=progress)


def _headline(screen: Screen, text: str) -> None:
    """Print the title of a step of the demo."""
    screen.say(f"\n{text}", colour="bold")


def _farewell(screen: Screen, run: Path, cache_dir: Path | None, seconds: float) -> None:
    """Say where figure and report are, and which commands to try next."""
    folder = "".join(f" {shlex.quote(word)}" for word in same_cache_dir(cache_dir))
    screen.say(f"\nfigure: {run / 'figure.png'}\nreport: {run / 'report.html'}\nall in {duration(seconds)}; next, try:")
    screen.next_steps(
        f"cafe fit --variant both --alpha auto --shots 16{folder}",
        f"cafe predict --run {run / 'fit'} IMAGE",
        f"cafe fit ./my_photos --model openai/clip-vit-base-patch32{folder}",
    )
