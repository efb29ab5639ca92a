"""Prompts written per class, from extraction to the class embeddings of a loaded cache."""

import json

import numpy as np
import pytest

from cafe.cache.extract.progress import ExtractionInterrupted
from cafe.cache.extract.run import extract
from cafe.cache.format.reader import read_features
from cafe.cache.format.verify import verify_cache
from cafe.errors import InputError

PROMPTS = [["aa", "b", "a dog and more"], ["x"]]  # the fake tower: length, blanks, first letter, 1


def test_prompts_per_class_by_hand(dataset, encoder, tmp_path):
    summary = extract(dataset, encoder, tmp_path / "a.h5", prompts=PROMPTS)
    features = read_features(summary.path)
    assert features.prompt_features.tolist() == [[2, 0, 97, 1], [1, 0, 98, 1], [14, 3, 97, 1], [1, 0, 120, 1]]
    assert features.prompt_classes.tolist() == [0, 0, 0, 1]
    assert features.templates == ()
    unit = features.prompt_features.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    expected = np.stack([unit[:3].mean(axis=0), unit[3]])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    # float32 beside float64: half a unit in the last place of numbers up to 1.
    np.testing.assert_allclose(features.class_embeddings, expected, rtol=0, atol=2.0**-24)
    # A reader that knows no prompts gets the same classes, rounded to float16.
    assert features.text_features.shape == (1, 2, 4)
    np.testing.assert_allclose(features.text_features[0], expected, rtol=0, atol=2.0**-11)
    assert features.provenance["text"]["prompts"] == PROMPTS
    assert verify_cache(summary.path).ok


def test_other_prompts_encode_text_alone(fakes, tmp_path):
    first = extract(fakes[0](), fakes[1](), tmp_path / "a.h5")
    encoder = fakes[1]()
    second = extract(fakes[0](), encoder, tmp_path / "a.h5", prompts=PROMPTS)
    assert (second.action, encoder.batches) == ("text encoded again", [])
    assert second.fingerprint != first.fingerprint
    assert extract(fakes[0](), encoder, tmp_path / "a.h5", prompts=PROMPTS).action == "already there"
    third = extract(fakes[0](), encoder, tmp_path / "a.h5")
    assert (third.action, third.path) == ("already there", first.path)  # both sets are kept
    assert read_features(third.path).prompt_features is None


def test_a_damaged_prompt_array_is_found(dataset, encoder, tmp_path):
    import h5py

    path = extract(dataset, encoder, tmp_path / "a.h5", prompts=PROMPTS).path
    with h5py.File(path, "r+") as file:
        file["prompt_classes"][0] = 1
    assert any("prompt_classes differs" in finding for finding in verify_cache(path).findings)


@pytest.mark.parametrize("prompts", [[["a"]], [["a"], []], [["a"], ["b"], ["c"]]])
def test_prompts_for_other_classes(dataset, encoder, tmp_path, prompts):
    with pytest.raises(InputError, match="one list for each of the 2 classes"):
        extract(dataset, encoder, tmp_path / "a.h5", prompts=prompts)


def test_text_options_of_the_command_line(tmp_path, capfd):
    from cafe.cli.app import call

    names = [f"figure {i}" for i in range(10)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    (tmp_path / "cupl.json").write_text(
        json.dumps({name: [f"{name} looks so."] * (i + 1) for i, name in enumerate(names)})
    )
    out = tmp_path / "digits.h5"
    words = [
        "extract",
        "--dataset",
        "digits",
        "--out",
        out,
        "--splits",
        "test",
        "--class-names",
        tmp_path / "names.txt",
    ]
    assert call([*map(str, words), "--templates", "imagenet-7", "--json"]) == 0
    features = read_features(out)
    assert features.class_names == tuple(names)
    assert features.text_features.shape[0] == 7
    words += ["--prompts", tmp_path / "cupl.json", "--templates", "a {}"]
    assert call([*map(str, words), "--json"]) == 0
    assert "text encoded again" in capfd.readouterr().out
    features = read_features(out)
    assert np.bincount(features.prompt_classes).tolist() == list(range(2, 12))
    assert features.provenance["text"]["prompts"][1] == ["a figure 1", *["figure 1 looks so."] * 2]


def test_text_alone_is_carried_on_where_it_was_cut_off(fakes, tmp_path):
    """Two of three templates are kept and read again; nothing is left behind, and the bytes are those of one run."""
    templates = ["a {}.", "the {}.", "my {}."]
    extract(fakes[0](), fakes[1](), tmp_path / "a.h5")
    encoder = fakes[1]()
    encode, calls = encoder.encode_text, []

    def interrupted(prompts):
        calls.append(prompts)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(prompts)

    encoder.encode_text = interrupted
    with pytest.raises(ExtractionInterrupted, match="2 chunks of text are kept in .*carries on there"):
        extract(fakes[0](), encoder, tmp_path / "a.h5", templates=templates)
    summary = extract(fakes[0](), encoder, tmp_path / "a.h5", templates=templates)
    assert summary.action == "text encoded again"
    assert len(calls) == 4  # the third template alone
    assert not list(tmp_path.glob("*.partial"))
    whole = extract(fakes[0](), fakes[1](), tmp_path / "b.h5", templates=templates)
    assert read_features(summary.path).text_features.tobytes() == read_features(whole.path).text_features.tobytes()


def test_chunks_of_text_beside_an_unfinished_extraction_of_images(fakes, tmp_path):
    """The folder of shards stays what it is."""
    path = extract(fakes[0](), fakes[1](), tmp_path / "a.h5").path
    folder = path.with_name(f"{path.name}.partial")
    folder.mkdir()
    (folder / "test-0.arrays").write_bytes(b"a shard")
    extract(fakes[0](), fakes[1](), path, templates=["my {}."], named=True)
    assert [file.name for file in folder.iterdir()] == ["test-0.arrays"]
