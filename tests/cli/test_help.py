"""The command line is fast to answer, complete, and documented as it is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from cafe import __version__
from cafe.cli.app import app
from cafe.cli.help_pages import help_pages

REPOSITORY = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "numpy", "h5py", "sklearn", "matplotlib", "PIL", "scipy", "pandas")

COMMON = {"--json", "--quiet"}
COMPUTING = {"--device", "--dtype"}
# Word for word from the contract (DESIGN section 3), as far as this release has it.
CONTRACT = {
    "demo": COMMON | COMPUTING | {"--cache-dir", "--seed"},
    "extract": COMMON | COMPUTING | {"--cache-dir", "--dataset", "--root", "--model", "--splits", "--templates"},
    "fit": COMMON
    | COMPUTING
    | {
        "--cache-dir",
        "--cache",
        "--method",
        "--variant",
        "--alpha",
        "--beta",
        "--reduction",
        "--shots",
        "--seed",
        "--out",
    },
    "compare": COMMON | COMPUTING | {"--cache-dir", "--cache", "--shots", "--seeds", "--out"},
    "predict": COMMON | COMPUTING | {"--run"},
    "datasets": COMMON,
    "methods": COMMON,
    "models": COMMON,
    "suites": COMMON,
    "cache ls": COMMON | {"--cache-dir"},
    "cache info": COMMON | {"--cache-dir"},
    "cache verify": COMMON | {"--cache-dir"},
    "cache rm": COMMON | {"--cache-dir"},
}
LIGHT_COMMANDS = [["--help"], ["fit", "--help"], ["compare", "--help"], ["cache", "--help"], ["methods"], ["suites"]]


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("arguments", LIGHT_COMMANDS, ids=" ".join)
def test_no_heavy_import(arguments):
    program = (
        "import sys; from cafe.cli.app import call; code = call(sys.argv[1:]);"
        f"print([name for name in {HEAVY} if name in sys.modules], code, file=sys.stderr)"
    )
    done = python("-c", program, *arguments)
    assert done.stderr.splitlines()[-1] == "[] 0"


def test_help_is_quick():
    # The best of three: other programs may be using this machine. The contract is 0.3 s on a quiet one.
    times = []
    for _ in range(3):
        started = time.perf_counter()
        assert python("-m", "cafe.cli", "--help").returncode == 0
        times.append(time.perf_counter() - started)
    assert min(times) < 0.6


def verbs(command, path=""):
    for name, verb in command.commands.items():
        inner = f"{path} {name}".strip()
        if hasattr(verb, "commands"):
            yield from verbs(verb, inner)
        else:
            yield inner, verb


def test_every_verb_and_option_of_the_contract_is_there():
    found = {
        name: {option for p in verb.params for option in p.opts} for name, verb in verbs(typer.main.get_command(app))
    }
    missing = {name: options - found.get(name, set()) for name, options in CONTRACT.items()}
    assert {name: options for name, options in missing.items() if options} == {}


def test_every_option_is_explained():
    for name, verb in verbs(typer.main.get_command(app)):
        assert verb.help, name
        assert [p.name for p in verb.params if not p.help] == [], name


def test_documentation_is_up_to_date():
    written = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == help_pages(), "make it again: python -m cafe.cli.help_pages > docs/cli.md"


def test_version(cafe):
    outcome = cafe("--version")
    assert (outcome.code, outcome.out) == (0, f"cafe {__version__}\n")


@pytest.mark.parametrize("arguments", [[], ["cache"]], ids=["cafe", "cafe cache"])
def test_a_missing_verb_shows_help_and_counts_as_wrong(cafe, arguments):
    outcome = cafe(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Usage:" in outcome.err


def test_shell_completion_knows_verbs_and_names():
    for words, position, expected in (("cafe comp", 1, "compare"), ("cafe fit --method clip", 3, "clip-adapter")):
        program = "import sys; from cafe.cli.app import main; sys.argv = ['cafe']; main()"
        done = python(
            "-c", program, _CAFE_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(position),
            _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1",
        )  # fmt: skip
        assert expected in done.stdout.split(), (words, done.stdout, done.stderr)


def test_the_folder_cannot_be_imported_by_its_own_name():
    done = python("-c", "import cli")
    assert done.returncode == 1
    assert "imported as cafe.cli" in done.stderr
