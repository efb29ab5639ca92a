"""Every command that README and docs show can be typed: its verb and options exist and its values are taken.

Those of docs/sources.md and docs/encoders.md are run as well, where their tests are; docs/cli.md comes from the
program itself.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from cafe.cli.app import app_with

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("[!c]*.md")),
    ROOT / "docs/comparing.md",
]
COMMAND = re.compile(r"^(?:\$ |    )?(?:pip install .* && )?(cafe [a-z].*)$")


def commands(text: str) -> list[str]:
    """Return the commands of code blocks, indented or fenced, with continued lines joined."""
    lines, commands_of_blocks, fenced = re.sub(r"\\\n\s*", "", text).splitlines(), [], False
    for line in lines:
        if line.startswith("```"):
            fenced = not fenced
        elif (match := COMMAND.match(line)) and (fenced or line.startswith("    ")):
            commands_of_blocks.append(match[1])
    return commands_of_blocks


def parse(words: list[str]) -> None:
    """Parse as typing it would, without running it."""
    command, name = typer.main.get_command(app_with()), "cafe"
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, f"{name} has no verb {words[:1]}"
        name, command, words = words[0], command.commands[words[0]], words[1:]
    command.make_context(name, list(words))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_page_can_be_typed(page):
    for line in commands(page.read_text(encoding="utf-8")):
        # A comment behind it, and `A && B`, `A; B` or `A | B`, which are commands of their own.
        words = shlex.split(line, comments=True)
        for stop in ("&&", ";", "|", "&"):
            words = words[: words.index(stop)] if stop in words else words
        try:
            parse(words[1:])
        except Exception as error:
            raise AssertionError(f"{page.name}: {line}: {error}") from error


def test_there_are_commands_and_wrong_ones_are_found():
    counts = {page.name: len(commands(page.read_text(encoding="utf-8"))) for page in PAGES}
    assert counts["README.md"] >= 4 and counts["extraction.md"] >= 3, counts
    with pytest.raises(Exception, match="no-such"):
        parse(["fit", "--no-such", "1"])
    with pytest.raises(AssertionError, match="no verb"):
        parse(["fitt"])
