"""What goes wrong in a try of a campaign is reported as what it is, and no campaign passes without its tries."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from breaking.campaign import Campaign, Outcome, failures
from breaking.pool import MEMORY
from breaking.registry import check_short_forms
from breaking.running import read_rows, run_campaign


class Behaves(Campaign):
    """A campaign whose tries do what a test says."""

    name, tries, short, limit = "behaves", 4, 4, 2.0

    def __init__(self, does: Callable[[int], object]) -> None:
        self.does = does

    def prepare(self, folder: Path) -> None:
        assert folder.is_dir()

    def attempt(self, number: int, rng: random.Random, folder: Path) -> Outcome:
        self.does(number)
        return Outcome("detected", "a kind", str(rng.random()))


def forever(number: int) -> None:
    while number == 1:
        time.sleep(0.01)


def takes_memory(number: int) -> None:
    if number == 1:
        bytearray(MEMORY + (1 << 20))


def raises(number: int) -> None:
    if number == 1:
        raise KeyError("fitted.classes_")


def is_killed(number: int) -> None:
    if number == 1:
        os.kill(os.getpid(), signal.SIGSEGV)


def leaves(number: int) -> None:
    if number == 1:
        os._exit(0)


@pytest.mark.parametrize(
    ("does", "verdict"),
    [(forever, "hang"), (takes_memory, "memory"), (raises, "traceback"), (is_killed, "crash"), (leaves, "crash")],
)
def test_what_a_try_does_wrong_is_told(does: Callable[[int], object], verdict: str) -> None:
    campaign = Behaves(does)
    if verdict != "hang":
        campaign.limit = 60.0  # filling the memory takes seconds on a busy machine
    rows = run_campaign(campaign, tries=4, workers=2)
    assert [row.verdict for row in rows] == ["detected", verdict, "detected", "detected"]
    assert [row.number for row in failures(rows)] == [1]


def test_a_campaign_is_carried_on_with_the_same_tries(tmp_path: Path) -> None:
    whole = run_campaign(Behaves(lambda number: None), tries=6, seed=3, workers=1)
    path = tmp_path / "rows.jsonl"
    run_campaign(Behaves(lambda number: None), tries=4, seed=3, workers=1, resume=path)
    with path.open("a", encoding="utf-8") as stream:
        stream.write('{"campaign": "beha')  # cut off by a kill
    again = run_campaign(Behaves(lambda number: None), tries=6, seed=3, workers=1, resume=path)
    assert [row.detail for row in again] == [row.detail for row in whole]
    assert len({row.detail for row in whole}) == 6
    assert [row.number for row in read_rows(path)] == list(range(6))
    assert len(path.read_text(encoding="utf-8").splitlines()) == 6 + 1  # the one that was cut off
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[0])["verdict"] == "detected"


def test_a_cache_whose_checksums_are_not_compared_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted defect: every array is taken for what its checksum says."""
    from breaking.caches import CacheFlips

    from cafe.cache.format import reader, verify

    monkeypatch.setattr(reader, "memory_sha256", lambda values: _Any())
    monkeypatch.setattr(verify, "_checksum_findings", lambda file, sums: iter(()))
    wrong = failures(run_campaign(CacheFlips(), tries=60, workers=1))
    assert any(row.verdict == "silent" and row.kind.startswith("uniform") for row in wrong)


def test_a_hang_in_the_reader_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted defect: the reader never comes to an end, as HDF5 on a broken heap."""
    from breaking.caches import CacheFlips

    from cafe.cache.format import verify

    campaign = CacheFlips()
    campaign.limit = 0.5
    monkeypatch.setattr(verify, "_storage_findings", lambda file: forever(1))
    campaign.prepare = _without_commands(campaign)
    rows = run_campaign(campaign, tries=2, workers=2)
    assert [row.verdict for row in rows] == ["hang", "hang"]
    assert all("format-1.h5" in row.kind or "extracted" in row.kind for row in rows)


def _without_commands(campaign: Campaign) -> Callable[[Path], None]:
    """The preparation without the one command, which would hang in this process."""
    from breaking import caches

    def prepare(folder: Path) -> None:
        real, caches.run_cafe = caches.run_cafe, lambda *_: None
        try:
            type(campaign).prepare(campaign, folder)
        finally:
            caches.run_cafe = real

    return prepare


class _Any:
    """Equals everything."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


def test_a_short_form_that_fails_in_its_own_process_fails_here() -> None:
    with pytest.raises(AssertionError, match="no-such-campaign"):
        check_short_forms("no-such-campaign")
