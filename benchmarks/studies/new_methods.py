"""What proker, ss-text, stat-a and weighted templates do on real features: figures of docs/methods.md.

    CAFE_REAL_DATA=... python benchmarks/studies/new_methods.py [proker] [ss-text] [stat-a] [templates]

- ``proker``: the published settings on Caltech69 and ImageNet (4 shots), and the same with the factor 1 / penalty that
  the public code leaves out.
- ``ss-text``: how many images the text should count as, on Caltech69 and Food8, with unlabelled images and without;
  ImageNet is only looked at. "as given" is the published formula with text of unit length.
- ``stat-a``: batches of 64 test rows from few classes, as in the paper, beside zero-shot and trans-clip.
- ``templates``: zero-shot and gda on digits (``cafe:mini``) with 7 and 80 templates, uniform and weighted.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from harness import is_smoke, parse, real_features, report

from cafe import ProKeR, SSText, StatA, TransCLIP, ZeroShot
from cafe.features import Features, Split
from cafe.fitting import fit_method
from cafe.protocol.tasks import make_task

SHOTS, SEEDS = (1, 2, 4, 8, 16), (1, 2, 3)
TEXT_IMAGES = (None, 5.0, 10.0, 20.0, 40.0, 80.0)
# Numbers of classes in a batch, as in the paper's tables.
CLASSES = {"1 to 4": (1, 4), "2 to 10": (2, 10), "5 to 25": (5, 25), "all": None}
BATCH, BATCHES = 64, 100


def digits(templates: Sequence[str] | None = None) -> Features:
    """Extract the digits that come with cafe, with the embedded encoder."""
    from cafe.cache.extract.run import extract
    from cafe.cache.format.reader import load_features
    from cafe.data.opening import open_dataset
    from cafe.encoders.opening import open_encoder

    path = Path(tempfile.mkdtemp()) / "digits.h5"
    extract(open_dataset("digits", None), open_encoder("cafe:mini", "cpu", "float32"), path, templates=templates)
    return load_features(path)


def published(name: str, shots: int) -> tuple[Any, ...]:
    """Return X, y, X_test, y_test, text of a published draw of shots; of ImageNet by the rules of real_features.py."""
    if name == "digits":
        task = make_task(digits(), shots, 1)
        text = task.features.class_embeddings
        return task.train.image_features, task.train.labels, task.test.image_features, task.test.labels, text
    if name == "imagenet":
        from real_features import imagenet

        data = imagenet(shots)
        train, test = data.split("train"), data.split("test")
        return train.image_features, train.labels, test.image_features, test.labels, data.class_embeddings
    data = real_features("caltech69_vitb32")
    rows = [data[f"{part}_{what}"] for part in (f"train_{shots}shot", "test") for what in ("features", "labels")]
    return (*rows, unit(data["text_features"]))


def unit(x: np.ndarray) -> np.ndarray:
    """Scale rows to length one, in float32."""
    wide = np.asarray(x, np.float32)
    scaled: np.ndarray = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return scaled


def food8() -> Features:
    """Return eight classes of Food-101 with text and 200 training rows each."""
    data = real_features("food8_vitb32")
    splits = {
        part: Split(data[f"{part}_features"], labels, np.array([f"{part}/{i}" for i in range(len(labels))]))
        for part in ("train", "test")
        for labels in [data[f"{part}_labels"].astype(np.int64)]
    }
    provenance = {"dataset": "food8", "encoder": "OpenAI CLIP ViT-B/32", "fingerprint": None}
    return Features(splits, tuple(data["class_names"].tolist()), data["text_features"][None], provenance=provenance)


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
        data, shots, seeds = {"digits": digits()}, (2,), (1,)
    else:
        from real_features import caltech69

        data, shots, seeds = {"caltech69": caltech69(), "food8": food8()}, SHOTS, SEEDS
    rows = []
    for name, features in data.items():
        for k in shots:
            for images in TEXT_IMAGES:
                own = {"section": "ss-text", "dataset": name, "shots": k, "text_images": images or "as given"}
                for unlabelled in (None, "train"):
                    if unlabelled and len(features.split("train")) <= k * len(features.class_names):
                        continue  # every training row is a shot
                    found = [
                        fit_method(
                            features, "ss-text", {"text_images": images}, shots=k, seed=seed, unlabelled=unlabelled
                        ).row["acc1"]
                        for seed in seeds
                    ]
                    rows.append({**own, "unlabelled": unlabelled, "accuracy": float(np.mean(found))})
    for k in () if is_smoke() else (1, 4):
        X, y, X_test, y_test, text = published("imagenet", k)
        for images in TEXT_IMAGES:
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
                there = c if bounds is None else min(c, random.integers(bounds[0], bounds[1] + 1))
                pool = np.flatnonzero(np.isin(y_test, random.choice(c, there, replace=False)))
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
        features = digits(list(given))
        for method in ("zero-shot", "gda"):
            for shots in (2,) if is_smoke() else SHOTS:
                row = {"section": "templates", "templates": len(given), "method": method, "shots": shots}
                for weights in ("uniform", "timo"):
                    seeds = SEEDS[:1] if is_smoke() else SEEDS
                    fits = [
                        fit_method(features, method, {"template_weights": weights}, shots=shots, seed=s) for s in seeds
                    ]
                    row[weights] = float(np.mean([fit.row["acc1"] for fit in fits]))
                rows.append(row)
    return rows


SECTIONS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "proker": proker,
    "ss-text": ss_text,
    "stat-a": stat_a,
    "templates": templates,
}


def main() -> None:
    """Run the sections that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="|".join(SECTIONS), help="all by default")
    given = parse(parser, {"sections": []})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # trans-clip says that the batches here are not for it
        for name in given.sections or SECTIONS:
            report("new_methods", None, SECTIONS[name]())


if __name__ == "__main__":
    main()
