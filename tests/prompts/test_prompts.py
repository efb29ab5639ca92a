"""Template sets, prompt files, class names, class embeddings."""

import json

import numpy as np
import pytest

from cafe.errors import InputError
from cafe.features import Features, Split
from cafe.prompts import (
    class_embeddings,
    known_template_sets,
    mean_of_prompts,
    read_class_names,
    read_prompts,
    read_templates,
    with_templates,
)
from cafe.registry import entries


def written(folder, name, content):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_published_sets():
    sets = {template_set["name"]: template_set["templates"] for template_set in known_template_sets()}
    assert len(sets["imagenet-7"]) == 7
    assert len(set(sets["imagenet-80"])) == 80
    # Radford et al. chose the 7 among the 80.
    assert set(sets["imagenet-7"]) <= set(sets["imagenet-80"])
    assert all(t.count("{}") == 1 for template_set in sets.values() for t in template_set)
    for name, entry in entries("data", "DATASET").items():
        if name not in ("imagenet-7", "imagenet-80", "generic"):
            assert tuple(sets[name]) == tuple(entry.load().templates)


def test_the_80_are_open_clips():
    metadata = pytest.importorskip("open_clip.zero_shot_metadata", exc_type=ImportError)
    theirs = [template("{}") for template in metadata.OPENAI_IMAGENET_TEMPLATES]
    assert read_templates(["imagenet-80"]) == theirs


def test_templates_are_names_texts_and_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = written(tmp_path, "lines.txt", "a {}\n\n  the {c} \n")
    listed = written(tmp_path, "listed.json", ["one {}", "two {}"])
    written(tmp_path, "generic", "not generic {}")
    assert read_templates([str(lines), str(listed), "generic", "./generic", "x {}"]) == [
        "a {}", "the {c}", "one {}", "two {}", "a photo of a {}.", "not generic {}", "x {}",
    ]  # fmt: skip
    assert read_templates([]) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [("a {}\nno slot\n", "line 2"), ("\n\n", "is empty"), ('{"a": "b"}', "must hold a list"), ('["a {}"', "line 1")],
)
def test_bad_template_files(tmp_path, content, words):
    path = written(tmp_path, "t.json" if content[0] in "{[" else "t.txt", content)
    with pytest.raises(InputError, match=words):
        read_templates([str(path)])


def test_a_mistyped_set_is_named():
    with pytest.raises(InputError, match="did you mean 'imagenet-80'"):
        read_templates(["imagnet-80"])


def test_prompt_files_match_names(tmp_path):
    path = written(tmp_path, "p.json", {"Great_White Shark": ["a", " b "], "cat": ["c"], "dog": ["d"]})
    assert read_prompts(path, ["cat", "great white-shark"]) == (("c",), ("a", "b"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"cat": ["x"]}, "no prompts for 1 of 2 classes: 'dog'"),
        ({"cat": [], "dog": ["x"]}, "'cat' must be a list"),
        ({"cat": "x", "dog": ["x"]}, "'cat' must be a list"),
        ({"cat": ["x"], "Dog": ["x"], "DOG": ["y"]}, "could be any of 'Dog', 'DOG'"),
        (["x"], "not a list"),
        ("{", "line 1: not JSON"),
    ],
)
def test_bad_prompt_files(tmp_path, content, words):
    with pytest.raises(InputError, match=words):
        read_prompts(written(tmp_path, "p.json", content), ["cat", "dog"])


def test_templates_join_prompts():
    assert with_templates([["x", "y"], ["z"]], ["a {}", "b {}"], ["cat", "dog"]) == (
        ("a cat", "b cat", "x", "y"),
        ("a dog", "b dog", "z"),
    )


def test_class_names(tmp_path):
    identifiers = ["n01", "n02", "n03"]
    assert read_class_names(written(tmp_path, "n.txt", "cat\n dog \n\ncow\n"), identifiers) == ("cat", "dog", "cow")
    assert read_class_names(written(tmp_path, "l.json", ["cat", "dog", "cow"]), identifiers) == ("cat", "dog", "cow")
    assert read_class_names(written(tmp_path, "r.json", {"n02": "dog"}), identifiers) == ("n01", "dog", "n03")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("n.txt", "cat\n", r"1 class names, but the data set has 3 classes"),
        ("r.json", {"n04": "dog"}, "unknown class 'n04'"),
        ("r.json", {"n01": 3}, "must hold class names"),
        ("r.json", 3, "must hold class names"),
    ],
)
def test_bad_class_names(tmp_path, name, content, words):
    with pytest.raises(InputError, match=words):
        read_class_names(written(tmp_path, name, content), ["n01", "n02", "n03"])
    with pytest.raises(InputError, match="takes a file"):
        read_class_names(tmp_path / "nowhere.txt", ["n01"])


def test_mean_of_prompts_is_the_mean_of_unit_vectors():
    generator = np.random.default_rng(0)
    features = generator.standard_normal((6, 5)) * generator.uniform(0.1, 10, (6, 1))
    owners = np.array([0, 0, 0, 1, 2, 2])
    expected = []
    for k in range(3):
        mean = np.mean([f / np.sqrt((f**2).sum()) for f in features[owners == k]], axis=0)
        expected.append(mean / np.sqrt((mean**2).sum()))
    actual = mean_of_prompts(features, owners, 3)
    # The result is float32: half a unit in the last place of numbers up to 1.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2.0**-24)
    # As many prompts for every class is the template ensemble.
    even = features.reshape(2, 3, 5)
    np.testing.assert_array_equal(mean_of_prompts(features, np.array([0, 1, 2, 0, 1, 2]), 3), class_embeddings(even))


def test_a_class_without_prompts():
    with pytest.raises(InputError, match="class 1 has no prompt"):
        mean_of_prompts(np.eye(2), np.array([0, 2]), 3)


def test_features_use_their_prompts():
    split = Split(np.eye(2, dtype=np.float32), np.array([0, 1]), np.array(["a", "b"]))
    prompts = np.array([[1.0, 0], [0, 2.0], [0, 4.0]], dtype=np.float32)
    owners = np.array([0, 1, 1])
    text = np.eye(2, dtype=np.float32)[None]
    features = Features({"test": split}, ("cat", "dog"), text, prompt_features=prompts, prompt_classes=owners)
    np.testing.assert_array_equal(features.class_embeddings, np.eye(2))
    with pytest.raises(InputError, match="together"):
        Features({"test": split}, ("cat", "dog"), text, prompt_features=prompts)
    with pytest.raises(InputError, match="needs its class"):
        Features({"test": split}, ("cat", "dog"), text, prompt_features=prompts, prompt_classes=owners[:2])
