"""A second look at CLIP-Adapter's default recipe, on 1,000 drawn classes: run once, and its choice is not used.

Added after the first stage (recipe_study.py) had been run, and after its choice (125 steps, 1e-3, decay 10) had given
63.47 on the ImageNet check, 0.13 below what is wanted there. The reason for it stands in the design, and not in that
figure alone: the default has to train 160 rows *and 16,000* to the end, and no cell of the first stage has more than
1,224 rows or 102 classes, so it cannot see a recipe stop too early. Fixed before it was run:

- **Candidates.** The recipes that the first stage cannot tell from its best: behind by no more than the paired error.
- **Data.** 1,000 classes, 4 and 16 shots, two draws, and 4,000 other rows to score. No image of ImageNet enters: class
  embeddings are the text of its class names; images are drawn around them with what Caltech69's training shots say of
  images and text (mean offset of class means from their text, its spread, and the spread within a class). The spread
  within a class is widened until zero-shot is right about 59 times in 100, the published average over the eleven data
  sets: a first draft without that was separable (zero-shot 99.1, every recipe 99.7 in the one cell that was run) and
  could tell nothing.
- **Rule.** The highest mean accuracy; among what is within one paired standard error of it, the shortest.

Its choice was 1000 steps, 3e-3, decay 1, which gave 62.70 on the ImageNet check: drawn classes mislead.
docs/methods.md tells the whole of it.

Run::

    CAFE_REAL_DATA=... python benchmarks/studies/recipe_many_classes.py    # on the newest row of the first stage
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from harness import RESULTS, is_smoke, parse, real_features, report, unit
from numpy.typing import NDArray
from real_features import caltech69
from recipe_study import DRAWS, RULE, recipe, shortest_level
from scipy.optimize import brentq

from cafe import ZeroShot
from cafe.methods import fit_many

# Mean over the eleven data sets, RN50 (Tip-Adapter's exp.log).
ZERO_SHOT = 0.589


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


def study(level: list[dict[str, float]]) -> None:
    """Choose among recipes that the first stage cannot tell apart, by 1,000 classes."""
    cells = []
    for shots, draw in itertools.product((4,) if is_smoke() else (4, 16), DRAWS):
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


if __name__ == "__main__":
    parse(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter), {})
    rows = [json.loads(line) for line in (RESULTS / "recipe.jsonl").read_text(encoding="utf-8").splitlines()]
    study([row for row in rows if row["stage"] == "shots"][-1]["level"])
