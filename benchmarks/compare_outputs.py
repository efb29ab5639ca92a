"""Shows that a change of the code changes nothing that a user sees: run the same commands with two checkouts, compare.

    python benchmarks/compare_outputs.py record --code FOLDER --out FOLDER [--only SCENE,...]
    python benchmarks/compare_outputs.py compare A B
    python benchmarks/compare_outputs.py --smoke

``record`` runs every verb and its important options with the code of a checkout, in scenes, and writes one text file
per command: its standard output, standard error and exit code; and one per file that the commands left behind: every
array of a cache or a run as its SHA-256, reports as text, figures as the hash of their pixels. The Python face, names,
signatures and results, is a scene of its own. ``compare`` prints what differs between two recordings as unified
diffs; its exit code is 1 if anything does. ``--smoke`` records the cheapest scene twice with this checkout and
compares.

What a clock or a version number says is replaced by words in angle brackets: seconds, rates, dates, which of the clocks
ran longest, folders of the recording itself, and cafe's own version. Everything else has to be equal to the last digit,
fingerprints and checksums too; so both recordings have to be made on one machine, in one environment, with one version
of this script. (A cache's ``content_sha256`` depends on cafe's version: where that differs, so does this.)

Only stable ways in are used: the command line, the public names of ``cafe`` and ``cafe.cache``, and what the pages of
``docs/`` import. Verbs run by ``cafe.cli.app.call`` in two long-lived processes, since starting one costs more than
most commands; the scene ``program`` starts the real one.

Scenes that need real photographs and features look for them in the folder that ``CAFE_REAL_DATA`` names, and are left
out, which is said, where it is unset. So are parts that need an extra which is not installed.
"""

from __future__ import annotations

import argparse
import difflib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from outputs.desk import REAL_DATA, Desk, real_data
from outputs.scenes import SCENES

HERE = Path(__file__).resolve()
SMOKE = "lists"  # the cheapest scene: no torch, no cache
NOT_CODE = (".git", "__pycache__", "docs", "benchmarks", "*.pyc", ".*_cache", "*.egg-info")
COLUMNS = "100"


def record(code: Path, out: Path, only: Sequence[str]) -> None:
    """Run scenes with the code of a checkout and write what they show.

    The code is copied first, so that nothing is written to the checkout and changes made meanwhile do no harm.
    """
    if out.exists() and any(out.iterdir()):
        raise SystemExit(f"{out} is not empty; name a new folder")
    out.mkdir(parents=True, exist_ok=True)
    if real_data() is None:
        print(f"{REAL_DATA} is unset: real photographs and features are left out", flush=True)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="cafe-outputs-") as folder:
        work = Path(folder).resolve()
        copy = work / "code"
        shutil.copytree(code, copy, symlinks=True, ignore=shutil.ignore_patterns(*NOT_CODE))
        for process in (1, 2):
            left = [name for name in only if SCENES[name][0] == process]
            while left:
                left = run_scenes(left, work, out, copy)
    files = sum(path.is_file() for path in out.rglob("*"))
    print(f"{files} files in {out}, after {time.perf_counter() - started:.0f} s", flush=True)


def run_scenes(names: Sequence[str], work: Path, out: Path, code: Path) -> list[str]:
    """Run scenes in one process, and return those that are left where it died."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CAFE_", "NO_COLOR"))}
    if real_data() is not None:
        kept[REAL_DATA] = str(real_data())
    environment = {
        **kept, "PYTHONPATH": str(code), "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg", "COLUMNS": COLUMNS,
        "LC_ALL": "C.UTF-8",
        # Threads that wait without spinning: on a busy machine minutes are saved, and no number changes.
        "OMP_WAIT_POLICY": "passive", "HF_DATASETS_CACHE": str(work / "hf"), "PYTHONPYCACHEPREFIX": "", "TERM": "dumb",
    }  # fmt: skip
    command = [sys.executable, str(HERE), "_scenes", str(work), str(out), str(code), *names]
    child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    left = list(names)
    assert child.stdout is not None
    for line in child.stdout:
        print(line, end="", flush=True)
        if left and line.startswith(f"{left[0]}: "):
            left.pop(0)
    if child.wait() != 0 and left:
        died = left.pop(0)
        (out / died).mkdir(exist_ok=True)
        (out / died / "died.txt").write_text(f"the process ended with {child.returncode}\n")
        print(f"{died}: the process ended with {child.returncode}", flush=True)
    return left


def play(names: Sequence[str], work: Path, out: Path, code: Path) -> None:
    """Run scenes, in a process whose ``cafe`` is the one to be recorded."""
    import cafe

    if code not in Path(str(cafe.__file__)).resolve().parents:
        raise SystemExit(f"cafe comes from {cafe.__file__}, not from {code}")
    for name in names:
        started = time.perf_counter()
        desk = Desk(name, work, out, code)
        said = ""
        try:
            SCENES[name][1](desk)
        except Exception as error:  # the other scenes still say something
            said = f", broken off: {type(error).__name__}: {error}"
            desk.write("broken-off", f"{type(error).__name__}: {error}\n")
        desk.files()
        print(f"{name}: {time.perf_counter() - started:.0f} s{said}", flush=True)


def differences(a: Path, b: Path) -> Iterator[str]:
    """Yield a unified diff for every file that two recordings do not share."""
    names = sorted({path.relative_to(root) for root in (a, b) for path in root.rglob("*") if path.is_file()})
    for name in names:
        before, after = (root / name for root in (a, b))
        if not before.exists() or not after.exists():
            yield f"only in {a if before.exists() else b}: {name}\n"
            continue
        texts = [path.read_text(encoding="utf-8").splitlines(keepends=True) for path in (before, after)]
        if texts[0] != texts[1]:
            lines = difflib.unified_diff(*texts, str(before), str(after), n=2)
            yield "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def compare_recordings(a: Path, b: Path) -> int:
    """Print what differs; return 1 if anything does, else 0."""
    for folder in (a, b):
        if not any(folder.glob("*/*.txt")):
            raise SystemExit(f"{folder} is no recording")
    count = 0
    for text in differences(a, b):
        count += 1
        print(text, end="")
    print(f"{count} files differ" if count else "no difference", file=sys.stderr)
    return 1 if count else 0


def smoke() -> int:
    """Record the cheapest scene twice with this checkout, and compare."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a", "b"):
            record(HERE.parents[1], Path(folder, name), [SMOKE])
        return compare_recordings(Path(folder, "a"), Path(folder, "b"))


def chosen_scenes(text: str | None, parser: argparse.ArgumentParser) -> list[str]:
    """Read the names of scenes, in the order in which they run."""
    wanted = text.split(",") if text else list(SCENES)
    if unknown := set(wanted) - set(SCENES):
        parser.error(f"unknown scene {', '.join(sorted(unknown))}; known are {', '.join(SCENES)}")
    return [name for name in SCENES if name in wanted]


def main() -> int:
    """Record the outputs of a checkout, or compare two recordings."""
    if sys.argv[1:2] == ["_scenes"]:
        work, out, code = map(Path, sys.argv[2:5])
        play(sys.argv[5:], work, out, code)
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="record the cheapest scene twice and compare")
    verbs = parser.add_subparsers(dest="verb")
    recording = verbs.add_parser("record", help="run the verbs and store what they show")
    recording.add_argument("--code", type=Path, required=True, metavar="FOLDER", help="the checkout whose code runs")
    recording.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    recording.add_argument("--only", metavar="SCENE,...", help=f"some of {', '.join(SCENES)}")
    comparing = verbs.add_parser("compare", help="print what differs between two recordings")
    comparing.add_argument("a", type=Path)
    comparing.add_argument("b", type=Path)
    arguments = parser.parse_args()
    if arguments.smoke:
        return smoke()
    if arguments.verb == "record":
        record(arguments.code.resolve(), arguments.out.resolve(), chosen_scenes(arguments.only, parser))
        return 0
    if arguments.verb == "compare":
        return compare_recordings(arguments.a, arguments.b)
    parser.error("give record, compare or --smoke")
    return 2


if __name__ == "__main__":
    sys.exit(main())
