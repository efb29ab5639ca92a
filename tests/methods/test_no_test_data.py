"""Whatever stands in the test split, every method chooses and learns the same."""

import numpy as np
import pytest

from cafe.features import Features, Split
from cafe.fitting import fit_method
from cafe.methods import method_names

CLASSES, WIDTH = 4, 12
SHORT = {"epochs": 4, "iterations": 20, "steps": 20}
TEXT = np.random.default_rng(0).normal(size=(CLASSES, WIDTH)).astype(np.float32)


def split(name, per_class, shift=0, seed=0):
    """Noisy images; ``shift`` moves every label to another class's images, so that all that is right turns wrong."""
    rng = np.random.default_rng([seed, per_class])
    y = np.arange(CLASSES * per_class) % CLASSES
    X = TEXT[(y + shift) % CLASSES] + 0.7 * rng.normal(size=(len(y), WIDTH))
    return Split(X.astype(np.float32), y, np.array([f"{name}-{shift}-{i}" for i in range(len(y))]))


@pytest.mark.parametrize("name", method_names())
@pytest.mark.parametrize("policy", ["few-shot-val", "cross-validation"])
def test_another_test_split_changes_nothing_that_was_chosen_or_learned(ready, name, policy):
    method = ready(name, TEXT)
    given = method.get_params()
    parameters = {k: v for k, v in SHORT.items() if k in given}
    parameters |= {k: given[k] for k in ("text_tower", "n_context") if k in given}
    # Everything that has a grid is chosen, but for lengths, which are kept short here.
    parameters |= {k: "auto" for k in method.grid if k not in SHORT or list(method.grid) == [k]}
    probe, results = split("probe", 5).image_features, []
    for shift in (0, 1):
        splits = {"train": split("train", 9), "val": split("val", 4), "test": split("test", 11, shift)}
        features = Features(splits, tuple("abcd"), TEXT[None], logit_scale=20.0)
        fitted = fit_method(features, name, parameters, shots=4, seed=2, selection=policy)
        assert fitted.row["oracle"] is False
        results.append((fitted.row["acc1"], fitted.row["selection"], fitted.estimator.predict_proba(probe)))
    (right, chosen, own), (wrong, again, other) = results
    assert right > wrong + 0.2  # the test splits do differ
    assert chosen == again
    np.testing.assert_array_equal(own, other)
