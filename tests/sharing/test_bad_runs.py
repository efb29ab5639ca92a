"""What is wrong with a run or a file is one sentence, whichever command is asked to take it."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest

import cafe
from cafe.cli.app import call

# What each command is given besides --run; none of them gets as far as to use it.
VERBS = {
    "predict": ["predict", "{image}"],
    "serve": ["serve", "--port", "0"],
    "export": ["export", "--out", "{folder}/never.onnx"],
    "push": ["push", "owner/name"],
}


@pytest.fixture
def refused(digit_run, tmp_path, capfd):
    """Run each command on something, and return nothing: each must say what is wrong and leave no file."""
    image = next((digit_run.parent / "photos").rglob("*.png"))

    def check(run, *parts, verbs=tuple(VERBS), options=()):
        for verb in verbs:
            arguments = [part.format(image=image, folder=tmp_path) for part in VERBS[verb]]
            code = call([*arguments, "--run", str(run), *options, "--cache-dir", str(tmp_path / "caches")])
            said = capfd.readouterr()
            assert code == 2, (verb, said.err)
            sentence = said.err.strip().splitlines()[-1]
            assert "Traceback" not in said.err and said.out == ""
            for part in parts:
                assert part in sentence, (verb, sentence)
        assert not (tmp_path / "never.onnx").exists()

    return check


def edited(run: Path, folder: Path, edit) -> Path:
    """Copy a run, and change its run.json."""
    shutil.copytree(run, folder)
    document = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    edit(document)
    (folder / "run.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def test_a_run_of_a_later_version(digit_run, tmp_path, refused):
    def later(document):
        document["run_version"] += 1

    refused(edited(digit_run, tmp_path / "later", later), "later", "version")


def test_a_run_whose_encoder_is_gone(digit_run, make_tiny_clip, tmp_path, refused):
    tower = make_tiny_clip(tmp_path / "tower")
    photos = digit_run.parent / "photos"
    cafe.Classifier.fit(
        photos, model=str(tower), method="zero-shot", cache_dir=tmp_path / "caches", save=tmp_path / "run"
    )
    shutil.rmtree(tower)
    refused(tmp_path / "run", str(tower), verbs=("predict", "serve", "export"))
    refused(
        tmp_path / "run", "no-such-model", verbs=("predict", "serve", "export"), options=("--model", "./no-such-model")
    )


def test_a_damaged_run(digit_run, tmp_path, refused):
    shutil.copytree(digit_run, tmp_path / "damaged")
    weights = tmp_path / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    refused(tmp_path / "damaged", "model.safetensors")


def test_an_edited_card_stops_what_leaves_the_machine_alone(digit_run, tmp_path, refused, capfd):
    shutil.copytree(digit_run, tmp_path / "edited")
    card = tmp_path / "edited" / "README.md"
    card.write_text(card.read_text(encoding="utf-8").replace("cafe", "tea", 1), "utf-8")
    refused(tmp_path / "edited", "README.md", "library_name", verbs=("push",))
    image = next((digit_run.parent / "photos").rglob("*.png"))
    assert call(["predict", str(image), "--run", str(tmp_path / "edited"), "--quiet"]) == 0
    capfd.readouterr()


@pytest.mark.parametrize("keep", [0, 1000, -1])
def test_a_truncated_onnx_file(digit_file, tmp_path, refused, keep):
    short = tmp_path / "short.onnx"
    short.write_bytes(digit_file.read_bytes()[:keep])
    refused(short, "short.onnx", verbs=("predict", "serve"))


def test_an_onnx_file_where_a_run_belongs(digit_file, refused):
    refused(digit_file, digit_file.name, "`cafe fit`", verbs=("export", "push"))


def test_an_address_in_use_is_said_before_anything_is_opened(refused):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for run in ("no-such-run", "no-such-file.onnx"):
            refused(run, f"127.0.0.1:{port}", "in use", verbs=("serve",), options=("--port", port))
