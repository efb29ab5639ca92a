"""How the default recipe of CLIP-Adapter is chosen: cross-validation on training shots, by a rule fixed beforehand.

Fixed before the study was run (this file's first commit with ``RULE`` in it has no result beside it):

- **Data.** Training shots of digits (``cafe:mini``), Caltech69 and Flowers (ViT-B/32): 2, 4, 8 and 16 shots, draws 1
  and 2. No val row, no test row, and no row of ImageNet, which is a check and not a place to choose.
- **Candidates.** Batch 256, AdamW on a cosine, ratio 0.2 (the paper's default): four lengths an octave apart, three
  learning rates half a decade apart around AdamW's usual 1e-3, four weight decays a decade apart.
- **Score.** Every candidate is fitted on the stratified folds' rest (at most four folds) and scored on the fold:
  accuracy, each data set with the same weight, each cell (shots, draw) with the same weight within it.
- **Rule.** The shortest recipe whose mean is within one standard error of the best mean; among recipes of that length
  the one of highest mean. The error is that of the paired difference over held-out rows, so recipes that get the same
  rows right are told apart more finely than two accuracies would be. It is Breiman's one-standard-error rule, with
  length as the cost.

What it cannot see, since no cell of it has more than 1,224 rows or 102 classes, is how long many rows are to be
trained: recipe_many_classes.py and recipe_length.py go on from here, and docs/methods.md tells the whole of it.

Run::

    CAFE_REAL_DATA=... python benchmarks/studies/recipe_study.py
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from harness import is_smoke, parse, report
from numpy.typing import NDArray
from real_features import caltech69, flowers
from sklearn.model_selection import StratifiedKFold

from cafe import CLIPAdapter, draw_few_shot
from cafe.features import Features
from cafe.methods import fit_many
from cafe.protocol.selection import FOLDS

RULE = "shortest within one paired standard error of the best mean"
STEPS, RATES, DECAYS = (125, 250, 500, 1000), (3e-4, 1e-3, 3e-3), (0.01, 0.1, 1.0, 10.0)
SHOTS, DRAWS, BATCH, ALPHA = (2, 4, 8, 16), (1, 2), 256, 0.2
RECIPES = [{"steps": s, "lr": r, "weight_decay": w} for s, r, w in itertools.product(STEPS, RATES, DECAYS)]

Shots = tuple[NDArray[np.floating], NDArray[np.int64], NDArray[np.floating] | None]


def digits(split: str = "train") -> Shots:
    """Return a split of the embedded digits, encoded by the embedded model, and its text."""
    from cafe.data import open_dataset
    from cafe.encoders import open_encoder
    from cafe.prompts import class_embeddings, prompts

    dataset, encoder = open_dataset("digits"), open_encoder("cafe:mini", device="cpu")
    labels = dataset.splits[split].labels
    crops = np.stack([encoder.cropper(dataset.image(split, i)) for i in range(len(labels))])
    text = encoder.encode_text(prompts(dataset.templates, dataset.class_names))
    return encoder.encode_images(crops), labels, class_embeddings(text[None])


def published(features: Features, split: str = "train") -> Shots:
    """Return a split of published features (train: 16 shots), and text where there is some."""
    found = features.split(split)
    text = features.class_embeddings if features.text_features is not None else None
    return np.asarray(found.image_features), np.asarray(found.labels), text


def held_out_hits(
    recipes: list[dict[str, float]], X: NDArray[np.floating], y: NDArray[np.int64], text: NDArray[np.floating] | None
) -> NDArray[np.bool_]:
    """Return whether each recipe classifies each row when it was not fitted on it, (recipes, n)."""
    folds = min(FOLDS, int(np.bincount(y).min()))
    hits = np.zeros((len(recipes), len(y)), dtype=bool)
    for rest, held in StratifiedKFold(folds, shuffle=True, random_state=1).split(X, y):
        candidates = [recipe(text, r, len(rest)) for r in recipes]
        for i, fitted in enumerate(fit_many(X, y, candidates, [rest] * len(candidates))):
            assert fitted.n_steps_ == recipes[i]["steps"]
            hits[i, held] = fitted.predict(X[held]) == y[held]
    return hits


def recipe(text: NDArray[np.floating] | None, r: dict[str, float], n: int) -> CLIPAdapter:
    """Return the estimator that takes one recipe's steps on n rows."""
    # Half a step less than asked for: the trainer rounds up, and a whole number must not be passed by a last bit.
    epochs = (r["steps"] - 0.5) * min(BATCH, n) / n
    return CLIPAdapter(text, alpha=ALPHA, epochs=epochs, lr=r["lr"], weight_decay=r["weight_decay"], random_state=1)


def shortest_level(
    recipes: list[dict[str, float]], parts: list[tuple[float, NDArray[np.floating]]]
) -> tuple[NDArray[np.floating], NDArray[np.floating], int]:
    """Return means (recipes,), standard errors of their differences to the best (recipes,), and the rule's choice.

    ``parts`` are cells: a weight, and hits (recipes, rows).
    """
    means = np.sum([w * hits.mean(1) for w, hits in parts], axis=0)
    best = int(np.argmax(means))
    errors = np.sqrt(np.sum([w**2 * (hits - hits[best]).var(1) / hits.shape[1] for w, hits in parts], axis=0))
    level = [i for i in range(len(recipes)) if means[best] - means[i] <= errors[i]]
    shortest = min(recipes[i]["steps"] for i in level)
    return means, errors, max((i for i in level if recipes[i]["steps"] == shortest), key=lambda i: means[i])


def cross_validated(recipes: list[dict[str, float]]) -> dict[str, list[NDArray[np.bool_]]]:
    """Return by data set what `held_out_hits` finds in each cell (shots, draw)."""
    sources = {"digits": digits(), "caltech69": published(caltech69()), "flowers": published(flowers())}
    cells: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in sources}
    all_shots, draws = (SHOTS[:1], DRAWS[:1]) if is_smoke() else (SHOTS, DRAWS)
    for (name, (X, y, text)), shots, draw in itertools.product(sources.items(), all_shots, draws):
        rows, _ = draw_few_shot(y, None, shots, draw)
        hits = held_out_hits(recipes, X[rows], y[rows], text)
        cells[name].append(hits)
        top = int(hits.mean(1).argmax())
        print(f"{name}, {shots} shots, draw {draw}: {100 * hits[top].mean():.2f} with {recipes[top]}", flush=True)
    return cells


def weighted(cells: dict[str, list[NDArray[np.bool_]]]) -> list[tuple[float, NDArray[np.floating]]]:
    """Return cells with their weights: each data set the same, each cell the same within it."""
    return [(1 / (len(cells) * len(found)), hits.astype(float)) for found in cells.values() for hits in found]


def study() -> None:
    """Choose by cross-validation on training shots; print every recipe's accuracy, and the choice."""
    recipes = RECIPES[:3] if is_smoke() else RECIPES
    cells = cross_validated(recipes)
    means, errors, choice = shortest_level(recipes, weighted(cells))
    print(f"mean   behind (se)    digits caltech flowers   recipe; * chosen: {RULE}")
    for i in np.argsort(-means):
        own = [100 * np.mean([hits[i].mean() for hits in found]) for found in cells.values()]
        behind = f"{100 * (means.max() - means[i]):5.2f} ({100 * errors[i]:.2f})"
        mark = "*" if i == choice else " "
        print(f"{100 * means[i]:6.2f} {behind}  {own[0]:7.2f} {own[1]:7.2f} {own[2]:7.2f}  {mark} {recipes[i]}")
    level = [recipes[i] for i in range(len(recipes)) if means.max() - means[i] <= errors[i]]
    row = {"stage": "shots", "rule": RULE, "chosen": recipes[choice], "accuracy": float(means[choice]), "level": level}
    report("recipe", None, [{**row, "recipes": len(recipes), "best_accuracy": float(means.max())}])


if __name__ == "__main__":
    parse(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter), {})
    study()
