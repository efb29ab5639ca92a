"""The command line is fast to answer, complete, and documented as it is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from cafe.cli.app import app_with
from cafe.cli.help_pages import help_pages
from cafe.registry import entries
from cafe.version import __version__

REPOSITORY = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "numpy", "h5py", "sklearn", "matplotlib", "PIL", "scipy", "pandas")

COMMON = {"--json", "--quiet", "--cache-dir"}  # of every verb without exception
COMPUTING = {"--device", "--dtype"}
SEEDED = {"--seed"}
# Which verbs run something on a device, and which draw random numbers; a new verb has to be entered if it does.
COMPUTING_VERBS = {"demo", "extract", "fit", "compare", "predict", "serve"}
SEEDED_VERBS = {"demo", "extract", "fit", "compare"}
# Word for word from the contract (DESIGN section 3), as far as this release has it.
CONTRACT = {
    "demo": set(),
    "extract": {"--dataset", "--root", "--model", "--splits", "--templates", "--views", "--shots", "--seeds"},
    "fit": {"--cache", "--method", "--variant", "--alpha", "--beta", "--reduction", "--shots", "--out"},
    "compare": {"--cache", "--shots", "--seeds", "--out"},
    "predict": {"--run"},
    "datasets": set(),
    "methods": set(),
    "models": set(),
    "suites": set(),
    "cache ls": set(),
    "cache info": set(),
    "cache verify": set(),
    "cache import": set(),
    "cache merge": set(),
    "cache rm": set(),
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
    known = {
        name: {option for p in verb.params for option in p.opts}
        for name, verb in verbs(typer.main.get_command(app_with()))
    }
    missing = {name: options - known.get(name, set()) for name, options in CONTRACT.items()}
    assert {name: options for name, options in missing.items() if options} == {}


def test_every_verb_has_the_common_options_that_mean_something_there():
    shared = {}
    for name, verb in verbs(typer.main.get_command(app_with())):
        options = {option: p for p in verb.params for option in p.opts if option.startswith("--")}
        expected = COMMON | (COMPUTING if name in COMPUTING_VERBS else set())
        expected |= SEEDED if name in SEEDED_VERBS else set()
        assert expected <= set(options), name
        # Neither a device nor a seed where they would change nothing.
        assert not ((COMPUTING | SEEDED) - expected) & set(options), name
        for option in COMMON | COMPUTING | SEEDED:
            if option in options:
                p = options[option]
                shared.setdefault(option, set()).add((p.metavar, p.is_flag, tuple(p.opts)))
    # What can be computed in differs: encoding, training, or both; the values that all have are named first.
    assert {form[0].split("|")[0] for form in shared["--dtype"]} == {"auto"}
    assert len(shared.pop("--dtype")) == 3
    # The same form everywhere, so that one script can give them to any verb.
    assert {option: len(forms) for option, forms in shared.items()} == dict.fromkeys(shared, 1)


def test_every_option_is_explained():
    for name, verb in verbs(typer.main.get_command(app_with())):
        assert verb.help, name
        assert [p.name for p in verb.params if not p.help] == [], name


def test_documentation_is_up_to_date():
    written, pages = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8"), help_pages()
    for name in entries("cache.transfer.importers", "IMPORTER"):
        if name not in written:  # a new importer is one file and no other edit
            pages = pages.replace(f", {name}", "", 1)
    assert written == pages, "make it again: python -m cafe.cli.help_pages > docs/cli.md"


def test_every_importer_is_named_by_the_help():
    (option,) = [line for line in help_pages().splitlines() if line.startswith("- `--format` `NAME`: auto")]
    assert set(entries("cache.transfer.importers", "IMPORTER")) <= set(re.findall(r"[\w-]+", option))


def test_an_importer_that_is_no_python_stops_no_other_verb(tmp_path):
    """It is reported where it is needed; the help names the formats that are always there."""
    program = (
        "import cafe.registry as registry, sys\n"
        "from pathlib import Path\n"
        "folder = registry._folder\n"
        "registry._folder = lambda name: Path(sys.argv[1]) if name.endswith('importers') else folder(name)\n"
        "from cafe.cli.app import call\n"
        "verbs = ['cache', 'import', '--help'], ['methods', '--quiet'], ['cache', 'import', sys.argv[1]]\n"
        "print(*map(call, verbs))"
    )
    (tmp_path / "broken.py").write_text("IMPORTER = ", encoding="utf-8")
    done = python("-c", program, str(tmp_path))
    assert done.stdout.splitlines()[-1] == "0 0 2", done.stderr
    assert "broken.py, line 1 is not Python" in done.stderr


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
