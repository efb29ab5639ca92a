import json
import random
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cafe
from cafe.errors import InputError
from cafe.protocol import FewerShotsWarning, draw_few_shot


@pytest.mark.parametrize("name", ["DescribableTextures", "EuroSAT"])
def test_published_draws_are_reproduced_index_for_index(real_data: Path, name: str) -> None:
    folder = real_data / "coop_protocol"
    split = json.loads((folder / f"split_zhou_{name}.json").read_text())
    published = json.loads((folder / f"draws_{name}.json").read_text())
    assert len(published) == 15  # shots 1, 2, 4, 8, 16 and seeds 1, 2, 3
    for case, paths in published.items():
        shots, seed = (int(part.split("=")[1]) for part in case.split(","))
        labels = {part: [row[1] for row in split[part]] for part in ("train", "val")}
        train, val = draw_few_shot(labels["train"], labels["val"], shots, seed)
        assert [split["train"][row][0] for row in train] == paths["train"], case
        assert [split["val"][row][0] for row in val] == paths["val"], case


def test_worked_by_hand() -> None:
    # Class 5 appears first, at rows 0, 2, 4, 5; class 3 has rows 1, 3, 6. Val: class 3 rows 0, 2; class 5 row 1.
    # Python 3's Mersenne twister seeded with 1 gives, for sample(4 items, 2), sample(3 items, 2), sample(2 items, 2):
    # positions [1, 0], [0, 1], [0, 1], worked out from getrandbits as below.
    bits = random.Random(1)

    def positions(n: int, k: int) -> list[int]:
        pool = list(range(n))
        chosen = []
        for taken in range(k):
            left = n - taken
            r = bits.getrandbits(left.bit_length())
            while r >= left:
                r = bits.getrandbits(left.bit_length())
            chosen.append(pool[r])
            pool[r] = pool[left - 1]
        return chosen

    five = [[0, 2, 4, 5][p] for p in positions(4, 2)]
    three = [[1, 3, 6][p] for p in positions(3, 2)]
    val_three = [[0, 2][p] for p in positions(2, 2)]
    with pytest.warns(FewerShotsWarning, match="1 class has fewer than 2 val images"):
        train, val = draw_few_shot([5, 3, 5, 3, 5, 5, 3], [3, 5, 3], shots=2, seed=1)
    assert train.tolist() == five + three
    assert val.tolist() == [*val_three, 1]
    assert train.dtype == val.dtype == np.int64


def test_a_warning_names_classes_where_it_can() -> None:
    labels, names = [0, 1, 1], ("ant", "barrel")
    with pytest.warns(FewerShotsWarning, match=r"fewer than 2 train images \(labels 0\)"):
        plain = draw_few_shot(labels, None, 2, 1)
    with pytest.warns(FewerShotsWarning, match=r"fewer than 2 train images \(ant\)"):
        named = draw_few_shot(labels, None, 2, 1, names)
    assert [a.tolist() for a in plain] == [b.tolist() for b in named]


def test_golden_values() -> None:
    train, val = draw_few_shot(np.repeat([0, 1, 2], 10), np.repeat([0, 1, 2], 6), shots=2, seed=1)
    assert (train.tolist(), val.tolist()) == GOLDEN


# Written down from a bare interpreter: random.seed(1), random.sample class by class, train before val.
GOLDEN = ([2, 1, 14, 11, 27, 29], [3, 5, 7, 6, 15, 12])


def test_a_private_generator_equals_the_seeded_global_one() -> None:
    state = random.getstate()
    random.seed(3)
    expected = [row for start in (0, 20, 40) for row in random.sample(range(start, start + 20), 4)]
    random.setstate(state)
    train, _ = draw_few_shot(np.repeat([0, 1, 2], 20), None, shots=4, seed=3)
    assert train.tolist() == expected
    assert random.getstate() == state


def test_a_small_class_gives_all_in_order_and_draws_no_number() -> None:
    labels = [0, 1, 1, 1, 0, 1, 1]
    with pytest.warns(FewerShotsWarning) as caught:
        train, _ = draw_few_shot(labels, None, shots=3, seed=2)
    assert len(caught) == 1
    without, _ = draw_few_shot([1] * 5, None, shots=3, seed=2)
    rows_of_one = [1, 2, 3, 5, 6]
    assert train.tolist() == [0, 4] + [rows_of_one[row] for row in without]


@pytest.mark.parametrize("empty", [None, [], np.empty(0, dtype=np.int64)])
def test_no_val_gives_no_val_indices(empty: object) -> None:
    _, val = draw_few_shot([0, 1], empty, shots=1, seed=1)
    assert val.shape == (0,)
    assert val.dtype == np.int64


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (([0, 1], None, 0, 1), "shots"),
        (([0, 1], None, True, 1), "shots"),
        (([0, 1], None, 1.0, 1), "shots"),
        (([0, 1], None, 1, -1), "seed"),
        (([0, 1], None, 1, None), "seed"),
        (([], None, 1, 1), "empty"),
        (([0.5, 1], None, 1, 1), "train_labels"),
        (([[0], [1]], None, 1, 1), "train_labels"),
        (([0, 1], ["a"], 1, 1), "val_labels"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple, word: str) -> None:
    with pytest.raises(InputError, match=word):
        draw_few_shot(*arguments)


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=60),
    shots=st.integers(1, 8),
    seed=st.integers(0, 2**40),
)
def test_laws(labels: list[int], shots: int, seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewerShotsWarning)
        train, val = draw_few_shot(labels, labels, shots, seed)
        again, _ = draw_few_shot(np.array(labels, dtype=np.int32), None, np.int64(shots), np.int64(seed))
    assert again.tolist() == train.tolist()  # val comes after train; NumPy integers seed alike
    available = Counter(labels)
    for rows, most in ((train, shots), (val, min(shots, 4))):
        assert len(set(rows.tolist())) == len(rows)
        assert Counter(labels[row] for row in rows) == {c: min(n, most) for c, n in available.items()}
        order = [labels[row] for row in rows]
        assert list(dict.fromkeys(order)) == list(dict.fromkeys(labels))


def test_exported() -> None:
    assert cafe.draw_few_shot is draw_few_shot
