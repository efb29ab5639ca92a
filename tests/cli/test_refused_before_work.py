"""What was asked for is met or refused before any work: places, devices, dtypes; the commands named next can be run."""

from __future__ import annotations

import shlex

import pytest


def refused(outcome, *parts):
    """See `Outcome.refused`."""
    outcome.refused(*parts)


@pytest.fixture
def foreign(tmp_path):
    """Somebody's model in the hub's layout: file names as a run of cafe has, but none of ours."""
    folder = tmp_path / "my-clip"
    folder.mkdir()
    for name in ("model.safetensors", "config.json", "table.md"):
        (folder / name).write_bytes(b"mine")
    return folder


@pytest.mark.parametrize("verb", [("fit", "--shots", 1), ("compare", "baselines", "--shots", 1, "--seeds", 1)])
def test_a_folder_with_other_files_is_no_place_for_a_run_or_report(cafe, blobs, foreign, verb):
    refused(cafe(*verb, "--out", foreign), "my-clip", "config.json", "name a new or empty folder")
    assert {path.name: path.read_bytes() for path in foreign.iterdir()} == dict.fromkeys(
        ("model.safetensors", "config.json", "table.md"), b"mine"
    )
    taken = foreign / "table.md"
    for out in (taken, taken / "below"):
        refused(cafe(*verb, "--out", out), "cannot be used as a folder", "is a file")


@pytest.mark.parametrize("verb", [("fit", "--shots", 1), ("compare", "shots", "--shots", 1, "--seeds", 1)])
def test_an_empty_folder_and_an_older_run_or_report_may_be_written_to(cafe, blobs, tmp_path, verb):
    out = tmp_path / "out"
    out.mkdir()
    # What a killed run leaves is no reason to refuse either.
    mark = "run.json" if verb[0] == "fit" else "results.jsonl"
    (out / f".{mark}.0badcafe-1-00000000.tmp").write_bytes(b"half")
    for _ in range(2):
        outcome = cafe(*verb, "--out", out)
        assert outcome.code == 0, outcome.err
        assert (out / mark).is_file()


def test_dtype_and_device_are_met_or_refused(cafe, blobs):
    refused(cafe("fit", "--dtype", "float16"), "unknown dtype", "bfloat16", "float64")
    refused(cafe("compare", "baselines", "--dtype", "nonsense"), "unknown dtype")
    refused(cafe("fit", "--method", "zero-shot", "--dtype", "nonsense"), "unknown dtype")
    refused(cafe("fit", "--method", "zero-shot", "--device", "foo"), "unknown device 'foo'")
    refused(cafe("fit", "--method", "tip-adapter", "--dtype", "bfloat16"), "tip-adapter has no choice of dtype")
    refused(cafe("demo", "--dtype", "float16"), "unknown dtype")
    assert cafe("fit", "--method", "zero-shot", "--device", "cpu").code == 0
    assert cafe("fit", "--dtype", "float64", "--shots", 1).code == 0


def test_a_ratio_of_a_side_without_adapter_is_refused(cafe, blobs):
    for arguments in (("--variant", "image"), ()):  # image is the default
        refused(cafe("fit", *arguments, "--beta", 0.5), "--beta", "--variant image", "--variant text or both")
    refused(cafe("fit", "--variant", "text", "--alpha", 0.5), "--alpha", "--variant text")
    assert cafe("fit", "--method", "tip-adapter", "--alpha", 0.5, "--beta", 0.5, "--shots", 1).code == 0
    assert cafe("fit", "--variant", "both", "--alpha", 0.5, "--beta", 0.5, "--shots", 1).code == 0


def test_force_replaces_the_file_that_out_names(cafe, photos, tmp_path):
    out = tmp_path / "x.h5"
    assert cafe("extract", "--dataset", photos, "--out", out).code == 0
    refused(cafe("extract", "--dataset", "digits", "--out", out), "x.h5", "'photos'", "'digits'", "--force")
    outcome = cafe("extract", "--dataset", "digits", "--splits", "val", "--out", out, "--force", "--json")
    assert outcome.code == 0, outcome.err
    assert (outcome.json["path"], outcome.json["dataset"]) == (str(out), "digits")
    assert [path.name for path in tmp_path.glob("*.h5")] == ["x.h5"]


def test_the_commands_named_next_find_the_cache_that_was_made(cafe, photos, make_cache, tmp_path):
    def steps(*arguments):
        outcome = cafe("extract", "--dataset", photos, *arguments)
        assert outcome.code == 0, outcome.err
        return [shlex.split(line)[1:] for line in outcome.err.splitlines() if line.startswith("  cafe ")]

    for split in ("train", "test"):
        (photos / split).mkdir()
        for name in ("cat", "dog"):
            (photos / split / name).mkdir()
            for path in sorted((photos / name).glob("*.png"))[:4]:
                path.rename(photos / split / name / path.name)
    for name in ("cat", "dog"):
        (photos / name).rmdir()
    elsewhere = tmp_path / "my caches"
    for arguments in (("--cache-dir", elsewhere), ("--out", tmp_path / "named one.h5"), ()):
        for _ in range(2):
            make_cache("later")  # is the newest until photos is extracted, or used again
            # An extraction with the embedded encoder first names the same command with a real one.
            next_steps = [step for step in steps(*arguments) if step[0] != "extract"]
            assert [step[0] for step in next_steps] == ["fit", "compare"]
            outcome = cafe(*next_steps[0], "--shots", 1, "--json")
            assert outcome.json["rows"][0]["dataset"] == "photos", (next_steps, outcome.err)
    assert not [step for step in steps("--splits", "train", "--force") if step[0] != "extract"]


def test_rows_of_zero_shot_say_that_no_image_was_seen(cafe, blobs):
    outcome = cafe("fit", "--method", "zero-shot", "--json")
    row = outcome.json["rows"][0]
    assert (row["shots"], row["n_train"], row["seed"]) == (0, 0, None)
    assert "no image: it reads text alone" in cafe("fit", "--method", "zero-shot").out


def test_what_was_not_chosen_is_called_so(cafe, make_cache):
    make_cache(splits=("train", "test"))
    outcome = cafe("fit", "--method", "linear-probe", "--shots", 1)
    assert outcome.code == 0
    assert "(not chosen: the default)" in outcome.out
    assert "warning: nothing could be chosen" in outcome.err and "take more shots" in outcome.err


def test_a_run_whose_encoder_has_moved_says_how_to_name_it(cafe, photos, tmp_path, make_tiny_clip):
    model = make_tiny_clip(tmp_path / "clip")
    assert cafe("extract", "--dataset", photos, "--model", model).code == 0
    run = tmp_path / "run"
    assert cafe("fit", "--shots", 1, "--out", run).code == 0
    model.rename(tmp_path / "moved")
    refused(cafe("predict", "--run", run, photos), "say where it is now with --model")
    assert cafe("predict", "--run", run, photos, "--model", tmp_path / "moved").code == 0


def test_verify_answers_in_json_whatever_is_wrong(cafe, tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"no cache at all")
    outcome = cafe("cache", "verify", path, "--json")
    assert (outcome.code, outcome.json["ok"], len(outcome.json["findings"])) == (2, False, 1)


def test_a_word_for_a_number_gets_our_own_sentence(cafe, blobs):
    refused(cafe("fit", "--shots", "a"), "--shots", "whole number", "'a'")
