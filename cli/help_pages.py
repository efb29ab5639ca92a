"""Writes every help page as one Markdown file: ``python -m cafe.cli.help_pages > docs/cli.md``.

The pages are made from the parameters themselves, not from what a version of Typer prints.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import typer

from cafe.cli.app import app_with

_HEAD = """# The command line

Made by `python -m cafe.cli.help_pages > docs/cli.md`; change the help texts in `cli/`, not this file.

Lists are comma-separated (`--shots 1,2,4`) or given by repeating the option. Results go to stdout, prose and progress
to stderr. Exit codes: 0 done, 1 failed on the way, 2 wrong usage or bad input, 130 interrupted. `CAFE_DEBUG=1` shows
tracebacks, `NO_COLOR=1` leaves out colours.
"""


def help_pages() -> str:
    """Return the help of every verb as Markdown, ending in a newline.

    Examples
    --------
    >>> "## cafe demo" in help_pages()
    True
    """
    command = typer.main.get_command(app_with())
    return "\n".join([_HEAD, *_pages(command, "cafe")])


def _pages(command: Any, path: str) -> Iterator[str]:
    """Yield the page of a command, such as "cafe cache", and those of the verbs below it."""
    verbs = getattr(command, "commands", None)
    arguments = " ".join(p.metavar for p in command.params if p.param_type_name == "argument")
    usage = f"{path} VERB" if verbs else " ".join(filter(None, [path, arguments, "[OPTIONS]"]))
    lines = [f"## {path}", "", *_paragraphs(command.help), "", "```", usage, "```", ""]
    lines += [_parameter(p) for p in command.params if getattr(p, "help", None) and not p.hidden]
    lines += [f"- `{path} {name}`: {_first_line(verb.help)}" for name, verb in (verbs or {}).items()]
    yield "\n".join(lines) + "\n"
    for name, verb in (verbs or {}).items():
        yield from _pages(verb, f"{path} {name}")


def _parameter(parameter: Any) -> str:
    """Return the line of an argument or an option: its names, its help and its default, if that is a plain value."""
    if parameter.param_type_name == "argument":
        return f"- `{parameter.metavar}`: {parameter.help}"
    names = ", ".join(f"`{name}`" for name in parameter.opts)
    if parameter.metavar:
        names += f" `{parameter.metavar}`"
    # The help of a flag, or of an option without a plain default, says itself what happens where it is not given.
    default = parameter.default
    shown = "" if default is None or isinstance(default, bool) or callable(default) else f" Default: `{default}`."
    required = " Required." if parameter.required else ""
    return f"- {names}: {parameter.help}{shown}{required}"


def _paragraphs(text: str | None) -> list[str]:
    """Return the lines of a help text without their indentation."""
    return [line.strip() for line in (text or "").strip().splitlines()]


def _first_line(text: str | None) -> str:
    """Return the first line of a help text."""
    return (text or "").strip().partition("\n")[0]


if __name__ == "__main__":
    sys.stdout.write(help_pages())
