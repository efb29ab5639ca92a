import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafe.errors import InputError
from cafe.protocol.partition import split_by_hash


def keys_of(contents: list[object]) -> list[str]:
    return [hashlib.sha256(str(content).encode()).hexdigest() for content in contents]


# (label, content) of each row; few contents, so that copies within and across classes are common
samples = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30)), min_size=1, max_size=120)


@given(samples)
def test_identical_images_stay_together(rows: list[tuple[int, int]]) -> None:
    parts = split_by_hash([label for label, _ in rows], keys_of([content for _, content in rows]))
    sides: dict[int, set[str]] = {}
    for (_, content), part in zip(rows, parts.tolist(), strict=True):
        sides.setdefault(content, set()).add(part)
    assert all(len(side) == 1 for side in sides.values())


@given(samples)
def test_every_class_is_in_train(rows: list[tuple[int, int]]) -> None:
    labels = [label for label, _ in rows]
    parts = split_by_hash(labels, keys_of([content for _, content in rows]))
    assert {label for label, part in zip(labels, parts, strict=True) if part == "train"} == set(labels)


@given(samples, st.randoms(use_true_random=False))
def test_order_of_listing_does_not_matter(rows: list[tuple[int, int]], shuffler) -> None:
    def assignment(listing: list[tuple[int, int]]) -> dict[tuple[int, int], str]:
        parts = split_by_hash([label for label, _ in listing], keys_of([content for _, content in listing]))
        return dict(zip(listing, parts.tolist(), strict=True))

    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    assert assignment(shuffled) == assignment(rows)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_shares_are_exact_without_copies(class_sizes: list[int]) -> None:
    labels = [label for label, n in enumerate(class_sizes) for _ in range(n)]
    parts = split_by_hash(labels, keys_of(list(range(len(labels)))))
    counts = Counter(zip(labels, parts.tolist(), strict=True))
    for label, n in enumerate(class_sizes):
        train, val = max(1, n // 2), n // 5
        expected = {(label, "train"): train, (label, "val"): val, (label, "test"): n - train - val}
        assert {key: counts[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("n", "expected"),
    [(1, "train"), (2, "train test"), (3, "train test test"), (5, "train train val test test")],
)
def test_small_classes_in_order_of_key(n: int, expected: str) -> None:
    assert split_by_hash([0] * n, list("abcde")[:n]).tolist() == expected.split()


def test_a_copy_goes_where_the_first_goes() -> None:
    # Ten rows: five places in train, two in val. The sixth place belongs to a copy of the fifth.
    assert split_by_hash([0] * 10, list("abcdeefghi")).tolist() == ["train"] * 6 + ["val"] + ["test"] * 3


def test_an_image_with_two_labels_is_never_tested_on() -> None:
    # "z" would be the last of both classes, hence test; it counts towards the train share instead.
    parts = split_by_hash([0, 0, 0, 0, 1, 1, 1, 1], ["a", "b", "c", "z", "d", "e", "f", "z"]).tolist()
    assert parts == ["train", "test", "test", "train"] * 2


def test_other_shares() -> None:
    assert Counter(split_by_hash([0] * 10, list("abcdefghij"), (80, 0, 20)).tolist()) == {"train": 8, "test": 2}


@pytest.mark.parametrize("shares", [(50, 20, 20), (110, -10, 0)])
def test_bad_shares(shares: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match="sum to 100"):
        split_by_hash([0], ["a"], shares)


def test_lengths_must_agree() -> None:
    with pytest.raises(InputError, match="every row"):
        split_by_hash(np.zeros(3, dtype=np.int64), ["a", "b"])
