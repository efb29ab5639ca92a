"""A small made-up comparison, whose table can be written down by hand; and a real browser."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cafe.report.comparison import Comparison


def entry(
    series: str, shots: int | None, mean: float | None, std: float | None, n: int = 3, **more: Any
) -> dict[str, Any]:
    base = {
        "dataset": "digits",
        "encoder": "cafe:mini",
        "method": series,
        "variant": None,
        "oracle": False,
        "chosen_on": "nothing",
    }
    metrics = {"acc1_mean": mean, "acc1_std": std}
    return {**base, "series": series, "shots": shots, "n": n, **metrics, **more}


def row(method: str, shots: int | None, seed: int | None, acc1: float, **more: Any) -> dict[str, Any]:
    return {
        "dataset": "digits", "encoder": "cafe:mini", "method": method, "variant": None, "shots": shots, "seed": seed,
        "n_train": 40, "n_test": 546, "acc1": acc1, "acc5": 0.99, "mean_per_class_recall": acc1, "ece": float("nan"),
        "zero_shot_acc1": 0.5, "params": {"alpha": 0.2, "classes": None}, "selection": {"policy": "few-shot-val"},
        "fit_seconds": 0.5, "kernel": "reference", "device": "cpu", "dtype": "float32", "cafe_version": "0.1.0",
        "cache_fingerprint": "ab12", **more,
    }  # fmt: skip


def pair(**more: Any) -> dict[str, Any]:
    base = {"dataset": "digits", "encoder": "cafe:mini", "shots": 4, "part": None, "a": "zero-shot", "a_x": None}
    test = {"b": "clip-adapter", "b_x": None, "difference": -0.25, "ci95": [-0.3, -0.2], "p_value": 1e-4}
    return {**base, **test, "p_holm": 3e-4, "n_seeds": 3, "n_test": 546, "mcnemar": [], **more}


def published(**more: Any) -> dict[str, Any]:
    base = {"dataset": "dtd", "series": "clip-adapter", "method": "clip-adapter", "shots": 16, "part": None}
    source = {"table": "log", "source": "exp.log", "protocol": "one template", "chosen_on_test": True}
    values = {"label": "CLIP-Adapter", "published": 65.96, "here": 65.0, "difference": -0.96}
    return {**base, **source, **values, "backbone": "RN50", "backbone_here": "RN50", **more}


@pytest.fixture
def make_entry():
    return entry


@pytest.fixture
def make_row():
    return row


@pytest.fixture
def make_pair():
    return pair


@pytest.fixture
def make_published():
    return published


@pytest.fixture
def comparison():
    summary = [
        entry("clip-adapter", 1, 0.6049, 0.0151),
        entry("clip-adapter", 4, 0.75, 0.02, chosen_on="validation"),
        entry("linear-probe", 4, 0.7, 0.01, chosen_on="validation"),
        entry("zero-shot", 0, 0.5, None, n=1),
    ]
    rows = [row("clip-adapter", 4, seed, 0.7 + 0.05 * seed) for seed in (1, 2, 3)]
    return Comparison("baselines", "Baselines on digits", rows, summary)


class Browser:
    """A headless Chromium with one page, told what to do over a pipe, by the DevTools protocol.

    Parameters
    ----------
    program : str
        Of the browser.
    profile : path
        A folder of its own.
    """

    def __init__(self, program: str, profile: Path) -> None:
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        # The browser reads file descriptor 3 and writes 4; both are moved there in the child, from places above.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_browser, from_browser)]
        command = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe",
            f"--user-data-dir={profile}", "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=(3, 4),
            preexec_fn=lambda: [os.dup2(end, place) for end, place in zip(ends, (3, 4), strict=True)],
        )  # fmt: skip
        for end in (to_browser, from_browser, *ends):
            os.close(end)
        self._number, self._rest, self._session = 0, b"", ""
        (target,) = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        self.call("Page.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """Send one command, and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        return self._until(lambda answer: answer.get("id") == self._number)["result"]

    def _until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            while b"\0" in self._rest:
                text, _, self._rest = self._rest.partition(b"\0")
                answer = json.loads(text)
                assert "error" not in answer, answer
                if wanted(answer):
                    return answer
            if select.select([self._in], [], [], 1)[0]:
                self._rest += os.read(self._in, 1 << 20)
        raise AssertionError("the browser does not answer")

    def open(self, page: Path, width: int = 1200, height: int = 900) -> None:
        """Show a page in a window of that size."""
        self.call("Emulation.setEmulatedMedia", media="screen", features=[])
        self.resize(width, height)
        self.call("Page.navigate", url=page.as_uri())
        self._until(lambda answer: answer.get("method") == "Page.loadEventFired")

    def resize(self, width: int, height: int = 900) -> None:
        """Take a window of that size, with a telephone's rules below 500 pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def media(self, kind: str = "screen", scheme: str = "light") -> None:
        """Look at the page on paper or on a screen, in light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=kind, features=features)

    def value(self, expression: str) -> Any:
        """Return what JavaScript makes of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Press a key and let it go."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("rawKeyDown" if not text else "keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                **(text if kind == "keyDown" else {}),
            )  # fmt: skip

    def pdf(self) -> bytes:
        """Return the page as it is printed on A4."""
        printed = self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=True)
        return base64.b64decode(printed["data"])

    def close(self) -> None:
        """End the browser."""
        self._session = ""
        try:
            self.call("Browser.close")
            self._process.wait(timeout=10)
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        finally:
            os.close(self._in)
            os.close(self._out)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One Chromium for all tests of a session; without one they are skipped."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium is installed: apt-get install chromium, as .ci/run does where it may")
    opened = Browser(program, tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()
