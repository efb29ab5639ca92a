"""Views, few-shot draws, batches and workers on the command line."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--workers", "many"], "--workers takes auto, 0 (threads) or a number of processes, got 'many'"),
        (["--seeds", "1"], "--seeds are of the draws of --shots"),
        (["--shots", "0"], "--shots takes whole numbers of at least 1"),
        (["--views", "-1"], "views must be at least 1"),
        (["--model", "cafe:mini,cafe:mini"], "--model names one model twice"),
        (["--batch-size", "0"], "the batch size must be at least 1"),
    ],
)
def test_wrong_usage(cafe, words, said):
    outcome = cafe("extract", "--dataset", "digits", *words)
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err


def test_views_and_draws(cafe, cache_dir):
    words = ["--views", 1, "--shots", 1, "--seeds", 1, "--splits", "train,test", "--workers", 0, "--json"]
    document = cafe("extract", "--dataset", "digits", *words).json
    assert document["splits"] == {"train": 10, "test": 546}
    assert (document["encoded"], document["kept"], document["workers"]) == (556, 0, 0)
    assert document["bottleneck"] in ("read", "encode", "write")
    provenance = cafe("cache", "info", "--json").json["provenance"]
    assert provenance["image"]["views"]["n"] == 1
    assert provenance["image"]["draws"] == {"shots": [1], "seeds": [1]}
    refused = cafe("fit", "--method", "tip-adapter", "--shots", 1, "--seed", 2)
    assert refused.code == 2
    assert "holds only the images of few-shot draws (shots 1; seeds 1)" in refused.err
