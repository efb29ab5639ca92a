"""Is the default recipe of CLIP-Adapter better than the published one? Both on val rows, by a rule fixed beforehand.

recipe_study.py chose 125 steps, 1e-3, decay 10, by cross-validation on training shots: folds of 20 to 1,600 rows, two
draws, and the highest of 48 means, which flatters it. There is one recipe that nobody here chose: the published one of
the same optimiser, rate, batch and schedule (Tip-Adapter-F, ECCV 2022, section 4.1: AdamW, 1e-3, batch 256, cosine, 20
epochs, PyTorch's own decay of 0.01), which is also what the plain PyTorch run on the ImageNet rows was made with. At
4,000 rows it is 313 steps. Fixed before the run (this file's first commit has no result beside it):

- **Data.** Val rows of digits (355, ``cafe:mini``), Caltech69 and Flowers (ViT-B/32), which no study of the recipe has
  seen; 1, 2, 4, 8 and 16 shots of the train split, draws 1 to 3. No test row, no ImageNet row.
- **Score.** Mean val accuracy, each data set the same weight, each cell (shots, draw) the same weight within it.
- **Rule.** The published recipe becomes the default if it is ahead by more than one paired standard error; else the
  default stays, being the shorter one (the rule of the first study).

**What was known to whoever wrote this.** On the ImageNet check the default gives 63.47, where 63.6 is wanted, and the
plain PyTorch run of the published recipe 64.15; on digits at 16 shots and on ImageNet at 1 and 2 shots a recipe of 300
steps with decay 3 was better and worse than the default. The choice between the two is made here and nowhere else.

It became so: ahead by 0.25 points, error 0.14. By number of shots, which was looked at afterwards and on the same val
rows, the two are good at different ends, as the last lines print: so up to two images a class the default is the old
one, where it is ahead or level, and the published one from there on. Published code has lengths by shots as well (CoOp:
50 epochs at one shot, 100 at 2 and 4, 200 from 8 on).

Run::

    CAFE_REAL_DATA=... python benchmarks/studies/recipe_published.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from harness import is_smoke, parse, report
from numpy.typing import NDArray
from real_features import caltech69, flowers
from recipe_study import Shots, digits, published, recipe

from cafe import draw_few_shot
from cafe.methods import fit_many

SHOTS, DRAWS = (1, 2, 4, 8, 16), (1, 2, 3)
RECIPES = [
    {"steps": 125, "lr": 1e-3, "weight_decay": 10.0},
    {"steps": 313, "lr": 1e-3, "weight_decay": 0.01},
]


def val_hits(train: Shots, val: Shots, shots: int, draw: int) -> NDArray[np.floating]:
    """Return whether each recipe classifies each val row, (recipes, n)."""
    X, y, text = train
    rows, _ = draw_few_shot(y, None, shots, draw)
    candidates = [recipe(text, r, len(rows)).set_params(random_state=draw) for r in RECIPES]
    fits = fit_many(X, y, candidates, [rows] * len(candidates))
    assert [fitted.n_steps_ for fitted in fits] == [r["steps"] for r in RECIPES]
    return np.stack([fitted.predict(val[0]) == val[1] for fitted in fits]).astype(float)


def main() -> None:
    """Print both recipes' accuracy in every cell, the weighted difference with its paired error, and the choice."""
    parse(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter), {})
    sources = {
        "digits": (digits("train"), digits("val")),
        "caltech69": (published(caltech69()), published(caltech69(), "val")),
        "flowers": (published(flowers()), published(flowers(), "val")),
    }
    gains, variances = [], []
    by_shots: dict[int, list[NDArray[np.floating]]] = {shots: [] for shots in (SHOTS[:1] if is_smoke() else SHOTS)}
    for name, (train, val) in sources.items():
        # Draws and shots share the val rows, so differences are averaged by row before their spread is taken.
        by_row = []
        for shots in SHOTS[:1] if is_smoke() else SHOTS:
            hits = np.mean([val_hits(train, val, shots, draw) for draw in DRAWS], axis=0)  # (recipes, n)
            print(f"{name}, {shots} shots: " + ", ".join(f"{100 * value:.2f}" for value in hits.mean(1)), flush=True)
            by_row.append(hits[1] - hits[0])
            by_shots[shots].append(by_row[-1])
        difference = np.mean(by_row, axis=0)  # (n,)
        gains.append(difference.mean())
        variances.append(difference.var() / len(difference))
        print(f"{name}: {100 * gains[-1]:+.2f} ({100 * variances[-1] ** 0.5:.2f})")
    for shots, found in by_shots.items():
        gain = np.mean([difference.mean() for difference in found])
        error = np.sqrt(np.sum([difference.var() / len(difference) for difference in found])) / len(found)
        print(f"{shots} shots: {100 * gain:+.2f} ({100 * error:.2f})")
    gain, error = float(np.mean(gains)), float(np.sqrt(np.sum(variances)) / len(gains))
    chosen = RECIPES[1 if gain > error else 0]
    print(f"published less default: {100 * gain:+.2f} ({100 * error:.2f}); the default is {chosen}")
    report("recipe", None, [{"stage": "published", "recipes": RECIPES, "gain": gain, "error": error, "chosen": chosen}])


if __name__ == "__main__":
    main()
