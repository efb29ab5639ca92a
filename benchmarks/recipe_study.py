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

**Second stage**, added after the first had been run, and after its choice (125 steps, 1e-3, decay 10) had given 63.47
on the ImageNet check, 0.13 below what is wanted there. The reason for it stands in the design, and not in that figure
alone: the default has to train 160 rows *and 16,000* to the end, and no cell of the first stage has more than 1,224
rows or 102 classes, so it cannot see a recipe stop too early. Fixed before it was run, and run once:

- **Candidates.** The recipes that the first stage cannot tell from its best: behind by no more than the paired error.
- **Data.** 1,000 classes, 4 and 16 shots, two draws, and 4,000 other rows to score. No image of ImageNet enters: class
  embeddings are the text of its class names; images are drawn around them with what Caltech69's training shots say of
  images and text (mean offset of class means from their text, its spread, and the spread within a class). The spread
  within a class is widened until zero-shot is right about 59 times in 100, the published average over the eleven data
  sets: a first draft without that was separable (zero-shot 99.1, every recipe 99.7 in the one cell that was run) and
  could tell nothing.
- **Rule.** The highest mean accuracy; among what is within one paired standard error of it, the shortest.

Its choice was 1000 steps, 3e-3, decay 1, which gave 62.70 on the ImageNet check: drawn classes mislead. The first
stage's choice is the default. docs/methods.md tells the whole of it.

Run::

    CAFE_REAL_DATA=... python benchmarks/recipe_study.py                 # both stages
    CAFE_REAL_DATA=... python benchmarks/recipe_study.py --many-classes  # the second, on the newest row of the first
"""

from __future__ import annotations

import argparse
import itertools
import json

import numpy as np
from harness import RESULTS, real_features, report, unit
from numpy.typing import NDArray
from real_features import caltech69, flowers
from scipy.optimize import brentq
from sklearn.model_selection import StratifiedKFold

from cafe import CLIPAdapter, ZeroShot, draw_few_shot
from cafe.methods import fit_many
from cafe.protocol.selection import FOLDS

RULE = "shortest within one paired standard error of the best mean"
STEPS, RATES, DECAYS = (125, 250, 500, 1000), (3e-4, 1e-3, 3e-3), (0.01, 0.1, 1.0, 10.0)
SHOTS, DRAWS, BATCH, ALPHA = (2, 4, 8, 16), (1, 2), 256, 0.2
# Mean over the eleven data sets, RN50 (Tip-Adapter's exp.log).
ZERO_SHOT = 0.589
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
        recipes = [recipe(text, r, len(rest)) for r in RECIPES]
        for i, fitted in enumerate(fit_many(X, y, recipes, [rest] * len(recipes))):
            assert fitted.n_steps_ == RECIPES[i]["steps"]
            hits[i, held] = fitted.predict(X[held]) == y[held]
    return hits


def recipe(text: NDArray[np.floating] | None, r: dict[str, float], n: int) -> CLIPAdapter:
    """Return the estimator that takes one recipe's steps on n rows."""
    # Half a step less than asked for: the trainer rounds up, and a whole number must not be passed by a last bit.
    epochs = (r["steps"] - 0.5) * min(BATCH, n) / n
    return CLIPAdapter(text, alpha=ALPHA, epochs=epochs, lr=r["lr"], weight_decay=r["weight_decay"], random_state=1)


def many_classes(shots: int, draw: int) -> tuple[NDArray[np.floating], ...]:
    """Return X, y, X_test, y_test, text of 1,000 drawn classes; see the module's docstring."""
    rng = np.random.default_rng([draw, shots])
    known = caltech69().split("train")
    names, X = unit(real_features("imagenet_vitb32")["text_features"].astype(np.float64)), unit(known.image_features)
    text = unit(caltech69().class_embeddings.astype(np.float64))
    means = np.stack([X[known.labels == k].mean(0) for k in range(len(text))])
    within = X - means[known.labels]
    offsets = means - text

    def drawn(rows: NDArray[np.floating], n: int) -> NDArray[np.floating]:
        """Draw n vectors of the rows' covariance, about zero."""
        centred = rows - rows.mean(0)
        return rng.standard_normal((n, len(rows))) @ centred / np.sqrt(len(rows) - 1)

    centres = names + offsets.mean(0) + drawn(offsets, len(names))
    y, y_test = np.repeat(np.arange(len(names)), shots), np.repeat(np.arange(len(names)), 4)
    noise, noise_test = drawn(within, len(y)), drawn(within, len(y_test))

    def zero_shot(spread: float) -> float:
        return float(np.mean(((centres[y_test] + spread * noise_test) @ names.T).argmax(1) == y_test))

    spread = brentq(lambda s: zero_shot(s) - ZERO_SHOT, 0.5, 50, xtol=1e-3)
    X, X_test = (unit(centres[rows] + spread * e) for rows, e in ((y, noise), (y_test, noise_test)))
    return X.astype(np.float32), y, X_test.astype(np.float32), y_test, names.astype(np.float32)


def second_stage(level: list[dict[str, float]]) -> None:
    """Choose among recipes that the first stage cannot tell apart, by 1,000 classes."""
    cells = []
    for shots, draw in itertools.product((4, 16), DRAWS):
        X, y, X_test, y_test, text = many_classes(shots, draw)
        fits = fit_many(X, y, [recipe(text, r, len(y)) for r in level])
        cells.append(np.stack([fitted.predict(X_test) == y_test for fitted in fits]).astype(float))
        plain = ZeroShot(text).fit(X, y).score(X_test, y_test)
        print(f"1,000 classes, {shots} shots, draw {draw}: zero-shot {100 * plain:.2f},", 100 * cells[-1].mean(1))
    means, choice = shortest_level(level, [(1 / len(cells), hits) for hits in cells])[::2]
    for i in np.argsort(-means):
        own = " ".join(f"{100 * hits[i].mean():6.2f}" for hits in cells)
        print(f"{100 * means[i]:6.2f}  {own}  {'*' if i == choice else ' '} {level[i]}")
    row = {"stage": "many classes", "rule": RULE, "chosen": level[choice], "accuracy": float(means[choice])}
    report("recipe", None, [{**row, "recipes": len(level), "best_accuracy": float(means.max())}])


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


def first_stage() -> list[dict[str, float]]:
    """Choose by cross-validation on training shots; return what cannot be told from the best."""
    sources = {"digits": digits(), "caltech69": published(caltech69()), "flowers": published(flowers())}
    cells: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in sources}
    for (name, (X, y, text)), shots, draw in itertools.product(sources.items(), SHOTS, DRAWS):
        rows, _ = draw_few_shot(y, None, shots, draw)
        hits = held_out_hits(X[rows], y[rows], text)
        cells[name].append(hits)
        top = int(hits.mean(1).argmax())
        print(f"{name}, {shots} shots, draw {draw}: {100 * hits[top].mean():.2f} with {RECIPES[top]}", flush=True)
    parts = [(1 / (len(cells) * len(found)), hits.astype(float)) for found in cells.values() for hits in found]
    means, errors, choice = shortest_level(RECIPES, parts)
    print(f"mean   behind (se)    digits caltech flowers   recipe; * chosen: {RULE}")
    for i in np.argsort(-means):
        own = [100 * np.mean([hits[i].mean() for hits in found]) for found in cells.values()]
        behind = f"{100 * (means.max() - means[i]):5.2f} ({100 * errors[i]:.2f})"
        mark = "*" if i == choice else " "
        print(f"{100 * means[i]:6.2f} {behind}  {own[0]:7.2f} {own[1]:7.2f} {own[2]:7.2f}  {mark} {RECIPES[i]}")
    level = [RECIPES[i] for i in range(len(RECIPES)) if means.max() - means[i] <= errors[i]]
    row = {"stage": "shots", "rule": RULE, "chosen": RECIPES[choice], "accuracy": float(means[choice]), "level": level}
    report("recipe", None, [{**row, "recipes": len(RECIPES), "best_accuracy": float(means.max())}])
    return level


def main() -> None:
    """Print every recipe's accuracy, and the choice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--many-classes", action="store_true", help="only the second stage")
    if parser.parse_args().many_classes:
        rows = [json.loads(line) for line in (RESULTS / "recipe.jsonl").read_text(encoding="utf-8").splitlines()]
        second_stage([row for row in rows if row["stage"] == "shots"][-1]["level"])
    else:
        second_stage(first_stage())


if __name__ == "__main__":
    main()
