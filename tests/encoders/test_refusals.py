"""Model folders from strangers: none runs code, asks a question, or makes memory out of a number in its files."""

import json
import shutil
from pathlib import Path

import pytest

from cafe.encoders import open_encoder
from cafe.encoders.towers.refusals import never_asking
from cafe.errors import InputError

RAN = "ran.txt"


@pytest.fixture
def broken(tiny_clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny CLIP, to be broken; whoever asks a question on the terminal is answered with an error."""

    def ask(prompt: str = "") -> str:
        raise AssertionError(f"a question was asked: {prompt}")

    monkeypatch.setattr("builtins.input", ask)
    folder = tmp_path / "clip"
    shutil.copytree(tiny_clip_folder, folder)
    code = f"open({str(tmp_path / RAN)!r}, 'w').write('the code of the folder ran')\n"
    (folder / "evil.py").write_text(f"{code}class Evil:\n    pass\n", encoding="utf-8")
    return folder


def change(folder: Path, file: str, **entries: object) -> None:
    path = folder / file
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **entries}), encoding="utf-8")


def refusal(model: str) -> str:
    with pytest.raises(InputError) as caught:
        open_encoder(model, device="cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("file", "entries"),
    [
        ("config.json", {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}}),
        (
            "preprocessor_config.json",
            {"image_processor_type": "Evil", "auto_map": {"AutoImageProcessor": "evil.Evil"}},
        ),
    ],
)
def test_a_folder_that_brings_code_is_refused_without_a_question(
    broken: Path, tmp_path: Path, file: str, entries: dict[str, object]
) -> None:
    change(broken, file, **entries)
    assert refusal(str(broken)).startswith((str(broken), "the "))
    assert not (tmp_path / RAN).exists()


def test_the_sentence_says_that_code_is_never_run(broken: Path) -> None:
    change(broken, "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Evil"})
    words = refusal(str(broken))
    assert "code of its own" in words
    assert "trust_remote_code" not in words  # advice that nobody could follow here


def test_a_tokenizer_of_an_unknown_class_runs_no_code(broken: Path, tmp_path: Path) -> None:
    change(
        broken, "tokenizer_config.json", tokenizer_class="Evil", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    )
    assert open_encoder(str(broken), device="cpu").dim > 0  # tokenizer.json says all that is needed
    assert not (tmp_path / RAN).exists()


def test_code_beside_a_known_model_is_left_alone(broken: Path, tmp_path: Path) -> None:
    change(broken, "config.json", auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"})
    assert open_encoder(str(broken), device="cpu").dim > 0
    assert not (tmp_path / RAN).exists()


@pytest.mark.parametrize("where", ["text_cfg", "vision_cfg"])
def test_an_open_clip_folder_cannot_ask_for_trust(tmp_path: Path, where: str) -> None:
    pytest.importorskip("open_clip")
    config = {"text_cfg": {}, "vision_cfg": {"image_size": 32}}
    config[where]["tokenizer_kwargs"] = {"trust_remote_code": True}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}), encoding="utf-8")
    assert "code of its own" in refusal(f"open_clip:local-dir:{tmp_path}")


def test_a_text_tower_of_another_library_asks_nothing(broken: Path) -> None:
    from transformers import AutoConfig

    change(broken, "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Evil"})
    with never_asking(), pytest.raises(ValueError, match="trust_remote_code"):
        AutoConfig.from_pretrained(str(broken))  # as open_clip calls it


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"size": {"shortest_edge": -3}}, "size shortest_edge = -3"),
        ({"size": {"shortest_edge": 0}}, "size shortest_edge = 0"),
        ({"size": {"shortest_edge": 10**9}}, "size shortest_edge = 1000000000"),
        ({"crop_size": {"height": 10**6, "width": 32}}, "crop_size height = 1000000"),
        ({"crop_size": {"height": 32.5, "width": 32}}, "crop_size height = 32.5"),
        ({"size": {"shortest_edge": "big"}}, "size shortest_edge = 'big'"),
        ({"image_std": [0, 1, 1]}, "image_std"),
        ({"image_std": [1, 1]}, "image_std"),
        ({"image_mean": [0, 1e999, 1]}, "image_mean"),
        ({"image_mean": "grey"}, "image_mean"),
        ({"rescale_factor": 1e999}, "rescale_factor"),
        ({"resample": 99}, "cannot be used"),
    ],
)
def test_a_preprocessor_with_impossible_numbers(broken: Path, entries: dict[str, object], words: str) -> None:
    change(broken, "preprocessor_config.json", **entries)
    assert words in refusal(str(broken))


@pytest.mark.parametrize("size", [-1, 0, 10**9, [32, 10**9], "big", None])
def test_an_open_clip_tower_for_impossible_images(tmp_path: Path, size: object) -> None:
    pytest.importorskip("open_clip")
    config = {"model_cfg": {"text_cfg": {}, "vision_cfg": {"image_size": size}}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert "image_size" in refusal(f"open_clip:local-dir:{tmp_path}")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' + "1" * 5000 + "}", "\x00", "[]", "3", '{"model_cfg": 3}'])
def test_a_configuration_that_is_none(broken: Path, tmp_path: Path, text: str) -> None:
    (broken / "config.json").write_text(text, encoding="utf-8")
    assert "not a CLIP" in refusal(str(broken))
    if pytest.importorskip("open_clip"):
        (tmp_path / "open_clip_config.json").write_text(text, encoding="utf-8")
        assert "open_clip_config.json" in refusal(f"open_clip:local-dir:{tmp_path}")
