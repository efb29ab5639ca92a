"""How the default recipe of CLIP-Adapter was chosen: cross-validation on training shots alone.

No val or test row is read. For every data set, number of shots and draw, the shots are cut into stratified
folds; every candidate recipe is fitted on the folds' rest and scored on the fold. The recipe with the highest mean over
data sets, shots and alpha is the default.

Run::

    CAFE_REAL_DATA=... python benchmarks/recipe_study.py [--quick]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from pathlib import Path

import numpy as np

from cafe import CLIPAdapter, draw_few_shot
from cafe.methods import fit_many
from cafe.protocol.selection import cross_validation


def real_shots(name: str, shots: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return published few-shot features, labels and text of one of the real data sets."""
    data = np.load(Path(os.environ["CAFE_REAL_DATA"]) / "clip_features" / f"{name}.npz")
    text = data.get("text_features")
    return data[f"train_{shots}shot_features"], data[f"train_{shots}shot_labels"], text


def digits_shots(shots: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return few-shot features of the embedded digits, encoded by the embedded model."""
    from cafe.data import open_dataset
    from cafe.encoders import open_encoder
    from cafe.prompts import class_embeddings, prompts

    dataset, encoder = open_dataset("digits"), open_encoder("cafe:mini", device="cpu")
    labels = dataset.splits["train"].labels
    rows, _ = draw_few_shot(labels, None, shots, seed)
    crops = np.stack([encoder.cropper(dataset.image("train", int(i))) for i in rows])
    text = encoder.encode_text(prompts(dataset.templates, dataset.class_names))
    return encoder.encode_images(crops), labels[rows], class_embeddings(text[None])


def main() -> None:
    """Print the mean cross-validated accuracy of every recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer recipes")
    parser.add_argument("--alphas", default="0.2,0.6")
    parser.add_argument("--shots", default="2,4,8,16")
    arguments = parser.parse_args()
    steps, rates, decays = (200, 300, 500, 1000), (3e-4, 1e-3, 3e-3), (0.01, 1.0, 3.0, 10.0)
    if arguments.quick:
        steps, rates = (300, 500, 1000), (1e-3,)
    recipes = [{"steps": s, "lr": lr, "weight_decay": wd} for s, lr, wd in itertools.product(steps, rates, decays)]
    alphas = [float(a) for a in arguments.alphas.split(",")]
    sources = {
        "digits": digits_shots,
        "caltech69": lambda k: real_shots("caltech69_vitb32", k),
        "flowers": lambda k: real_shots("oxford_flowers_vitb32", k),
    }
    table: dict[str, dict[str, float]] = {json.dumps(r): {} for r in recipes}
    shots_tried = [int(k) for k in arguments.shots.split(",")]
    for (name, load), shots, alpha in itertools.product(sources.items(), shots_tried, alphas):
        X, y, text = load(shots)
        candidates = []
        for r in recipes:
            fold_rows = len(y) * (min(4, shots) - 1) / min(4, shots)
            epochs = r["steps"] * min(256, fold_rows) / fold_rows
            candidates.append(
                CLIPAdapter(
                    text, alpha=alpha, epochs=epochs, lr=r["lr"], weight_decay=r["weight_decay"], random_state=1
                )
            )
        scores = cross_validation(fit_many, X, y, np.arange(len(y)), 1)(candidates)
        for r, (accuracy, _) in zip(recipes, scores, strict=True):
            table[json.dumps(r)][f"{name}/{shots}/{alpha}"] = 100 * accuracy
        best = max(range(len(recipes)), key=lambda i: scores[i])
        print(name, shots, alpha, "best", recipes[best], round(100 * scores[best][0], 2), flush=True)
    for recipe, cells in sorted(table.items(), key=lambda item: -np.mean(list(item[1].values()))):
        groups = {n: np.mean([v for k, v in cells.items() if k.startswith(n)]) for n in sources}
        print(f"{np.mean(list(groups.values())):6.2f}", recipe, {k: round(float(v), 2) for k, v in groups.items()})


if __name__ == "__main__":
    main()
