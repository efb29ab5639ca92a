"""Answers on stdout, everything else on stderr, and bars for people only."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from cafe.cli.options import ratio, whole_numbers
from cafe.cli.screen import Progress, Screen, line, paint
from cafe.errors import InputError


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_what_a_library_prints_does_not_reach_stdout(capsys):
    with Screen(json=True) as screen:
        print("loading weights")
        screen.answer({"ece": float("nan")}, "text")
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"ece": None}
    assert captured.err == "loading weights\n"


def test_text_instead_of_json(capsys):
    with Screen() as screen:
        screen.say("prose")
        screen.answer({}, "the answer\n")
    assert capsys.readouterr() == ("the answer\n", "prose\n")


def test_quiet_says_nothing_but_warns(capsys):
    with Screen(quiet=True) as screen:
        screen.say("prose")
        screen.next_steps("cafe fit")
        screen.warn("one image was left out")
        screen.answer({}, "the answer")
    assert capsys.readouterr() == ("the answer\n", "warning: one image was left out\n")


def test_no_bar_without_a_terminal(capsys):
    with Screen() as screen, screen.progress("images") as progress:
        progress(1, 2)
        progress(2, 2)
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal_unless_quiet(monkeypatch):
    for quiet, drawn in ((False, True), (True, False)):
        terminal = Terminal()
        monkeypatch.setattr("sys.stderr", terminal)
        with Screen(quiet=quiet) as screen, screen.progress("images") as progress:
            progress(0, 2, "train")
            progress(2, 2, "train")
        assert ("2/2" in terminal.getvalue()) is drawn


def test_the_line_ends_even_when_work_stops_early():
    terminal = Terminal()
    with pytest.raises(RuntimeError), Progress("images", terminal, shown=True) as progress:
        progress(1, 100)
        raise RuntimeError
    assert terminal.getvalue().endswith("\n")


@pytest.mark.parametrize("variable", ["NO_COLOR", "dumb"])
def test_colours_only_where_they_are_welcome(monkeypatch, variable):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert paint("x", "red", Terminal()) == "\x1b[31mx\x1b[0m"
    assert paint("x", "red", io.StringIO()) == "x"
    if variable == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    else:
        monkeypatch.setenv("NO_COLOR", "1")
    assert paint("x", "red", Terminal()) == "x"


def test_speed_counts_from_where_the_clock_started():
    # 600 of 1,000 were there before: 200 in 4 s are 50 a second, and 200 more take 4 s.
    text = line(800, 1000, 4.0, "images", first=600, ascii_only=True)
    assert "50 images/s" in text and "4 s left" in text


def test_end_of_the_bar_says_how_long_it_took():
    text = line(90, 90, 65.0, "fits", "methods")
    assert text.endswith("in 1 min 5 s")
    assert "░" not in text


@pytest.mark.parametrize("text", ["0", "x", "1.5", "-2"])
def test_shots_are_whole_and_positive(text):
    with pytest.raises(InputError, match="--shots"):
        whole_numbers([text], "--shots", least=1)


def test_lists_by_commas_and_by_repeating():
    assert whole_numbers(["1,2", "4", "2"], "--shots", least=1) == [1, 2, 4]


def test_a_ratio_is_a_number_or_a_word():
    assert ratio("1e-1", "--alpha") == 0.1
    assert ratio("auto", "--alpha") == "auto"
    with pytest.raises(InputError, match="--alpha takes a number or one of auto, learned, scalar; got 'automatic'"):
        ratio("automatic", "--alpha")


_FIRST_LINE = """
import os, sys
import cafe.cli.app, cafe.cli.screen

def show(text, stream, **how):
    heavy = {"numpy", "scipy", "PIL", "torch", "transformers", "sklearn"} & set(sys.modules)
    print(text, "before", sorted(heavy), flush=True)
    os._exit(len(heavy))

cafe.cli.screen.show = show
cafe.cli.app.call(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "command",
    [
        ["fit", "photos"],
        ["fit"],
        ["extract", "photos"],
        ["predict", "a.jpg", "--out", "a.csv"],
        ["compare", "baselines"],
    ],
    ids=" ".join,
)
def test_the_first_line_stands_before_anything_that_takes_time_to_import(command, tmp_path):
    """So it is on the screen within a second, wherever the libraries lie."""
    done = subprocess.run(
        [sys.executable, "-c", _FIRST_LINE, *command],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0 and " before []" in done.stderr, done.stdout + done.stderr
