"""What proker, ss-text, stat-a and weighted templates do on real features: figures of docs/methods.md.

    CAFE_REAL_DATA=... python benchmarks/studies/new_methods.py [proker] [ss-text] [stat-a] [templates]
    python benchmarks/studies/new_methods.py --tables --into docs/methods.md

- ``proker``: the published settings on Caltech69 and ImageNet (4 shots), and the same with the factor 1 / penalty that
  the public code leaves out.
- ``ss-text``: how many images the text should count as, on Caltech69 and Food8, with unlabelled images and without;
  ImageNet is only looked at. "as given" is the published formula with text of unit length.
- ``stat-a``: batches of 64 test rows from few classes, as in the paper, beside zero-shot and trans-clip.
- ``templates``: zero-shot and gda on digits (``cafe:mini``) with 7 and 80 templates, uniform and weighted.

Rows go to results/new_methods.jsonl; ``--tables`` measures nothing and makes the tables of the newest.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
import real_features as real
from harness import commits_of, embedded, is_smoke, markdown, newest, parse, report, shown
from real_features import caltech69, imagenet

from cafe import ProKeR, SSText, StatA, TransCLIP, ZeroShot
from cafe.fitting import fit_method
from cafe.protocol.tasks import make_task

SHOTS, SEEDS = (1, 2, 4, 8, 16), (1, 2, 3)
TEXT_IMAGES = (None, 5.0, 10.0, 20.0, 40.0, 80.0)
# On ImageNet also text that counts as next to nothing, which leaves the class means.
HARDLY = 0.01
# What a plain script of somebody else's gave for ProKeR on these features, in per cent.
THEIRS = {("caltech69", 1): 92.4, ("caltech69", 2): 93.4, ("caltech69", 4): 95.0, ("caltech69", 8): 95.5,
          ("caltech69", 16): 96.2, ("imagenet", 4): 64.8}  # fmt: skip
# Numbers of classes in a batch, as in the paper's tables.
CLASSES = {"1 to 4": (1, 4), "2 to 10": (2, 10), "5 to 25": (5, 25), "all": None}
BATCH, BATCHES = 64, 100


def published(name: str, shots: int) -> tuple[Any, ...]:
    """Return X, y, X_test, y_test, text of a draw of shots; of ImageNet by the rules of real_features.py."""
    if name == "digits":
        task = make_task(embedded(), shots, 1)
        train, test, text = task.train, task.test, task.features.class_embeddings
    else:
        features = {"imagenet": imagenet, "caltech69": caltech69}[name](shots)
        train, test, text = features.split("train"), features.split("test"), features.class_embeddings
    return train.image_features, train.labels, test.image_features, test.labels, text


def mean_accuracy(fits: Sequence[Any]) -> float:
    """Return the mean test accuracy of fits of one method."""
    return float(np.mean([fit.row["acc1"] for fit in fits]))


def proker() -> list[dict[str, Any]]:
    """Measure the published settings with and without the factor."""
    cells = [("digits", 2)] if is_smoke() else [*(("caltech69", k) for k in SHOTS), ("imagenet", 4)]
    rows = []
    for name, shots in cells:
        X, y, X_test, y_test, text = published(name, shots)
        model = ProKeR(text).fit(X, y)
        row = {"section": "proker", "dataset": name, "shots": shots, "accuracy": model.score(X_test, y_test)}
        model.dual_weights_ = model.dual_weights_ / model.penalty_
        rows.append({**row, "with_factor": model.score(X_test, y_test)})
    return rows


def ss_text() -> list[dict[str, Any]]:
    """Measure how many images the text should count as."""
    if is_smoke():
        data, shots, seeds = {"digits": embedded()}, (2,), (1,)
    else:
        data, shots, seeds = {"caltech69": caltech69(), "food8": real.published("food8", None)}, SHOTS, SEEDS
    rows = []
    for name, features in data.items():
        for k in shots:
            for images in TEXT_IMAGES:
                own = {"section": "ss-text", "dataset": name, "shots": k, "text_images": images or "as given"}
                for unlabelled in (None, "train"):
                    if unlabelled and len(features.split("train")) <= k * len(features.class_names):
                        continue  # every training row is a shot
                    options: dict[str, Any] = {"shots": k, "unlabelled": unlabelled}
                    fits = [fit_method(features, "ss-text", {"text_images": images}, seed=s, **options) for s in seeds]
                    rows.append({**own, "unlabelled": unlabelled, "accuracy": mean_accuracy(fits)})
    for k in () if is_smoke() else (1, 4):
        X, y, X_test, y_test, text = published("imagenet", k)
        for images in (*TEXT_IMAGES, HARDLY):
            score = SSText(text, text_images=images).fit(X, y).score(X_test, y_test)
            own = {"section": "ss-text", "dataset": "imagenet", "shots": k, "text_images": images or "as given"}
            rows.append({**own, "unlabelled": None, "accuracy": score})
    return rows


def stat_a() -> list[dict[str, Any]]:
    """Measure batches of few classes."""
    rows, random = [], np.random.default_rng(0)
    for name in ("digits",) if is_smoke() else ("caltech69",):
        X, y, X_test, y_test, text = published(name, 4)
        c = len(text)
        methods = {
            "zero-shot": ZeroShot(text),
            "stat-a": StatA(text),
            "trans-clip (zero-shot)": TransCLIP(text, setting="zero-shot"),
            "trans-clip (4 shots)": TransCLIP(text),
        }
        fits = {label: model.fit(X, y) for label, model in methods.items()}
        for classes, bounds in CLASSES.items():
            right: dict[str, list[float]] = {label: [] for label in fits}
            for _ in range(2 if is_smoke() else BATCHES):
                n_classes = c if bounds is None else min(c, random.integers(bounds[0], bounds[1] + 1))
                pool = np.flatnonzero(np.isin(y_test, random.choice(c, n_classes, replace=False)))
                batch = random.choice(pool, min(BATCH, len(pool)), replace=False)
                for label, model in fits.items():
                    right[label].append(model.score(X_test[batch], y_test[batch]))
            scores = {label: float(np.mean(values)) for label, values in right.items()}
            rows.append({"section": "stat-a", "dataset": name, "classes": classes, **scores})
        whole = {label: model.score(X_test, y_test) for label, model in fits.items()}
        rows.append({"section": "stat-a", "dataset": name, "classes": "whole test set", **whole})
    return rows


def templates() -> list[dict[str, Any]]:
    """Measure weighted templates."""
    from cafe.prompts.imagenet import IMAGENET_7_TEMPLATES, IMAGENET_80_TEMPLATES

    rows = []
    for given in (IMAGENET_7_TEMPLATES,) if is_smoke() else (IMAGENET_7_TEMPLATES, IMAGENET_80_TEMPLATES):
        features = embedded(templates=list(given))
        for method in ("zero-shot", "gda"):
            for shots in (2,) if is_smoke() else SHOTS:
                row = {"section": "templates", "templates": len(given), "method": method, "shots": shots}
                for weights in ("uniform", "timo"):
                    seeds = SEEDS[:1] if is_smoke() else SEEDS
                    fits = [
                        fit_method(features, method, {"template_weights": weights}, shots=shots, seed=s) for s in seeds
                    ]
                    row[weights] = mean_accuracy(fits)
                rows.append(row)
    return rows


SECTIONS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "proker": proker,
    "ss-text": ss_text,
    "stat-a": stat_a,
    "templates": templates,
}


Rows = Sequence[dict[str, Any]]


def table(head: Sequence[str], lines: Sequence[Sequence[str]], rows: Rows) -> None:
    """Print a table, and the commits of its rows."""
    print(markdown(head, lines, right=True))
    print(f"\n(commit {commits_of(rows)})")


def cell(rows: Rows, value: str, **own: Any) -> str:
    """Return the accuracy of the one row with these values, in per cent, or nothing where there is none."""
    values = [row[value] for row in rows if all(row.get(key) == wanted for key, wanted in own.items())]
    return f"{100 * values[0]:.1f}" if values else ""


def proker_table(rows: Rows) -> None:
    """Print ProKeR with and without the factor, and what somebody else had."""
    lines = [
        [label, *(cell(rows, value, dataset=name, shots=k) for name, k in THEIRS)]
        for label, value in (("as published, here", "accuracy"), ("with the factor 1 / penalty", "with_factor"))
    ]
    lines.append(["as published, a plain script of somebody else's", *(f"{value:.1f}" for value in THEIRS.values())])
    table(["proker", *(f"{name} {k}" for name, k in THEIRS)], lines, rows)


def ss_text_table(rows: Rows) -> None:
    """Print ss-text by what the text counts as, and with the other training rows unlabelled."""
    cells = [*(("caltech69", k) for k in SHOTS), *(("food8", k) for k in SHOTS), ("imagenet", 1), ("imagenet", 4)]
    lines = [
        [
            f"{images:g} images" if images != "as given" else "as published, at unit length",
            *(cell(rows, "accuracy", dataset=name, shots=k, text_images=images, unlabelled=None) for name, k in cells),
        ]
        for images in dict.fromkeys(row["text_images"] for row in rows)
    ]
    own = [cell(rows, "accuracy", dataset=n, shots=k, text_images=20.0, unlabelled="train") for n, k in cells]
    lines.append(["20 images, with the other rows unlabelled", *own])
    table(["text counts as", *(f"{name} {k}" for name, k in cells)], lines, rows)


def stat_a_table(rows: Rows) -> None:
    """Print batches of few classes."""
    methods = ("zero-shot", "trans-clip (zero-shot)", "trans-clip (4 shots)", "stat-a")
    lines = [[row["classes"], *(f"{100 * row[method]:.1f}" for method in methods)] for row in rows]
    table(["classes in a batch", *methods], lines, rows)


def templates_table(rows: Rows) -> None:
    """Print uniform and weighted templates."""
    lines = [
        [
            f"{method}, {count} templates, {weights}",
            *(cell(rows, weights, method=method, templates=count, shots=k) for k in SHOTS),
        ]
        for count in dict.fromkeys(row["templates"] for row in rows)
        for method in ("zero-shot", "gda")
        for weights in ("uniform", "timo")
    ]
    table(["digits", *map(str, SHOTS)], lines, rows)


# What tells the rows of a section apart, and its table.
TABLES: dict[str, tuple[tuple[str, ...], Callable[[Rows], None]]] = {
    "proker": (("dataset", "shots"), proker_table),
    "ss-text": (("dataset", "shots", "text_images", "unlabelled"), ss_text_table),
    "stat-a": (("dataset", "classes"), stat_a_table),
    "templates": (("templates", "method", "shots"), templates_table),
}


def tables(sections: Sequence[str], page: Path | None) -> None:
    """Make the tables of the newest rows."""
    for name in sections:
        keys, write = TABLES[name]
        rows = [row for row in newest("new_methods", "section", *keys).values() if row["section"] == name]
        shown(f"new_methods.py {name}", page, lambda write=write, rows=rows: write(rows))


def main() -> None:
    """Run the sections that are asked for, or make their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="|".join(SECTIONS), help="all by default")
    parser.add_argument("--tables", action="store_true", help="measure nothing, and make the tables of all rows")
    parser.add_argument("--into", type=Path, help="the page whose marked tables are made again")
    given = parse(parser, {"sections": [], "tables": False, "into": None})
    if given.tables:
        tables(given.sections or list(SECTIONS), given.into)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # trans-clip says that the batches here are not for it
        for name in given.sections or SECTIONS:
            report("new_methods", None, SECTIONS[name]())


if __name__ == "__main__":
    main()
