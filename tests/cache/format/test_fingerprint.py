"""Identity: what changes it, what does not, and how a difference is told."""

from __future__ import annotations

import hashlib

import pytest

from cafe.cache.extract.plan import plan_extraction
from cafe.cache.format.fingerprint import canonical_json, differing_fields, fingerprint, image_part, text_part


def prints(dataset, encoder, **changes):
    provenance = plan_extraction(dataset, encoder, **changes).provenance()
    return provenance.image_fingerprint, provenance.text_fingerprint, provenance.fingerprint


def test_canonical_json_and_hash_by_hand():
    value = {"b": [1, 2.5, None, True], "a": "é"}
    assert canonical_json(value) == b'{"a":"\\u00e9","b":[1,2.5,null,true]}'
    assert fingerprint(value) == hashlib.sha256(b'{"a":"\\u00e9","b":[1,2.5,null,true]}').hexdigest()
    # The published SHA-256 of the two bytes {}.
    assert fingerprint({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_order_of_keys_does_not_matter_and_order_of_lists_does():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint([1, 2]) != fingerprint([2, 1])


@pytest.mark.parametrize(
    ("change", "image_changes", "text_changes"),
    [
        ("weights of the image tower", True, False),
        ("preprocessing", True, False),
        ("image dtype", True, False),
        ("a sample id", True, False),
        ("a label", True, False),
        ("the size of an image", True, False),
        ("splits", True, False),
        ("stored dtype", True, True),
        ("weights of the text tower", False, True),
        ("tokenizer", False, True),
        ("templates", False, True),
        ("class names", False, True),
        ("device", False, False),
        ("recorded versions", False, False),
        ("batch size", False, False),
    ],
)
def test_what_changes_the_fingerprints(fakes, change, image_changes, text_changes):
    dataset, encoder, options = fakes[0](), fakes[1](), {}
    match change:
        case "weights of the image tower":
            encoder.image_identity["weights_sha256"] = "99" * 32
        case "preprocessing":
            encoder.image_identity["preprocessing"] = {"size": 5}
        case "image dtype":
            encoder.image_identity["dtype"] = "bfloat16"
        case "a sample id":
            dataset.splits["test"].sample_ids[0] = "test/renamed.png"
        case "a label":
            dataset.splits["test"].labels[0] = 1
        case "the size of an image":
            dataset.splits["test"].sizes[0] += 1
        case "splits":
            options["splits"] = ["train", "test"]
        case "stored dtype":
            options["stored_dtype"] = "float32"
        case "weights of the text tower":
            encoder.text_identity["weights_sha256"] = "99" * 32
        case "tokenizer":
            encoder.text_identity["tokenizer_sha256"] = "99" * 32
        case "templates":
            options["templates"] = ["another {}"]
        case "class names":
            dataset.class_names = ("cat", "wolf")
        case "device":
            encoder.device = "cuda:0"
        case "recorded versions":
            encoder.recorded = {"revision": "v2", "torch": "9"}
        case "batch size":
            encoder.batch_size = 2
    image, text, both = prints(fakes[0](), fakes[1]())
    new_image, new_text, new_both = prints(dataset, encoder, **options)
    assert (new_image != image, new_text != text) == (image_changes, text_changes)
    assert (new_both != both) == (image_changes or text_changes)


def test_parts_keep_everything_that_an_encoder_says():
    part = image_part({"name": "x", "more": 1}, {"future": 2}, splits=["a"], stored_dtype="float16", views={"n": 3})
    assert part == {
        "dataset": {"name": "x", "more": 1},
        "encoder": {"future": 2},
        "splits": ["a"],
        "stored_dtype": "float16",
        "views": {"n": 3},
    }
    assert text_part(["a"], {}, prompts=[["an a"]], stored_dtype="float32")["prompts"] == [["an a"]]


def test_differing_fields_are_named_with_both_values():
    recorded = {"encoder": {"weights": "ab", "size": 4}, "splits": ["train"], "gone": 1}
    wanted = {"encoder": {"weights": "cd", "size": 4}, "splits": ["test"], "new": None}
    assert differing_fields(recorded, wanted, "image") == [
        'image.encoder.weights = "ab", but "cd" was asked for',
        "image.gone = 1, but nothing was asked for",
        "image.new = nothing, but null was asked for",
        'image.splits = ["train"], but ["test"] was asked for',
    ]
    assert differing_fields(recorded, dict(recorded)) == []
    assert differing_fields({"a": (1, 2)}, {"a": [1, 2]}) == []


def test_long_values_are_cut():
    (clause,) = differing_fields({"a": "x" * 500}, {"a": "y"})
    assert len(clause) < 160
    assert "(502 characters)" in clause


def test_of_a_hash_the_first_digits_are_shown():
    (clause,) = differing_fields({"weights_sha256": "ab" * 32}, {"weights_sha256": "cd" * 32})
    assert clause == 'weights_sha256 = "abababab...", but "cdcdcdcd..." was asked for'
