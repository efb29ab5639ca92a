"""Unknown images, sets of classes and temperatures on real features: the tables of docs/trust.md.

    CAFE_REAL_DATA=... python benchmarks/studies/trust_study.py [unknown] [promises] [temperature]

- ``unknown``: half the classes of Caltech69, Flowers, DTD and Cars are known. The others of the set ("left out") and
  the three other sets ("other sets") are unknown. AUROC and FPR95 (share of unknown images that pass where 95 % of the
  known ones do) of each score, means over draws of the known classes. The weight of the default score was chosen on
  draw 0, which is not among them.
- ``promises``: centre crops of Caltech69, Flowers and Cars, split in half again and again; what is promised from one
  half, measured on the other: coverage of sets (LAC, APS), false alarms.
- ``temperature``: calibration error and likelihood of test images by a method's own probabilities, with the temperature
  that was fitted out of fold whatever it gains, and by the rule of :class:`cafe.classifier.out_of_fold.Calibration`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from harness import is_smoke, parse, real_features, report, unit_float32
from real_features import features_of

SETS = {"caltech69": "caltech69_vitb32", "flowers102": "oxford_flowers_vitb32", "dtd": "dtd_vitb32",
        "stanford-cars": "stanford_cars_vitb32"}  # fmt: skip
SHOTS = {"caltech69": (1, 4, 16), "flowers102": (1, 4, 16), "dtd": (1,), "stanford-cars": (1, 4, 16)}
DRAWS = (1, 2, 3)
MOST = 1000  # unknown images of a set
NEGATIVES = 500  # texts of ImageNet's classes, the farthest
COVERAGE, FALSE_ALARMS = (0.9, 0.95), 0.05


def scores_of(
    X: np.ndarray, shots: np.ndarray, labels: np.ndarray, text: np.ndarray | None, texts: np.ndarray
) -> dict[str, np.ndarray]:
    """Return every score of the images."""
    from cafe import GDA
    from cafe.evaluation import unknown as u

    means = unit_float32(np.stack([shots[labels == c].mean(axis=0) for c in np.unique(labels)]))
    embeddings = means if text is None else text
    scores = {
        "MCM": u.mcm_score(X, embeddings),
        "distance to the nearest shot": u.distance_score(X, shots),
        "distance to the nearest mean": u.distance_score(X, means),
        "gda: one minus its probability": 1.0 - GDA(embeddings).fit(shots, labels).predict_proba(X).max(axis=1),
        "default (both parts)": u.combined_score(X, embeddings, means),
    }
    if text is not None:
        scores["negatives"] = u.negatives_score(X, text, u.far_texts(texts, text, NEGATIVES))
    return scores


def unknown() -> list[dict[str, Any]]:
    """Measure AUROC and FPR95 of every score."""
    from sklearn.metrics import roc_auc_score

    texts = unit_float32(real_features("imagenet_vitb32")["text_features"])
    tests = {name: unit_float32(real_features(file)["test_features"]) for name, file in SETS.items()}
    rows = []
    for name, file in SETS.items():
        data = real_features(file)
        for k in SHOTS[name][:1] if is_smoke() else SHOTS[name]:
            results: dict[tuple[str, str], list[tuple[float, float]]] = {}
            for draw in DRAWS[:1] if is_smoke() else DRAWS:
                rng = np.random.default_rng(draw)
                n_classes = int(data["test_labels"].max()) + 1
                known = np.sort(rng.permutation(n_classes)[: n_classes // 2])
                mine, test_mine = (np.isin(data[f"{part}_labels"], known) for part in (f"train_{k}shot", "test"))
                shots = unit_float32(data[f"train_{k}shot_features"])[mine]
                labels = np.searchsorted(known, data[f"train_{k}shot_labels"][mine])
                text = unit_float32(data["text_features"])[known] if "text_features" in data else None
                inside = scores_of(tests[name][test_mine], shots, labels, text, texts)
                others = {"left out": [tests[name][~test_mine]]}
                others["other sets"] = [rows_of for other, rows_of in tests.items() if other != name]
                for kind, several in others.items():
                    for images in several:
                        some = images[rng.permutation(len(images))[:MOST]]
                        for score, outside in scores_of(some, shots, labels, text, texts).items():
                            truth = np.repeat([0, 1], [len(inside[score]), len(outside)])
                            auroc = float(roc_auc_score(truth, np.concatenate([inside[score], outside])))
                            fpr95 = float(np.mean(outside <= np.quantile(inside[score], 0.95)))
                            results.setdefault((kind, score), []).append((auroc, fpr95))
            for (kind, score), values in results.items():
                auroc, fpr95 = np.mean(values, axis=0)
                rows.append({"section": "unknown", "known": name, "shots": k, "unknown": kind, "score": score,
                             "auroc": float(auroc), "fpr95": float(fpr95)})  # fmt: skip
    return rows


def test_rows(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the centre crops of a set, their labels, and its text where it has some."""
    data = real_features(SETS[name])
    text = data["text_features"].astype(np.float32) if "text_features" in data else None
    return unit_float32(data["test_features"]), data["test_labels"].astype(np.int64), text


def promises() -> list[dict[str, Any]]:
    """Measure coverage, false alarms and calibration on the half that nothing was built from."""
    from cafe.classifier.final_fit import fit_for_use
    from cafe.classifier.out_of_fold import class_text, unknown_scores
    from cafe.fitting import full_probabilities

    rows = []
    for name in ("caltech69", "flowers102", "stanford-cars"):
        X, y, text = test_rows(name)
        results: dict[str, list[float]] = {}
        for seed in range(1 if is_smoke() else 20):
            order = np.random.default_rng(seed).permutation(len(y))
            halves = [(X[part], y[part]) for part in np.array_split(order, 2)]
            features = features_of(name, dict(zip(("train", "test"), halves, strict=True)), text)
            final = fit_for_use(features, "gda", seed=seed)
            assert final.promises is not None and final.scored is not None
            test = features.split("test")
            p = full_probabilities(final.estimator, test.image_features, len(features.class_names))
            best, rows_of = p.argmax(axis=1), np.arange(len(test))
            values = {"acc1": float((best == test.labels).mean())}
            for coverage in COVERAGE:
                for score in ("lac", "aps"):
                    inside = final.promises.sets(test.image_features, best, p.shape[1], coverage, score)
                    values[f"{score} {coverage:g}"] = float(inside[rows_of, test.labels].mean())
                    values[f"{score} {coverage:g} size"] = float(inside.sum(axis=1).mean())
            strange = unknown_scores(test.image_features, class_text(final.estimator, X.shape[1]), final.promises.means)
            values["false alarms"] = float((strange > final.promises.threshold(FALSE_ALARMS)).mean())
            for key, value in values.items():
                results.setdefault(key, []).append(value)
        rows.append({"section": "promises", "data": name, "splits": len(results["acc1"]),
                     **{key: float(np.mean(v)) for key, v in results.items()}})  # fmt: skip
    return rows


METHODS = ("gda", "auto")


def temperature() -> list[dict[str, Any]]:
    """Measure calibration on test images: own probabilities, a temperature always, a temperature by the rule."""
    from cafe.classifier.final_fit import fit_for_use
    from cafe.evaluation.calibration import tempered
    from cafe.evaluation.metrics import expected_calibration_error, negative_log_likelihood
    from cafe.fitting import full_probabilities

    rows = []
    for name in ("caltech69", "flowers102", "stanford-cars"):
        data, (X, y, text) = real_features(SETS[name]), test_rows(name)
        divided = {
            f"{k} shots": [((unit_float32(data[f"train_{k}shot_features"]), data[f"train_{k}shot_labels"]), (X, y))]
            for k in (4, 16)
        }
        halves = [np.array_split(np.random.default_rng(seed).permutation(len(y)), 2) for seed in range(3)]
        divided["half"] = [((X[a], y[a]), (X[b], y[b])) for a, b in halves]
        for method in METHODS[:1] if is_smoke() else METHODS:
            for learned, draws in list(divided.items())[:1] if is_smoke() else divided.items():
                results: dict[str, list[float]] = {}
                for seed, (train, test) in enumerate(draws):
                    features = features_of(name, {"train": train, "test": test}, text)
                    final = fit_for_use(features, method, seed=seed)
                    assert final.calibration is not None
                    p = full_probabilities(final.estimator, test[0], len(features.class_names))
                    given = {"own": 1.0, "always": final.calibration.temperature_fitted}
                    given["rule"] = final.calibration.temperature
                    for key, value in given.items():
                        q = tempered(p, value)
                        results.setdefault(f"ece {key}", []).append(expected_calibration_error(q, test[1]))
                        results.setdefault(f"nll {key}", []).append(negative_log_likelihood(q, test[1]))
                    results.setdefault("kept", []).append(float(given["rule"] != 1.0))
                    results.setdefault("temperature", []).append(given["always"])
                about = {"section": "temperature", "data": name, "learned": learned, "method": method}
                means = {key: float(np.mean(values)) for key, values in results.items()}
                rows.append({**about, "draws": len(draws), **means})
    return rows


SECTIONS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "unknown": unknown,
    "promises": promises,
    "temperature": temperature,
}


def main() -> None:
    """Run the sections that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="|".join(SECTIONS), help="all by default")
    given = parse(parser, {"sections": []})
    for name in given.sections or SECTIONS:
        report("trust_study", None, SECTIONS[name]())


if __name__ == "__main__":
    main()
