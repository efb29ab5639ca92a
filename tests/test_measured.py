"""What is fastest here: timed once, kept, measured again where the note is no good."""

import json
import time

import pytest

from cafe import measured
from cafe.files import cache_dir
from cafe.measured import MEASURED_FILE, keep_in, processor, seconds_of, time_ways


class Clock:
    """Time passes when a way runs, and at no other time."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def ways(self, **seconds):
        self.runs = []

        def way(name):
            def run():
                self.runs.append(name)
                self.now += next(seconds[name]) if hasattr(seconds[name], "__next__") else seconds[name]

            return run

        return {name: way(name) for name in seconds}


@pytest.fixture(autouse=True)
def a_new_process(monkeypatch):
    monkeypatch.setattr(measured, "_of_this_process", {})


@pytest.fixture
def folder(tmp_path):
    keep_in(tmp_path / "caches")
    yield tmp_path / "caches"
    keep_in(None)


def ask(clock, question="products", library="torch 1", threads=2, **seconds):
    """Ask, and return the answer and whether it was measured."""
    made = []

    def make():
        made.append(1)
        return clock.ways(**seconds)

    answer = seconds_of(question, tuple(seconds), make, library=library, threads=threads, clock=clock)
    return answer, bool(made)


def forget():
    """What a new process knows."""
    measured._of_this_process.clear()


def test_the_shortest_of_rounds_in_turns_and_never_the_warm_up():
    clock = Clock()
    ways = clock.ways(a=iter([0.001, 0.020, 0.010, 0.020]), b=iter([0.030, 0.004, 0.005, 0.009]))
    seconds = time_ways(ways, clock=clock)
    assert seconds == pytest.approx({"a": 0.010, "b": 0.004})
    assert clock.runs == ["a", "a", "b", "b", "a", "b", "a", "b"]
    assert clock.now <= 0.1


def test_waiting_does_not_count():
    ways = {"waits": lambda: time.sleep(0.05), "works": lambda: sum(range(200_000))}
    seconds = time_ways(ways, budget=0.02)
    assert seconds["waits"] < seconds["works"]


def test_ways_that_the_budget_does_not_reach_are_left_out(folder):
    clock = Clock()
    assert ask(clock, a=0.15, b=0.01) == (pytest.approx({"a": 0.15}), True)
    assert clock.runs == ["a", "a"]
    assert not ask(clock, a=0.15, b=0.01)[1]


def test_what_has_to_be_compared_is_run_whatever_the_budget():
    clock = Clock()
    seconds = time_ways(clock.ways(a=0.15, b=0.01, c=0.01), clock=clock, at_least=2)
    assert seconds == pytest.approx({"a": 0.15, "b": 0.01})
    assert clock.runs == ["a", "a", "b", "b"]


def test_a_single_disturbed_run_does_not_decide():
    """The first run after the warm one is disturbed; of two turns the other counts, though the budget is gone."""
    clock = Clock()
    ways = clock.ways(steady=0.02, disturbed=iter([0.01, 0.5, 0.01]))
    seconds = time_ways(ways, clock=clock, budget=0.01, at_least=2, turns=2)
    assert seconds == pytest.approx({"steady": 0.02, "disturbed": 0.01})


def test_an_answer_is_kept_for_the_process_and_on_disk(folder):
    clock = Clock()
    first, was_measured = ask(clock, a=0.01, b=0.02)
    assert was_measured
    assert ask(clock, a=9.0, b=9.0) == (first, False)
    forget()
    assert ask(clock, a=9.0, b=9.0) == (first, False)
    for changes in ({"library": "torch 2"}, {"threads": 1}, {"question": "other"}):
        assert ask(clock, a=0.02, b=0.01, **changes) == (pytest.approx({"a": 0.02, "b": 0.01}), True)
    forget()
    assert ask(clock, a=9.0, b=9.0) == (first, False)  # the others took nothing away


def test_a_note_with_other_ways_is_not_the_answer(folder):
    clock = Clock()
    ask(clock, a=0.01, b=0.02)
    assert ask(clock, a=0.01, c=0.02)[1]


@pytest.mark.parametrize("key", ["model", "flags"])
def test_a_note_of_another_machine_is_not_the_answer(folder, monkeypatch, key):
    clock = Clock()
    ask(clock, a=0.01, b=0.02)
    forget()
    here = processor()
    monkeypatch.setattr("cafe.measured.processor", lambda: f"{key} of another than {here}")
    assert ask(clock, a=0.02, b=0.01)[1]


def with_seconds(value):
    """Damage: the seconds of every way become this."""

    def damage(text):
        document = json.loads(text)
        document["seconds"] = {key: dict.fromkeys(ways, value) for key, ways in document["seconds"].items()}
        return json.dumps(document)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[1, 2]",
        lambda text: '{"format": 1, "seconds": 3}',
        lambda text: "[" * 100_000,
        *(with_seconds(value) for value in ("fast", -0.01, float("nan"), float("inf"), None, True)),
    ],
)
def test_a_damaged_note_is_measured_again_and_mended(folder, damage):
    clock = Clock()
    ask(clock, a=0.01, b=0.02)
    file = folder / MEASURED_FILE
    file.write_text(damage(file.read_text()))
    forget()
    assert ask(clock, a=0.02, b=0.01)[1]
    forget()
    assert not ask(clock, a=0.02, b=0.01)[1]


def test_bytes_that_are_no_text(folder):
    clock = Clock()
    folder.mkdir()
    (folder / MEASURED_FILE).write_bytes(b"\xff\xfe\x00")
    assert ask(clock, a=0.01, b=0.02)[1]
    forget()
    assert not ask(clock, a=0.01, b=0.02)[1]


def test_a_folder_that_cannot_be_written_to_is_no_harm(tmp_path):
    (tmp_path / "a file").touch()
    keep_in(tmp_path / "a file" / "caches")
    try:
        clock = Clock()
        first, _ = ask(clock, a=0.01, b=0.02)
        assert ask(clock, a=9.0, b=9.0) == (first, False)  # the process keeps it
    finally:
        keep_in(None)


def test_the_folder_is_that_of_all_caches(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "cache_dir", cache_dir)  # the suite has a folder of its own
    monkeypatch.setenv("CAFE_CACHE", str(tmp_path))
    ask(Clock(), a=0.01, b=0.02)
    assert (tmp_path / MEASURED_FILE).is_file()
