"""Two encoders in one fit against the better of both alone, on digits: the table of docs/encoders.md.

    python benchmarks/studies/two_encoders.py [--draws 5] [--first pixels --methods auto]

The first encoder is ``cafe:mini``, or, without any text, pixels; the second a DINOv2 of two layers with random weights,
which hardly sees anything, or the 8 x 8 pixels of the digits themselves, which see well and have no text. ``auto``
alone on either is what the others are held against: behind the better of both, by mean accuracy over the draws, by no
more than two paired standard errors at any number of shots. The error is that of ``benchmarks/studies/README.md``, on
draws and test rows both.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
from harness import is_smoke, markdown, parse, report
from tasks import paired_error

from cafe.cache.extract.run import extract_many
from cafe.cache.format.reader import read_features
from cafe.data.opening import open_dataset
from cafe.encoders.examples import save_tiny_dinov2
from cafe.encoders.opening import open_encoder
from cafe.features import Features
from cafe.fitting import FitRequest, fit_all
from cafe.protocol.tasks import make_task

SHOTS = (1, 2, 4, 8, 16)
METHODS = ("auto", "zero-shot-plus", "linear-map", "gda", "tip-adapter", "linear-probe")


def digits(folder: Path) -> dict[str, Features]:
    """Return digits by ``cafe:mini``, by a tiny DINOv2 with random weights, and as their own pixels."""
    data = open_dataset("digits")
    models = {"cafe:mini": "cafe:mini", "random DINOv2": str(save_tiny_dinov2(folder / "dinov2"))}
    encoders = [open_encoder(model, "cpu", "float32") for model in models.values()]
    made = extract_many(data, encoders, [folder / f"{number}.h5" for number in range(len(models))])
    features = {name: read_features(summary.path) for name, summary in zip(models, made, strict=True)}
    mini = features["cafe:mini"]
    splits = {}
    for name, split in mini.splits.items():
        pixels = [np.asarray(data.image(name, i).convert("L"), np.float32).ravel() for i in range(len(split))]
        splits[name] = replace(split, image_features=np.stack(pixels))  # (n, 64)
    features["pixels"] = Features(splits, mini.class_names, provenance={"dataset": "digits", "encoder": "pixels"})
    return features


def right(features: Features, method: str, shots: int, draws: Sequence[int]) -> np.ndarray:
    """Fit a method on each draw; return whether each test row is right, (draws, n)."""
    tasks = [make_task(features, shots, draw) for draw in draws]
    fits = fit_all(tasks, [FitRequest(method, {}, number) for number in range(len(tasks))])
    return np.stack([fit.correct for fit in fits])


def measured(
    first: str, draws: Sequence[int], methods: Sequence[str], all_shots: Sequence[int]
) -> list[dict[str, Any]]:
    """Return a row for each number of shots, second encoder and method."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        alone = digits(Path(folder))
        own = alone.pop(first)
        alone.pop("cafe:mini", None)
        for shots in all_shots:
            by_first = right(own, "auto", shots, draws)
            for name, second in alone.items():
                by_second = right(second, "auto", shots, draws)
                better = max(by_first, by_second, key=np.mean)
                joined = own.join(second)
                for method in methods:
                    by_both = right(joined, method, shots, draws)
                    differences = by_both.astype(np.float64) - better
                    rows.append(
                        {
                            "shots": shots,
                            "first": first,
                            "second": name,
                            "method": method,
                            "draws": len(draws),
                            "first_alone": float(by_first.mean()),
                            "second_alone": float(by_second.mean()),
                            "both": float(by_both.mean()),
                            "difference": float(differences.mean()),
                            "paired_error": float(paired_error(differences)),
                        }
                    )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table of docs/encoders.md."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = []
    for first in [row for row in rows if row["method"] == methods[0]]:
        cells = [first["second"], str(first["shots"])]
        cells += [f"{100 * first[key]:.1f}" for key in ("first_alone", "second_alone")]
        for method in methods:
            for row in rows:
                if (row["second"], row["shots"], row["method"]) == (first["second"], first["shots"], method):
                    ahead, error = 100 * row["difference"], 100 * row["paired_error"]
                    cells.append(f"{100 * row['both']:.1f} ({ahead:+.1f}, error {error:.1f})")
        lines.append(cells)
    print(markdown(["second encoder", "shots", "first alone", "second alone", *methods], lines))


def main() -> None:
    """Measure both encoders alone and joined, record the rows, and print their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5, help="of shots")
    parser.add_argument("--first", default="cafe:mini", choices=("cafe:mini", "pixels"), help="encoder")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="on both encoders")
    given = parse(parser, {"draws": 2, "methods": METHODS[:1]})
    rows = measured(given.first, range(1, given.draws + 1), given.methods, SHOTS[1:2] if is_smoke() else SHOTS)
    report("two_encoders", None, rows)
    if not is_smoke():
        table(rows)


if __name__ == "__main__":
    main()
