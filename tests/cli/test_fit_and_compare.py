"""``cafe fit`` and ``cafe compare`` on a small cache that was made without an encoder."""

from __future__ import annotations

import json

import pytest

from cafe.cli.fit import _check_kinds
from cafe.errors import InputError

# Word for word from the contract (DESIGN section 3).
ROW = {
    "dataset", "encoder", "method", "variant", "shots", "seed", "n_train", "n_test", "acc1", "acc5",
    "mean_per_class_recall", "ece", "zero_shot_acc1", "params", "selection", "fit_seconds", "kernel", "device", "dtype",
    "cafe_version", "cache_fingerprint",
}  # fmt: skip
FAST = ["--method", "tip-adapter", "--alpha", "1.0", "--beta", "5.0"]
FILES = ["figure.png", "report.html", "results.csv", "results.jsonl", "table.md"]


def test_rows_hold_what_the_contract_says(cafe, blobs):
    outcome = cafe("fit", *FAST, "--shots", 4, "--seed", 3, "--json")
    assert outcome.code == 0, outcome.err
    (row,) = outcome.json["rows"]
    assert row.keys() >= ROW
    assert (row["dataset"], row["encoder"], row["method"]) == ("blobs", "made-up", "tip-adapter")
    assert (row["shots"], row["seed"], row["n_train"], row["n_test"]) == (4, 3, 16, 100)
    assert 0.0 <= row["zero_shot_acc1"] <= 1.0 and 0.25 < row["acc1"] <= 1.0
    assert (row["params"]["alpha"], row["params"]["beta"]) == (1.0, 5.0)


def test_fit_says_what_it_did_and_where_it_is(cafe, blobs, cache_dir):
    outcome = cafe("fit", *FAST, "--shots", 4)
    assert outcome.code == 0, outcome.err
    run = cache_dir / "runs" / "blobs-made-up-tip-adapter-4-shot-seed-1"
    assert run.is_dir()
    for expected in ("tip-adapter", "blobs", "16 images (4 shots, seed 1)", "100 test images", "zero-shot", str(run)):
        assert expected in outcome.out, expected
    assert f"using the cache last used: {blobs}" in outcome.err
    assert "cafe predict IMAGE" in outcome.err


def test_fit_without_shots_uses_all_training_images(cafe, blobs):
    (row,) = cafe("fit", *FAST, "--json").json["rows"]
    assert row["shots"] is None and row["n_train"] == 80


def test_the_default_is_auto_and_an_option_of_the_adapter_asks_for_it(cafe, blobs):
    (row,) = cafe("fit", "--shots", 2, "--json").json["rows"]
    assert row["method"] == "auto"
    (row,) = cafe("fit", "--variant", "image", "--alpha", "0.2", "--shots", 2, "--json").json["rows"]
    assert (row["method"], row["variant"], row["params"]["alpha"]) == ("clip-adapter", "image", 0.2)
    for option in (("--variant", "text"), ("--alpha", "0.5"), ("--beta", "0.5", "--variant", "both")):
        (row,) = cafe("fit", *option, "--shots", 2, "--json").json["rows"]
        assert row["method"] == "clip-adapter"


def test_any_parameter_of_a_method_can_be_set(cafe, blobs):
    given = ["--set", "form=released", "--set", "epochs=3", "--set", "normalize=false", "--set", "lr=1e-2"]
    outcome = cafe("fit", "--method", "clip-adapter", "--shots", 2, *given, "--json")
    assert outcome.code == 0, outcome.err
    params = outcome.json["rows"][0]["params"]
    assert {k: params[k] for k in ("form", "epochs", "normalize", "lr")} == {
        "form": "released", "epochs": 3, "normalize": False, "lr": 0.01,
    }  # fmt: skip
    (row,) = cafe("fit", "--method", "linear-probe", "--set", "C=0.5", "--shots", 2, "--json").json["rows"]
    assert row["params"]["C"] == 0.5 and row["selection"]["policy"] == "fixed"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("lr", "--set takes NAME=VALUE, such as form=released; got 'lr'"),
        ("=3", "--set takes NAME=VALUE"),
        ("alpha=0.2", "--set cannot set alpha: give --alpha"),
        ("random_state=3", "--set cannot set random_state: give --seed"),
        ("class_embeddings=[1]", "it comes from the cache"),
        ("lr=fast", "--set lr takes a number; got 'fast'"),
        ("epochs=many", "--set epochs takes a number or null; got 'many'"),
        ("batch_size=1.5", "--set batch_size takes a whole number; got 1.5"),
        ("normalize=1", "--set normalize takes true or false; got 1"),
        ("form=relesed", "did you mean 'released'"),
        ("gamma=2", "method 'clip-adapter' takes no parameter 'gamma'"),
    ],
)
def test_settings_that_cannot_be_are_told(cafe, blobs, given, words):
    outcome = cafe("fit", "--method", "clip-adapter", "--shots", 2, "--set", given)
    assert (outcome.code, outcome.out) == (2, "")
    assert words in outcome.err


def test_a_second_fit_overwrites_nothing(cafe, blobs, cache_dir):
    first, second = (cafe("fit", *FAST, "--shots", 4, "--json").json["run"] for _ in range(2))
    assert first != second
    assert len(list((cache_dir / "runs").iterdir())) == 2


def test_a_saved_run_predicts_the_same(cafe, blobs, tmp_path):
    import cafe as library

    outcome = cafe("fit", *FAST, "--shots", 4, "--out", tmp_path / "run", "--json")
    features = library.load_features(blobs)
    test = features.split("test")
    accuracy = (library.load(tmp_path / "run").predict(test.image_features) == test.labels).mean()
    assert accuracy == pytest.approx(outcome.json["rows"][0]["acc1"])


def test_quiet_leaves_only_the_answer(cafe, blobs):
    outcome = cafe("fit", *FAST, "--shots", 4, "--quiet")
    assert outcome.err == ""
    assert "accuracy" in outcome.out


COMPARE = ["compare", "baselines", "--shots", "1,4", "--seeds", "1,2", "--methods", "zero-shot,tip-adapter"]


def test_compare_writes_its_report_and_says_where(cafe, blobs, cache_dir):
    outcome = cafe(*COMPARE)
    assert outcome.code == 0, outcome.err
    out = cache_dir / "runs" / "compare-baselines-blobs-made-up"
    assert sorted(path.name for path in out.iterdir()) == FILES
    lines = outcome.out.splitlines()
    assert lines[0].startswith("blobs, made-up. Top-1 accuracy in per cent")
    assert lines[2].split() == ["method", "0", "1", "4", "chosen", "on"]
    assert any(line.startswith("zero-shot") for line in lines)
    assert str(out / "figure.png") in outcome.err and str(out / "report.html") in outcome.err


def test_compare_as_json(cafe, blobs, tmp_path):
    outcome = cafe(*COMPARE, "--out", tmp_path / "report", "--json")
    document = outcome.json
    assert all(row.keys() >= ROW for row in document["rows"])
    tip = [row for row in document["rows"] if row["method"] == "tip-adapter"]
    assert sorted((row["shots"], row["seed"]) for row in tip) == [(1, 1), (1, 2), (4, 1), (4, 2)]
    summary = document["summary"]
    (entry,) = [line for line in summary if line["method"] == "tip-adapter" and line["shots"] == 4]
    values = [row["acc1"] for row in tip if row["shots"] == 4]
    assert entry["n"] == 2
    assert entry["acc1_mean"] == pytest.approx(sum(values) / 2)
    written = (tmp_path / "report" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in written] == document["rows"]


def test_compare_gives_the_same_numbers_twice(cafe, blobs, tmp_path):
    runs = [cafe(*COMPARE, "--out", tmp_path / name, "--json").json["rows"] for name in ("a", "b")]
    numbers = [[(row["method"], row["shots"], row["seed"], row["acc1"], row["ece"]) for row in rows] for rows in runs]
    assert numbers[0] == numbers[1]


def test_compare_on_two_caches(cafe, make_cache, tmp_path):
    first, second = make_cache("blobs"), make_cache("drops", seed=1)
    outcome = cafe(*COMPARE, "--cache", f"{first},{second}", "--out", tmp_path / "report", "--json")
    assert {row["dataset"] for row in outcome.json["rows"]} == {"blobs", "drops"}
    assert "using the newest" not in outcome.err
    assert (tmp_path / "report" / "table.md").read_text(encoding="utf-8").count("| method |") == 2


def test_only_the_methods_asked_for(cafe, blobs, tmp_path):
    rows = cafe(*COMPARE, "--out", tmp_path / "report", "--json").json["rows"]
    assert {row["method"] for row in rows} == {"zero-shot", "tip-adapter"}


@pytest.mark.parametrize("annotation", ["int | None", int | None, int, "int"])
def test_settings_are_held_against_types_however_a_method_writes_them(annotation):
    """A file without `from __future__ import annotations` has types where others have text."""
    _check_kinds({"epochs": 3}, {"epochs": annotation})
    with pytest.raises(InputError, match="--set epochs takes a whole number.*got 'many'"):
        _check_kinds({"epochs": "many"}, {"epochs": annotation})
