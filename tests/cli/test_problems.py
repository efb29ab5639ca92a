"""Whatever goes wrong is one sentence and an exit code."""

from __future__ import annotations

import warnings

import pytest
import typer

from cafe.cli.problems import run
from cafe.cli.screen import Screen
from cafe.errors import CafeError, CafeWarning, InputError, MissingDependencyError


def raiser(error):
    def call():
        raise error

    return call


CASES = [
    (InputError("alpha is 2"), 2, "cafe: alpha is 2\n"),
    (CafeError("the disk is full"), 1, "cafe: the disk is full\n"),
    (MissingDependencyError("open_clip", "openclip", "this model"), 2, "pip install 'cafe-clip[openclip]'"),
    (typer.BadParameter("Not a number."), 2, "invalid value: Not a number; see: cafe --help\n"),
    (FileNotFoundError(2, "No such file or directory", "a.txt"), 1, "cafe: no such file or directory: a.txt\n"),
    (ZeroDivisionError("division by zero"), 1, "unexpected ZeroDivisionError: division by zero; set CAFE_DEBUG=1"),
    (RuntimeError("first\nsecond"), 1, "unexpected RuntimeError: first; set CAFE_DEBUG=1 to see where\n"),
    (MemoryError(), 1, "not enough memory"),
    (KeyboardInterrupt(), 130, "interrupted"),
    (KeyboardInterrupt("interrupted; 3 of 4 are kept"), 130, "cafe: interrupted; 3 of 4 are kept\n"),
]


@pytest.mark.parametrize(("error", "code", "message"), CASES, ids=[type(case[0]).__name__ for case in CASES])
def test_one_sentence_and_a_code(error, code, message, capsys, monkeypatch):
    monkeypatch.delenv("CAFE_DEBUG", raising=False)
    assert run(raiser(error)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("error", [InputError("alpha is 2"), ZeroDivisionError("oh")])
def test_debugging_shows_the_traceback(error, capsys, monkeypatch):
    monkeypatch.setenv("CAFE_DEBUG", "1")
    run(raiser(error))
    err = capsys.readouterr().err
    assert "Traceback" in err and "raiser" not in err.splitlines()[-1]
    assert str(error) in err.splitlines()[-1]


def test_debugging_can_be_switched_off_by_zero(capsys, monkeypatch):
    monkeypatch.setenv("CAFE_DEBUG", "0")
    run(raiser(InputError("alpha is 2")))
    assert "Traceback" not in capsys.readouterr().err


def test_interrupting_a_verb_is_130(cafe, monkeypatch, blobs):
    monkeypatch.setattr("cafe.cache.format.reader.read_features", raiser(KeyboardInterrupt()))
    monkeypatch.setattr("cafe.cache.format.verify.verify_cache", lambda _: raiser(KeyboardInterrupt())())
    outcome = cafe("cache", "verify")
    assert outcome.code == 130
    assert outcome.out == ""
    assert "interrupted" in outcome.err and "Traceback" not in outcome.err


def test_warnings_are_one_line_each_and_once(capsys):
    with Screen(quiet=True):
        for _ in range(2):
            warnings.warn("class 'cat' has 3 images", CafeWarning, stacklevel=1)
        warnings.warn("will be gone in version 9", FutureWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: class 'cat' has 3 images\n"
