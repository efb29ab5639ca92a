"""Threads wait awake for a moment only, unless the user has said how."""

import pytest

from cafe.cli import app
from cafe.cli.waiting import SPINS, wait_briefly


def test_a_program_says_it_before_anything_is_imported(monkeypatch):
    environment = {}
    monkeypatch.setattr(app.os, "environ", environment)
    monkeypatch.setattr(app, "call", lambda: 0 if environment else pytest.fail("too late"))
    monkeypatch.setattr(app.gc, "freeze", lambda: None)
    monkeypatch.setattr(app.gc, "set_threshold", lambda *_: None)
    with pytest.raises(SystemExit):
        app.main()
    assert environment == {"GOMP_SPINCOUNT": str(SPINS)}


@pytest.mark.parametrize("given", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_what_the_user_says_stays(given):
    environment = dict(given)
    wait_briefly(environment)
    assert environment == given
