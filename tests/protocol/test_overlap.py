import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafe.errors import InputError
from cafe.features import Split
from cafe.protocol.overlap import check_overlap, identical_rows


def split(features: np.ndarray, prefix: str) -> Split:
    n = len(features)
    return Split(features, np.zeros(n, dtype=np.int64), np.array([f"{prefix}{row}" for row in range(n)]))


def random_rows(n: int, d: int = 7, dtype: type = np.float16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("d", [1, 3, 4, 7, 512])
def test_disjoint_splits_pass(dtype: type, d: int) -> None:
    rows = np.unique(random_rows(40, d, dtype), axis=0)
    check_overlap(split(rows[:20], "a"), split(rows[20:], "b"))


def test_shared_ids_are_refused() -> None:
    train, test = split(random_rows(5), "x"), split(random_rows(3, seed=1), "x")
    with pytest.raises(InputError, match=r"3 samples of the test split, the first: 'x0'"):
        check_overlap(train, test)


def test_identical_features_are_refused_and_named() -> None:
    train, test = random_rows(20), random_rows(10, seed=1)
    test[4] = train[17]
    test[8] = train[2]
    with pytest.raises(InputError, match=r"2 samples .* 'b4' is 'a17'"):
        check_overlap(split(train, "a"), split(test, "b"))


def test_one_bit_is_a_difference() -> None:
    train = random_rows(5)
    test = train.copy()
    test.view(np.uint16)[:, 3] ^= 1
    check_overlap(split(train, "a"), split(test, "b"))


def test_dtypes_are_compared_in_the_wider_one() -> None:
    train = random_rows(5)
    assert identical_rows(train, train.astype(np.float32)[[3]]) == [(3, 0)]


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_rows_without_content_are_no_evidence(value: float) -> None:
    train = np.full((2, 4), value, dtype=np.float32)
    check_overlap(split(train, "a"), split(train, "b"))


def test_widths_must_agree() -> None:
    with pytest.raises(InputError, match="wide"):
        identical_rows(random_rows(2, 3), random_rows(2, 4))


def test_rows_that_are_views_are_read_right() -> None:
    rows = random_rows(30, 8)
    assert identical_rows(rows[::2], np.asfortranarray(rows[:3])) == [(0, 0), (1, 2)]


@given(
    train=st.lists(st.tuples(st.integers(1, 3), st.integers(-1, 1)), max_size=12),
    test=st.lists(st.tuples(st.integers(1, 3), st.integers(-1, 1)), max_size=12),
)
def test_agrees_with_comparing_every_pair(train: list[tuple[int, int]], test: list[tuple[int, int]]) -> None:
    a, b = (np.array(rows, dtype=np.float32).reshape(len(rows), 2) for rows in (train, test))
    expected = [(train.index(row), number) for number, row in enumerate(test) if row in train]
    assert identical_rows(a, b) == expected


def test_colliding_hashes_are_settled_by_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "cafe.protocol.overlap._hash_rows", lambda features, dtype: np.zeros(len(features), dtype=np.uint64)
    )
    train, test = random_rows(6), random_rows(4, seed=1)
    test[1] = train[3]
    assert identical_rows(train, test) == [(3, 1)]


def test_two_hundred_thousand_rows_take_moments() -> None:
    rows = random_rows(200_000, 32)
    start = time.perf_counter()
    check_overlap(split(rows[:100_000], "a"), split(rows[100_000:], "b"))
    assert time.perf_counter() - start < 5  # quadratic work would take hours


def test_validation_images_that_are_tested_on_are_left_out_aloud() -> None:
    from cafe.features import Features
    from cafe.protocol.overlap import SharedImagesWarning
    from cafe.protocol.tasks import make_task

    rows = np.random.default_rng(5).normal(size=(12, 4)).astype(np.float32)
    train, val, test = split(rows[:4], "a"), split(rows[4:8], "b"), split(np.concatenate([rows[6:7], rows[8:]]), "c")
    features = Features({"train": train, "val": val, "test": test}, ("x", "y"))
    with pytest.warns(SharedImagesWarning, match="1 sample of the val split"):
        task = make_task(features, None, 1)
    assert task.val is not None
    np.testing.assert_array_equal(task.val.image_features, rows[[4, 5, 7]])
    assert len(task.test) == 5
