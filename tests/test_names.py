"""Names of strangers on their way out: to the terminal, JSON, CSV, a page, a file's name."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafe.cli.screen import Screen, show
from cafe.names import csv_cell, file_name, visible, visible_json, visible_name
from cafe.report.rows import csv_text, jsonl

HARMFUL = "\x00\x07\x08\x1b\x7f\x9b\u202a\u202e\u2066\u2069\u200f\u2028\udcff\r"
EVIL = "cat\x1b]0;owned\x07\x1b[2J\u202egod\u2069\x9b31m"


def is_harmless(text: str) -> bool:
    controls = [letter for letter in text if ord(letter) < 32 and letter not in "\n\t"]
    return not controls and not any(letter in text for letter in HARMFUL)


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from(HARMFUL))))
def test_what_is_shown_holds_no_command(text: str) -> None:
    assert is_harmless(visible(text))
    assert is_harmless(visible_name(text))
    assert "\n" not in visible_name(text)
    visible(text).encode("utf-8")  # every stream takes it


def test_ordinary_names_stay_as_they_are() -> None:
    for name in ("große Katze", "猫", "a/b c.d-e_f", "=)", "naïve", "👩‍🔬"):
        assert visible(name) == visible_name(name) == name
    assert visible("two\nlines\tand a tab") == "two\nlines\tand a tab"


@given(st.dictionaries(st.text(alphabet=st.sampled_from(HARMFUL + 'ab"\\')), st.text(st.sampled_from(HARMFUL + '"\\'))))
def test_json_means_the_same(document: dict[str, str]) -> None:
    text = visible_json(json.dumps(document, ensure_ascii=False))
    assert is_harmless(text)
    assert json.loads(text) == document


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_is_computed(start: str) -> None:
    cell = csv_cell(f"{start}HYPERLINK(A1)")
    assert cell[0] == "'"
    text = csv_text([{"dataset": f"{start}cmd|' /C calc'!A0", "acc1": -0.5, "method": "clip-adapter"}])
    row = next(csv.DictReader(io.StringIO(text)))
    assert row["dataset"].startswith("'")
    assert (row["acc1"], row["method"]) == ("-0.5", "clip-adapter")


def test_numbers_in_cells_stay_numbers() -> None:
    assert [csv_cell(text) for text in ("-1", "+2.5e-3", "-inf", ".5")] == ["-1", "+2.5e-3", "-inf", ".5"]


@given(st.text())
def test_a_file_name_stays_in_its_folder(text: str) -> None:
    name = file_name(text)
    assert not name.startswith((".", "-"))
    assert "/" not in name
    assert "\\" not in name
    assert len(name.encode("utf-8")) <= 200


def test_rows_and_screen_show_names_and_obey_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert is_harmless(jsonl([{"class": EVIL}]))
    assert is_harmless(csv_text([{"class": EVIL, "nested": {"a": EVIL}}]))
    with Screen() as screen:
        screen.say(EVIL)
        screen.warn(EVIL)
        screen.next_steps(f"cafe fit {EVIL}")
        screen.answer({"class": EVIL}, EVIL)
    with Screen(json=True) as screen:
        screen.answer({"class": EVIL}, "")
    out, err = capsys.readouterr()
    assert is_harmless(out)
    assert is_harmless(err)
    assert "owned" in out
    assert "owned" in err


def test_a_stream_without_letters_gets_escapes() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    show("große 猫", stream)
    assert raw.getvalue() == b"gro\\xdfe \\u732b\n"
