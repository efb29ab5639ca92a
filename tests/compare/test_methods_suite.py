"""The suite ``methods`` runs on every cache: what cannot run there is left out with its reason, and nothing breaks."""

import numpy as np
import pytest

from cafe.compare import compare
from cafe.features import Features, Split
from cafe.methods import method_names


def cache(n_classes, per_class, text, val):
    """Images around fixed directions; half-precision, as caches store them, and no features before the projection."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(n_classes, 12))

    def split(name, per):
        y = np.repeat(np.arange(n_classes), per)
        X = directions[y] + 0.6 * rng.normal(size=(len(y), 12))
        return Split(X.astype(np.float16), y, np.array([f"{name}/{i}" for i in range(len(y))]))

    splits = {"train": split("train", per_class), "test": split("test", 10)}
    if val:
        splits["val"] = split("val", 4)
    names = tuple(f"class {i}" for i in range(n_classes))
    embeddings = (directions + 0.5 * rng.normal(size=directions.shape))[None].astype(np.float32) if text else None
    provenance = {"dataset": "made", "encoder": "none", "fingerprint": None}
    return Features(splits, names, embeddings, logit_scale=20.0, provenance=provenance)


@pytest.mark.parametrize(
    ("n_classes", "per_class", "text", "val", "shots"),
    [(2, 1, False, False, 1), (3, [1, 2, 4], True, False, 2), (2, 2, True, True, 2)],
    ids=["two classes of one image, no text, no val", "unequal classes, no val", "two classes with everything"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_method_runs(n_classes, per_class, text, val, shots):
    result = compare("methods", [cache(n_classes, per_class, text, val)], shots=[shots], seeds=[1], include=["coop"])
    expected = set(method_names()) - {"coop"}
    if not text:
        expected = expected - {"zero-shot"} | {"class-means"}
    assert {row["method"] for row in result.rows} == expected
    assert all(0 <= row["acc1"] <= 1 and np.isfinite(row["ece"]) for row in result.rows)
    (note,) = [note for note in result.notes if note.startswith("coop")]
    assert "left out" in note


def test_templates_weighted_by_the_shots_are_lines_of_their_own():
    """Where a class has one template there is nothing to weigh, and no line."""
    from dataclasses import replace

    cache_of_templates = cache(3, 4, text=True, val=False)
    templates = np.concatenate([cache_of_templates.text_features, cache_of_templates.text_features[:, ::-1]])
    two = replace(cache_of_templates, text_features=templates, templates=("a photo of a {}.", "a {}."))
    for features, expected in ((cache_of_templates, set()), (two, {"zero-shot", "gda"})):
        result = compare("methods", [features], shots=[2], seeds=[1, 2], methods=["zero-shot", "gda", "stat-a"])
        weighted = [row for row in result.rows if "weighted" in row["series"]]
        assert {row["method"] for row in weighted} == expected
        # They learn from the shots: a row for each draw, where plain zero-shot and stat-a have one in all.
        assert all((row["shots"], row["n_train"]) == (2, 6) for row in weighted)
        assert len(weighted) == 2 * len(expected)
        for method in ("zero-shot", "stat-a"):
            plain = [row for row in result.rows if row["method"] == method and row not in weighted]
            assert [row["shots"] for row in plain] == [0]
