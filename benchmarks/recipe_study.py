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

Run::

    CAFE_REAL_DATA=... python benchmarks/recipe_study.py
"""

from __future__ import annotations

import itertools

import numpy as np
from harness import report
from numpy.typing import NDArray
from real_features import caltech69, flowers
from sklearn.model_selection import StratifiedKFold

from cafe import CLIPAdapter, draw_few_shot
from cafe.methods import fit_many
from cafe.protocol.selection import FOLDS

RULE = "shortest within one paired standard error of the best mean"
STEPS, RATES, DECAYS = (125, 250, 500, 1000), (3e-4, 1e-3, 3e-3), (0.01, 0.1, 1.0, 10.0)
SHOTS, DRAWS, BATCH, ALPHA = (2, 4, 8, 16), (1, 2), 256, 0.2
RECIPES = [{"steps": s, "lr": r, "weight_decay": w} for s, r, w in itertools.product(STEPS, RATES, DECAYS)]

Shots = tuple[NDArray[np.floating], NDArray[np.int64], NDArray[np.floating] | None]


def digits() -> Shots:
    """Return the train split of the embedded digits, encoded by the embedded model, and its text."""
    from cafe.data import open_dataset
    from cafe.encoders import open_encoder
    from cafe.prompts import class_embeddings, prompts

    dataset, encoder = open_dataset("digits"), open_encoder("cafe:mini", device="cpu")
    labels = dataset.splits["train"].labels
    crops = np.stack([encoder.cropper(dataset.image("train", i)) for i in range(len(labels))])
    text = encoder.encode_text(prompts(dataset.templates, dataset.class_names))
    return encoder.encode_images(crops), labels, class_embeddings(text[None])


def published(features: object) -> Shots:
    """Return the train split of published 16-shot features, and text where there is some."""
    train = features.split("train")  # type: ignore[attr-defined]
    text = features.class_embeddings if features.text_features is not None else None  # type: ignore[attr-defined]
    return np.asarray(train.image_features), np.asarray(train.labels), text


def held_out_hits(
    X: NDArray[np.floating], y: NDArray[np.int64], text: NDArray[np.floating] | None
) -> NDArray[np.bool_]:
    """Return whether each recipe classifies each row when it was not fitted on it, (recipes, n)."""
    folds = min(FOLDS, int(np.bincount(y).min()))
    hits = np.zeros((len(RECIPES), len(y)), dtype=bool)
    for rest, held in StratifiedKFold(folds, shuffle=True, random_state=1).split(X, y):
        # Half a step less than asked for: the trainer rounds up, and a whole number must not be passed by a last bit.
        epochs = [(r["steps"] - 0.5) * min(BATCH, len(rest)) / len(rest) for r in RECIPES]
        recipes = [
            CLIPAdapter(text, alpha=ALPHA, epochs=e, lr=r["lr"], weight_decay=r["weight_decay"], random_state=1)
            for e, r in zip(epochs, RECIPES, strict=True)
        ]
        for i, fitted in enumerate(fit_many(X, y, recipes, [rest] * len(recipes))):
            assert fitted.n_steps_ == RECIPES[i]["steps"]
            hits[i, held] = fitted.predict(X[held]) == y[held]
    return hits


def chosen(cells: dict[str, list[NDArray[np.bool_]]]) -> tuple[NDArray[np.floating], NDArray[np.floating], int]:
    """Return means (recipes,), standard errors of their differences to the best (recipes,), and the rule's choice."""
    weight = {name: 1 / (len(cells) * len(found)) for name, found in cells.items()}
    parts = [(weight[name], hits.astype(float)) for name, found in cells.items() for hits in found]
    means = sum(w * hits.mean(1) for w, hits in parts)
    best = int(np.argmax(means))
    variance = sum(w**2 * (hits - hits[best]).var(1) / hits.shape[1] for w, hits in parts)
    errors = np.sqrt(variance)
    level = [i for i in range(len(RECIPES)) if means[best] - means[i] <= errors[i]]
    shortest = min(RECIPES[i]["steps"] for i in level)
    return means, errors, max((i for i in level if RECIPES[i]["steps"] == shortest), key=lambda i: means[i])


def main() -> None:
    """Print every recipe's cross-validated accuracy, and the choice."""
    sources = {"digits": digits(), "caltech69": published(caltech69()), "flowers": published(flowers())}
    cells: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in sources}
    for (name, (X, y, text)), shots, draw in itertools.product(sources.items(), SHOTS, DRAWS):
        rows, _ = draw_few_shot(y, None, shots, draw)
        hits = held_out_hits(X[rows], y[rows], text)
        cells[name].append(hits)
        top = int(hits.mean(1).argmax())
        print(f"{name}, {shots} shots, draw {draw}: {100 * hits[top].mean():.2f} with {RECIPES[top]}", flush=True)
    means, errors, choice = chosen(cells)
    print(f"mean   behind (se)    digits caltech flowers   recipe; * chosen: {RULE}")
    for i in np.argsort(-means):
        own = [100 * np.mean([hits[i].mean() for hits in found]) for found in cells.values()]
        behind = f"{100 * (means.max() - means[i]):5.2f} ({100 * errors[i]:.2f})"
        mark = "*" if i == choice else " "
        print(f"{100 * means[i]:6.2f} {behind}  {own[0]:7.2f} {own[1]:7.2f} {own[2]:7.2f}  {mark} {RECIPES[i]}")
    best = RECIPES[int(np.argmax(means))]
    row = {
        "rule": RULE, "chosen": RECIPES[choice], "accuracy": float(means[choice]), "best": best,
        "best_accuracy": float(means.max()), "standard_error": float(errors[choice]), "recipes": len(RECIPES),
    }  # fmt: skip
    report("recipe", None, [row])


if __name__ == "__main__":
    main()
