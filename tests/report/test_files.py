"""What is written can be read back, and is written completely or not at all."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from cafe.errors import InputError
from cafe.report import files
from cafe.report.files import write_report

NAMES = ["results.jsonl", "results.csv", "table.md", "figure.png", "report.html"]


def test_five_files_and_nothing_else(comparison, tmp_path):
    out = tmp_path / "deep" / "report"
    paths = write_report(out, comparison)
    assert [path.name for path in paths] == NAMES
    assert sorted(path.name for path in out.iterdir()) == sorted(NAMES)


def test_rows_come_back_from_jsonl_and_nan_never_gets_there(comparison, tmp_path):
    write_report(tmp_path, comparison)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    lines = (tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert rows == [{**row, "ece": None} for row in comparison.rows]


def test_rows_come_back_from_csv(comparison, tmp_path):
    write_report(tmp_path, comparison)
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["acc1"]) for row in rows] == [row["acc1"] for row in comparison.rows]
    assert json.loads(rows[0]["params"]) == {"alpha": 0.2, "classes": None}
    assert rows[0]["ece"] == ""


def test_a_second_report_replaces_the_first(comparison, make_row, tmp_path):
    write_report(tmp_path, comparison)
    write_report(tmp_path, replace(comparison, rows=[make_row("zero-shot", 0, None, 0.5)]))
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)


def test_a_failure_leaves_the_older_report_whole(comparison, tmp_path, monkeypatch):
    write_report(tmp_path, comparison)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(_, **__):
        raise RuntimeError("no figure today")

    monkeypatch.setattr(files, "draw", fail)
    with pytest.raises(RuntimeError, match="no figure today"):
        write_report(tmp_path, replace(comparison, rows=[]))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_kill_between_two_files_leaves_no_mixture(comparison, make_row, tmp_path, monkeypatch):
    """The rows come last: a folder with results.jsonl never has the figure or the page of another comparison."""
    write_report(tmp_path, comparison)
    second = replace(comparison, rows=[make_row("zero-shot", 0, None, 0.5)])
    rename, renamed = Path.replace, []

    def interrupted(path, target):
        if len(renamed) == 2:
            raise KeyboardInterrupt
        renamed.append(target.name)
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_report(tmp_path, second)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(set(NAMES) - {"results.jsonl"})
    monkeypatch.undo()
    write_report(tmp_path, second)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)


def test_a_file_in_the_way_is_named(comparison, tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(InputError, match="taken"):
        write_report(tmp_path / "taken", comparison)
    assert (tmp_path / "taken").read_text() == "mine"
