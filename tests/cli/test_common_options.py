"""The options that every verb shares do what they say, wherever they are given."""

from __future__ import annotations

import pytest

LISTS = ("datasets", "methods", "models", "suites", "templates")


@pytest.mark.parametrize(
    "verb", [*((name,) for name in LISTS), ("cache", "ls"), ("cache", "info"), ("cache", "verify")]
)
def test_json_is_all_of_stdout_and_quiet_all_of_the_silence(cafe, blobs, verb):
    outcome = cafe(*verb, "--json", "--quiet")
    assert (outcome.code, outcome.err) == (0, "")
    assert isinstance(outcome.json, dict)


def test_cache_dir_wins_over_the_environment(cafe, blobs, cache_dir, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    cache_dir.rename(elsewhere)
    for verb in (["cache", "ls"], ["cache", "info"], ["cache", "verify"], ["fit", "--method", "zero-shot"]):
        outcome = cafe(*verb, "--cache-dir", elsewhere)
        assert outcome.code == 0, outcome.err
        assert "blobs" in outcome.out
    run = elsewhere / "runs" / "blobs-made-up-zero-shot"
    assert run.is_dir()
    assert not cache_dir.exists()
    # Found by name; what stops it is that nobody has this encoder.
    picture = tmp_path / "a.png"
    picture.write_bytes(b"")
    outcome = cafe("predict", "--run", run.name, picture, "--cache-dir", elsewhere)
    assert (outcome.code, "unknown model 'made-up'" in outcome.err) == (2, True)


def test_lists_say_of_what_there_are_caches(cafe, make_cache, tmp_path):
    path = make_cache("digits", encoder="cafe:mini")
    datasets, models = cafe("datasets", "--json").json["datasets"], cafe("models", "--json").json["models"]
    assert {entry["name"]: entry["caches"] for entry in datasets if entry["caches"]} == {"digits": [str(path)]}
    assert {entry["name"]: entry["caches"] for entry in models if entry["caches"]} == {"cafe:mini": [str(path)]}
    assert not any(entry["caches"] for entry in cafe("datasets", "--json", "--cache-dir", tmp_path).json["datasets"])


COMPARE = ["compare", "baselines", "--methods", "tip-adapter", "--shots", "2", "--json"]


def test_one_seed_is_a_list_of_one(cafe, blobs):
    single, listed = (cafe(*COMPARE, option, "5").json["rows"] for option in ("--seed", "--seeds"))
    assert [row["seed"] for row in single] == [5]
    assert [row["acc1"] for row in single] == [row["acc1"] for row in listed]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--seed", "1", "--seeds", "2,3"], "give --seed 1 for one seed, or --seeds 2,3 for a list; not both"),
        (["--seed", "-1"], "--seed takes whole numbers of at least 0"),
        (["--seed", "one"], "'--seed'"),
    ],
)
def test_seed_and_seeds_contradict_each_other(cafe, blobs, given, words):
    outcome = cafe(*COMPARE, *given)
    assert (outcome.code, outcome.out) == (2, "")
    assert words in outcome.err
