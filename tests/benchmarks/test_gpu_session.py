"""gpu_session.py around its parts: they are there, one that hangs ends alone, and rows are on disk before the next."""

import importlib
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def session(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("gpu_session")
    for name in [name for name in sys.modules if name == "gpu_session" or name.split(".")[0] == "gpu_parts"]:
        del sys.modules[name]


def test_every_part_is_a_function_that_says_what_it_measures(session):
    for place, limit in session.PARTS.values():
        module, _, function = place.partition(".")
        part = getattr(importlib.import_module(f"gpu_parts.{module}"), function)
        assert part.__doc__ and 0 < limit <= session.SECONDS
    assert set(session.SMOKE_PARTS.split(",")) <= set(session.PARTS)


def test_a_part_that_hangs_is_ended_and_said(session, tmp_path, capsys):
    """No part is done in so short a time: Python is not even up."""
    assert session.main(["--smoke", "--out", str(tmp_path), "--parts", "trace", "--seconds", "5.05"]) == 1
    (said,) = map(json.loads, (tmp_path / "parts.jsonl").read_text().splitlines())
    assert said["part"] == "trace" and said["ended"] == "stopped after 0 s" and said["code"] == 1
    assert session.main(["--smoke", "--out", str(tmp_path), "--parts", "trace", "--seconds", "1"]) == 1
    assert json.loads((tmp_path / "parts.jsonl").read_text().splitlines()[-1])["ended"] == "no time was left"


def test_a_row_is_on_disk_before_the_next_is_measured(session, tmp_path, monkeypatch):
    rows = tmp_path / "rows.jsonl"

    def part(sizes, row):
        row(value=1, ok=True)
        assert json.loads(rows.read_text()) == {"part": "trace", "value": 1, "ok": True}
        row(value=2, ok=False)
        raise KeyError("the card is gone")

    monkeypatch.setattr(importlib.import_module("gpu_parts.adapter"), "trace", part)
    with pytest.raises(KeyError, match="the card is gone"):
        session.run_part("trace", rows, smoke=False, small=False)
    assert len(rows.read_text().splitlines()) == 2
    monkeypatch.setattr(importlib.import_module("gpu_parts.adapter"), "trace", lambda sizes, row: row(ok=False))
    assert session.run_part("trace", rows, smoke=False, small=False) == 1


def test_a_failure_is_a_row(session):
    shared, rows = importlib.import_module("gpu_parts.shared"), []
    with shared.failure_is_a_row(lambda **values: rows.append(values), step="x"):
        raise RuntimeError("out of resource")
    assert rows == [{"step": "x", "error": "RuntimeError('out of resource')", "ok": False}]


def test_an_unknown_part_is_refused(session, tmp_path, capsys):
    with pytest.raises(SystemExit):
        session.main(["--out", str(tmp_path), "--parts", "warp"])
    assert "unknown part 'warp'; possible: environment, kernels" in capsys.readouterr().err
