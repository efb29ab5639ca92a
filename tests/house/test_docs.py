"""Docs are run: every `cafe` command of README.md, and its Python, on small stand-ins for what readers bring."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cafe.cli.app import call
from cafe.runs import run_names

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def indented_commands(text):
    return [line.strip() for line in text.splitlines() if line.startswith("    cafe ")]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A reader's desk: folders of photographs (digits, here), a new photograph, a cache folder."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("desk")
    images, labels = load_digits(return_X_y=True)
    for name, digit in (("zero", 0), ("one", 1), ("two", 2)):
        for place, rows in (("my_photos", slice(20)), ("labelled_photos", slice(20, 24)), ("photos", slice(24, 26))):
            (folder / place / name).mkdir(parents=True)
            for i in np.flatnonzero(labels == digit)[rows]:
                picture = Image.fromarray(np.uint8(images[i].reshape(8, 8) * 15))
                picture.save(folder / place / name / f"{i}.png")
    for place in ("more", "more_photos"):
        (folder / place).mkdir()
        picture.save(folder / place / "a.jpg")
    picture.save(folder / "new.jpg")
    return folder


@pytest.fixture
def at_the_desk(desk, monkeypatch):
    """Sit down there, with a folder of caches."""
    monkeypatch.chdir(desk)
    monkeypatch.setenv("CAFE_CACHE", str(desk / "cache"))
    monkeypatch.delenv("CAFE_MODEL", raising=False)


def serve_until_ready(words, folder):
    """Run a server as a reader does, and end it once it answers."""
    command = [sys.executable, "-m", "cafe.cli", *words, "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        said = []
        for line in process.stderr:
            said.append(line)
            if "serving at http://127.0.0.1:" in line:
                process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0 and any("serving at" in line for line in said), said


# Pages of which every command and all Python runs, in the order in which it stands there.
PAGES = ["README.md", "docs/using.md"]


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_page_run_as_typed(page, desk, at_the_desk, capfd):
    """Stand-ins: the embedded model for models of the hub, the newest run for NAME, nobody who is asked."""
    commands = indented_commands((ROOT / page).read_text(encoding="utf-8"))
    assert len(commands) >= 4
    ran = 0
    for command in commands:
        words = shlex.split(re.sub(r"--model \S+", "--model cafe:mini", command))[1:]
        if "/data" in words:
            continue  # the published photographs: tests/real
        words = [run_names(desk / "cache")[0] if word == "NAME" else word for word in words]
        words += ["--yes"] if "rm" in words else []
        (desk / "preds.csv").unlink(missing_ok=True)
        if words[0] == "predict" and not run_names(desk / "cache"):
            assert call(["fit", "my_photos"]) == 0
        if words[0] == "serve":  # until it is told to end
            serve_until_ready(words, desk)
        else:
            assert call(words) == 0, f"{command}: {capfd.readouterr().err}"
        ran += 1
    assert ran >= 3


@pytest.mark.parametrize("page", PAGES)
def test_python_of_the_page_runs(page, desk, at_the_desk):
    assert call(["extract", "digits", "--quiet"]) == 0
    for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.S):
        exec(compile(block.replace("openai/clip-vit-base-patch32", "cafe:mini"), page, "exec"), {})


def test_links_between_documents_lead_somewhere():
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        prose = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
        for target in re.findall(r"\]\(([^)#:]+)\)", prose):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_continuous_integration_runs_the_readmes_two_commands(tmp_path):
    """Every program that .ci/run calls is replaced by one that writes down how it was called."""
    log = tmp_path / "calls"
    programs = dict.fromkeys(("pip", "cafe", "pytest", "ruff", "mypy"), "")
    programs["pytest"] = 'echo "=== 1 passed in 0.01s ==="'
    programs["python3"] = '[ "$1 $2" = "-m venv" ] && mkdir -p "$3/bin" && touch "$3/bin/activate"'
    for name, body in programs.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> "{log}"\n{body}\n', encoding="utf-8")
        path.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    run = subprocess.run(
        ["bash", str(ROOT / ".ci" / "run")], env=environment, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    calls = [line.strip() for line in log.read_text(encoding="utf-8").splitlines()]
    assert calls[1:5] == ["pip install -e .", "cafe demo", "pip install -e .[test]", "pytest"]
    for command in ("pip install -e . && cafe demo", "pip install -e '.[test]' && pytest"):
        assert f"\n    {command}\n" in README


PLACE = re.compile(r"(?<![\w/.])((?:cafe|cache|cli|benchmarks|tests|docs)/[\w/.-]*\w/?)")


@pytest.mark.parametrize(
    "page",
    ["README.md", "CONTRIBUTING.md", "cache/FORMAT.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))],
)
def test_places_that_documents_name_are_there(page):
    named = set(PLACE.findall((ROOT / page).read_text(encoding="utf-8")))
    assert not [place for place in named if not (ROOT / place).exists()]
