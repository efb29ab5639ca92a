"""The commands of the README, on the embedded data set and model, offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).parents[2]


def cafe(cache: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CAFE_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "cafe.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """One run of the demo, in a folder of its own."""
    cache = tmp_path_factory.mktemp("demo")
    done = cafe(cache, "demo")
    assert done.returncode == 0, done.stderr
    return cache, done


def test_demo_shows_a_table_and_leaves_cache_run_and_report(demo):
    cache, done = demo
    lines = done.stdout.splitlines()
    assert lines[0].startswith("digits, cafe:mini.")
    assert lines[2].split() == ["method", "0", "1", "2", "4", "8", "16", "chosen", "on"]
    assert (cache / "digits--cafe-mini.h5").is_file()
    run = cache / "runs" / "demo"
    assert {path.name for path in run.iterdir()} >= {"figure.png", "report.html", "table.md", "results.jsonl", "fit"}
    assert Image.open(run / "figure.png").format == "PNG"


def test_the_result_of_the_demo_is_worth_showing(demo):
    """Zero-shot knows digits; 16 shots of CLIP-Adapter gain at least 5 points, and no error bar touches it."""
    cache, _ = demo
    lines = (cache / "runs" / "demo" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    (zero_shot,) = [row["acc1"] for row in rows if row["method"] == "zero-shot"]
    adapted = [row["acc1"] for row in rows if row["method"] == "clip-adapter" and row["shots"] == 16]
    assert [row["seed"] for row in rows if row["method"] == "clip-adapter" and row["shots"] == 16] == [1, 2, 3]
    assert zero_shot >= 0.5
    assert np.mean(adapted) >= zero_shot + 0.05
    assert np.mean(adapted) - np.std(adapted, ddof=1) > zero_shot


def test_demo_names_three_commands_and_draws_no_bar(demo):
    _, done = demo
    commands = [line.strip() for line in done.stderr.splitlines() if line.startswith("  cafe ")]
    assert len(commands) == 3
    assert "\r" not in done.stderr and "\x1b" not in done.stdout + done.stderr
    assert "it/s" not in done.stderr  # a bar of a library


def test_the_cache_of_the_demo_is_used_again(demo):
    cache, _ = demo
    done = cafe(cache, "extract", "--dataset", "digits")
    assert done.returncode == 0, done.stderr
    assert "already there" in done.stdout
    assert "for photographs" not in done.stderr


def test_the_run_of_the_demo_predicts_digits(demo, tmp_path):
    from cafe.data import open_dataset

    cache, _ = demo
    digits = open_dataset("digits")
    labels = np.asarray(digits.splits["test"].labels)[:40]
    for i in range(40):
        digits.image("test", i).save(tmp_path / f"{i:02d}.png")
    (tmp_path / "broken.png").write_bytes(b"broken")
    done = cafe(cache, "predict", "--run", cache / "runs" / "demo" / "fit", tmp_path, "--json", "--top", 2)
    assert done.returncode == 0, done.stderr

    document = json.loads(done.stdout)
    assert [Path(entry["image"]).name for entry in document["unreadable"]] == ["broken.png"]
    guesses = {Path(entry["image"]).stem: entry["predictions"] for entry in document["images"]}
    assert all(len(guess) == 2 and guess[0]["probability"] >= guess[1]["probability"] for guess in guesses.values())
    right = [guesses[f"{i:02d}"][0]["class"] == digits.class_names[labels[i]] for i in range(40)]
    # Chance is 10 %; the adapter was fitted on other images.
    assert np.mean(right) > 0.4


def test_extract_and_fit_as_typed(demo):
    cache, _ = demo
    done = cafe(cache, "fit", "--variant", "image", "--alpha", "0.2", "--shots", "4")
    assert done.returncode == 0, done.stderr
    assert "clip-adapter image" in done.stdout
