import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cafe.compute import choose_encoding_dtype
from cafe.encoders import open_encoder, opening
from cafe.encoders.opening import known_models
from cafe.errors import InputError


@pytest.fixture
def broken(tiny_clip_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny CLIP, to be broken."""
    folder = tmp_path / "clip"
    shutil.copytree(tiny_clip_folder, folder)
    return folder


def refusal(model: str | Path) -> str:
    with pytest.raises(InputError) as caught:
        open_encoder(str(model), device="cpu").identity()  # its text side is read once it is needed
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_embedded_model_is_the_default(tiny_clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MODEL_FOLDER", tiny_clip_folder)
    encoder = open_encoder(device="cpu")
    assert encoder.id == "cafe:mini"
    assert encoder.identity()["image"] == open_encoder(str(tiny_clip_folder), device="cpu").identity()["image"]


def test_an_untrained_embedded_model_says_how_to_train_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MODEL_FOLDER", tmp_path)
    assert "python -m cafe.mini.train" in refusal("cafe:mini")


def test_a_folder_keeps_the_id_that_was_given(tiny_clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_clip_folder.parent)
    encoder = open_encoder(tiny_clip_folder.name, device="cpu")
    assert encoder.id == encoder.identity()["recorded"]["id"] == tiny_clip_folder.name
    assert encoder.device == "cpu"
    assert encoder.dtype == choose_encoding_dtype("auto", "cpu")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("cafe:mnii", "did you mean 'cafe:mini'"),
        ("openai/clip-vit-base/patch32", "no such model folder"),
        ("./nowhere", "no such model folder: './nowhere'"),
        ("", "unknown model ''"),
    ],
)
def test_unknown_models(given: str, words: str) -> None:
    assert words in refusal(given)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").touch()
    assert "is a file" in refusal(tmp_path / "weights.bin")


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    assert "no config.json" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "not a CLIP" in refusal(tmp_path)


def test_another_kind_of_model(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=10, **small)).save_pretrained(tmp_path)
    assert "is not a CLIP: a model of type 'bert'" in refusal(tmp_path)


def test_truncated_weights(broken: Path) -> None:
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert "weights of" in refusal(broken)


def test_a_lacking_weight_is_never_made_up(broken: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(broken / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    assert "lacks 1 of the model's weights, such as 'visual_projection.weight'" in refusal(broken)


def test_no_tokenizer(broken: Path) -> None:
    for path in broken.glob("*token*"):
        path.unlink()
    assert "has no tokenizer" in refusal(broken)


def test_no_image_processor(broken: Path) -> None:
    (broken / "preprocessor_config.json").unlink()
    assert "has no image processor" in refusal(broken)


def test_a_tokenizer_that_is_too_big(make_tiny_clip: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_tiny_clip(tmp_path / "clip", vocab_size=100, bos_token_id=98, eos_token_id=99, pad_token_id=99)
    assert "do not belong together" in refusal(folder)


def test_an_end_token_that_is_never_found(broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 7
    (broken / "config.json").write_text(json.dumps(config))
    assert "reads token 7" in refusal(broken)


def test_bad_device_is_found_before_the_model_is_read() -> None:
    with pytest.raises(InputError, match="unknown device"):
        open_encoder("owner/name", device="gpu")


def test_known_models() -> None:
    rows = known_models()
    assert rows[0]["name"] == "cafe:mini"
    assert {row["kind"] for row in rows} == {"embedded", "hub", "folder"}
    assert all(row["summary"] for row in rows)


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


def test_the_list_is_light() -> None:
    code = "import sys; from cafe.encoders.opening import known_models; known_models(); print('torch' in sys.modules)"
    assert run(code).stdout.strip() == "False"


def test_hub_ids_offline(tiny_clip_folder: Path, tmp_path: Path) -> None:
    """A model in the hub cache opens without network and records its commit; one that is not says so; no noise."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--tiny"
    shutil.copytree(tiny_clip_folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    code = (
        "from cafe.encoders import open_encoder\n"
        "print(open_encoder('someone/tiny', device='cpu').identity()['recorded']['revision'])\n"
        "try: open_encoder('someone/else')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    result = run(code, HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(tmp_path))
    first, second = result.stdout.splitlines()
    assert first == commit
    assert second.startswith("InputError model 'someone/else' is neither a folder nor in the local hub cache")
    assert result.stderr == ""


def test_a_folder_that_names_a_text_tower_is_not_looked_at_by_the_library(
    tiny_clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(source: str) -> bool:
        raise AssertionError(f"the library was asked about {source}")

    monkeypatch.setattr("cafe.encoders.towers.checkpoints.is_image_tower_alone", look)
    assert open_encoder(str(tiny_clip_folder), device="cpu").has_text
