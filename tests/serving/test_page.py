"""The page in a real browser: drop, pick, paste, a wrong file, a phone, keyboard, strange names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .browser import Browser
from .conftest import as_bytes, digit

SHOTS = os.environ.get("CAFE_SCREENSHOTS")  # a folder for pictures to look at


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for number, name in enumerate(("zero", "one", "two")):
        (folder / f"{name}.png").write_bytes(as_bytes(digit(number)))
    (folder / "notes.txt").write_text("no image", encoding="utf-8")
    return folder


def shot(browser, name):
    if SHOTS:
        browser.picture(Path(SHOTS) / f"{name}.png")


def headings(browser):
    return browser.ask("[...document.querySelectorAll('article h2')].map(e => e.textContent)")


def colour(browser, variable):
    """Return red, green and blue of a colour of the page, 0 to 1."""
    text = browser.ask(f"getComputedStyle(document.documentElement).getPropertyValue('{variable}')").strip()
    text = "#" + "".join(2 * digit for digit in text[1:]) if len(text) == 4 else text
    return [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def contrast(first, second):
    """Return the contrast ratio of WCAG 2.2, from 1 to 21."""

    def luminance(rgb):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(map(luminance, (first, second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_pictures_are_dropped_and_named(browser, address, files, dark):
    browser.open(address, dark=dark)
    assert browser.ask("document.title") == "run"
    assert "3 classes: one, two, zero" in browser.ask("document.querySelector('#about').textContent")
    browser.drop(files / "one.png", files / "two.png")
    browser.wait("document.querySelectorAll('article').length === 2")
    assert headings(browser) == ["two", "one"]  # the newest first
    first = "document.querySelector('article')"
    assert browser.ask(f"{first}.querySelectorAll('.meter:not(.text)').length") == 3
    assert browser.ask(f"{first}.querySelectorAll('.meter.text').length") == 3  # zero-shot beside it
    assert browser.ask(f"{first}.querySelectorAll('.near img').length") == 5
    browser.wait(f"[...{first}.querySelectorAll('img')].every(e => e.naturalWidth > 0)")
    for bar in ("--bar", "--text-bar"):
        assert contrast(*(colour(browser, name) for name in (bar, "--line"))) >= 3  # WCAG 2.2, 1.4.11
    dark_ink = browser.ask("getComputedStyle(document.body).color")
    assert (dark_ink == "rgb(238, 241, 244)") == dark
    shot(browser, f"page-{'dark' if dark else 'light'}")


def test_pictures_are_picked_and_cleared_by_the_keyboard(browser, address, files):
    browser.open(address)
    browser.pick(files / "zero.png")
    browser.wait("document.querySelectorAll('article').length === 1")
    assert headings(browser) == ["zero"]
    browser.press("Escape")
    assert browser.ask("document.querySelectorAll('article').length") == 0
    assert browser.ask("document.activeElement.id") == "pick"


def test_the_keyboard_reaches_what_can_be_pressed(browser, address, files):
    browser.open(address)
    browser.pick(files / "zero.png")
    browser.wait("document.querySelectorAll('article').length === 1")
    reached = []
    browser.ask("document.activeElement.blur()")
    for _ in range(3):
        browser.press("Tab")
        reached.append(browser.ask("document.activeElement.id"))
    assert reached[:2] == ["pick", "clear"]
    browser.ask("document.getElementById('clear').focus()")
    browser.press("Enter", text="\r")
    browser.wait("document.querySelectorAll('article').length === 0")


def test_a_picture_is_pasted(browser, address, files):
    browser.open(address)
    content = list((files / "two.png").read_bytes())
    browser.ask(
        f"(() => {{ const data = new DataTransfer(); "
        f"data.items.add(new File([new Uint8Array({content})], 'image.png', {{type: 'image/png'}})); "
        "dispatchEvent(new ClipboardEvent('paste', {clipboardData: data})); })()"
    )
    browser.wait("document.querySelectorAll('article').length === 1")
    assert headings(browser) == ["two"]


def test_a_wrong_file_is_a_sentence(browser, address, files):
    browser.open(address)
    browser.pick(files / "notes.txt")
    browser.wait("document.querySelector('#said').classList.contains('wrong')")
    assert "not an image" in browser.ask("document.querySelector('#said').textContent")
    browser.pick(files / "one.png", files / "notes.txt")  # the right one beside it is named all the same
    browser.wait("[...document.querySelectorAll('article h2')].some(e => e.textContent === 'one')")
    shot(browser, "page-wrong-file")


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_sees_all_of_it(browser, address, files, dark):
    browser.open(address, width=390, height=844, dark=dark)
    browser.pick(files / "one.png")
    browser.wait("document.querySelectorAll('article .near img').length === 5")
    assert browser.ask("document.documentElement.scrollWidth") <= 390
    shot(browser, f"phone-{'dark' if dark else 'light'}")


def test_no_name_of_a_file_is_a_command(browser, address, files, tmp_path):
    browser.open(address)
    strange = tmp_path / "<img src=x onerror=document.title='owned'>.png"
    strange.write_bytes((files / "one.png").read_bytes())
    browser.pick(strange)
    browser.wait("document.querySelectorAll('article').length === 1")
    assert browser.ask("document.title") == "run"
    assert "<img src=x" in browser.ask("document.querySelector('figcaption').textContent")
