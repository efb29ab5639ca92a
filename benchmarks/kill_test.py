"""Kills the verbs that write, at random instants, and lets them carry on: what is left is byte for byte the same.

For every verb, an undisturbed run gives the reference. Then processes that run the verb are killed (SIGKILL) at random
instants, for ``extract`` after its first shard exists; whenever one comes through, its output is compared with the
reference, and the next round begins without it. After every kill, whatever stands under the final name must be whole.
Last, several processes extract one cache at once, some of them killed.

Run::

    python benchmarks/kill_test.py [--kills 100] [--verbs extract,import,...] [--concurrent 8] [--images 900] [--seed 0]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import parse

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

_TIMES = ("fit_seconds", "seconds", "created", "select_seconds", "timings")


@dataclass
class Verb:
    """A verb that writes.

    Attributes
    ----------
    arguments : list of str
        The command line after ``cafe``.
    out : Path
        File or folder that it makes.
    begun : callable
        Whether kills may begin.
    digest : callable
        Digest of the output; raises if it is not whole.
    """

    arguments: list[str]
    out: Path
    begun: Callable[[], bool]
    digest: Callable[[Path], str]


def start(arguments: list[str], answer: Path | None = None) -> int:
    """Run a verb in a forked child, which has everything imported already; return its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        output = os.open(answer or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        errors = os.open(os.environ.get("KILL_TEST_ERRORS", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(errors, 2)
        from cafe.cli.app import call

        code = call(arguments)
    finally:
        os._exit(code)


def exit_code(child: int) -> int:
    """Wait for a child; negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def cache_digest(path: Path) -> str:
    """Return the digest over everything in a cache but its times, after checking all of it."""
    import h5py

    from cafe.cache.format.verify import verify_cache

    report = verify_cache(path)
    if not report.ok:
        raise AssertionError(f"{path}: {report.findings}")
    with h5py.File(path) as file:
        return str(file.attrs["content_sha256"])


def npz_digest(path: Path) -> str:
    """Return the digest over all arrays of a NumPy archive; reading them checks their checksums."""
    import numpy as np

    digest = hashlib.sha256()
    with np.load(path, allow_pickle=False) as file:
        for name in sorted(file.files):
            digest.update(f"{name} {file[name].dtype} {file[name].shape}".encode() + file[name].tobytes())
    return digest.hexdigest()


def folder_digest(path: Path) -> str:
    """Return the digest over all files of a folder, less the times that they tell."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_dir() or file.name.startswith(".") or file.suffix in (".html", ".csv"):
            continue  # pages and tables repeat the rows, times included
        content = file.read_bytes()
        if file.suffix == ".json":
            content = _without_times(json.loads(content))
        elif file.suffix == ".jsonl":
            content = b"\n".join(_without_times(json.loads(line)) for line in content.splitlines())
        digest.update(file.relative_to(path).as_posix().encode() + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()


def demo_digest(path: Path) -> str:
    """Return the digest of what the demo leaves: its cache, its fit and its comparison."""
    (cache,) = path.glob("*.h5")
    return cache_digest(cache) + folder_digest(path / "runs")


def _without_times(value: object) -> bytes:
    def clean(item: object) -> object:
        if isinstance(item, dict):
            return {key: clean(inner) for key, inner in item.items() if key not in _TIMES}
        return [clean(inner) for inner in item] if isinstance(item, list) else item

    return json.dumps(clean(value), sort_keys=True).encode()


def remove(path: Path) -> None:
    """Remove a file or folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def run_rounds(name: str, verb: Verb, kills: int, generator: random.Random) -> dict[str, object]:
    """Kill a verb so many times; return what was seen."""
    child, started = start(verb.arguments), time.monotonic()
    code = _wait(child, verb.begun, math.inf)
    begun = time.monotonic()
    if (code := exit_code(child) if code is None else code) != 0:
        raise SystemExit(f"cafe {' '.join(verb.arguments)} ended with {code}")
    ended = time.monotonic()
    reference = verb.digest(verb.out)
    remove(verb.out)
    killed = rounds = 0
    while killed < kills:
        child = start(verb.arguments)
        code = _wait(child, verb.begun, math.inf)
        if code is None:
            code = _wait(child, lambda: False, generator.uniform(0, ended - begun))
        if code is None:
            os.kill(child, signal.SIGKILL)
            code = exit_code(child)
        killed += code == -signal.SIGKILL
        if code not in (0, -signal.SIGKILL):
            raise SystemExit(f"{name}: ended with {code} after {killed} kills")
        if verb.out.is_file() and verb.digest(verb.out) != reference:
            raise SystemExit(f"{name}: a file that is not the reference, after {killed} kills")
        # Killed after its file was in place: whole, as checked, and a verb without --force would refuse to run again.
        whole = verb.out.is_file()
        if code == 0 or whole or killed == kills:
            if killed == kills:
                if whole:
                    remove(verb.out)
                if exit_code(start(verb.arguments)) != 0:
                    raise SystemExit(f"{name}: does not carry on")
            if verb.digest(verb.out) != reference:
                raise SystemExit(f"{name}: differs from the undisturbed run after {killed} kills")
            rounds += 1
            remove(verb.out)
    left = sorted(path.name for path in verb.out.parent.iterdir() if verb.out.name in path.name)
    return {
        "verb": name,
        "kills": killed,
        "rounds": rounds,
        "seconds_undisturbed": round(ended - started, 2),
        "left": left,
    }


def _wait(child: int, ready: Callable[[], bool], seconds: float) -> int | None:
    """Wait until something is ready or the time is over; return the exit code of a child that ended meanwhile."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not ready():
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    return None


def run_together(verb: Verb, processes: int, shard: int, reference: str, folder: Path) -> dict[str, object]:
    """Let several processes extract one cache at once; a quarter of them is killed."""
    answers = [folder / f"answer-{i}.json" for i in range(processes)]
    children = [start([*verb.arguments, "--json"], answer) for answer in answers]
    while not verb.begun():
        time.sleep(0.002)
    doomed = children[: processes // 4]
    for child in doomed:
        os.kill(child, signal.SIGKILL)
    codes = [exit_code(child) for child in children]
    if verb.digest(verb.out) != reference:
        raise SystemExit("several at once: differs from the undisturbed run")
    done = [json.loads(answer.read_text()) for answer, code in zip(answers, codes, strict=True) if code == 0]
    images = sum(done[0]["splits"].values())
    encoded = sum(summary["encoded"] for summary in done)
    if encoded > images + shard * processes or len(done) < processes - len(doomed):
        raise SystemExit(f"several at once: {encoded} images encoded where there are {images}; exit codes {codes}")
    return {
        "verb": "extract, several at once",
        "processes": processes,
        "killed": len(doomed),
        "images": images,
        "encoded_by_survivors": encoded,
        "left": sorted(path.name for path in verb.out.parent.iterdir() if path != verb.out),
    }


def verbs(folder: Path, names: Sequence[str], n_images: int) -> dict[str, Verb]:
    """Return the verbs, each writing below the folder, after making the inputs of those that are named."""
    caches, runs = folder / "caches", folder / "runs"
    extracted = caches / "digits.h5"
    fixed = folder / "fixed" / "digits.h5"
    partial = caches / "digits.h5.partial"
    digits = write_digits(folder / "digits", n_images)
    source = ["extract", str(digits), "--model", "cafe:mini", "--quiet"]
    extract = [*source, "--batch-size", "8", "--views", "1", "--splits", "train,test", "--shots", "1,2,4,8"]
    extract += ["--seeds", "1"]
    if exit_code(start([*extract, "--out", str(fixed)])) != 0:
        raise SystemExit("the cache that the other verbs need could not be made")
    if exit_code(start(["cache", "export", str(fixed), "--out", str(folder / "features.npz")])) != 0:
        raise SystemExit("the arrays that import needs could not be exported")
    parts = [folder / "fixed" / f"{split}.h5" for split in ("val", "test")]
    for part in parts if "merge" in names else ():
        if exit_code(start([*source, "--splits", part.stem, "--out", str(part)])) != 0:
            raise SystemExit("the caches that merge needs could not be made")
    grown, grow = folder / "grown" / "grown.h5", list[str]()
    if "grow" in names:
        grow = _grow_a_folder(folder, grown.with_name("before.h5"))
    on_cache = ["--cache", str(fixed), "--device", "cpu"]
    return {
        "extract": Verb(
            [*extract, "--out", str(extracted)], extracted, lambda: any(partial.glob("shard-*.arrays")), cache_digest
        ),
        # The folder has grown since `before`: most rows are taken from there, and the others are encoded.
        "grow": Verb(
            [*grow, "--cache-dir", str(grown.parent), "--out", str(grown)],
            grown, lambda: True, cache_digest,
        ),
        "import": Verb(
            ["cache", "import", str(folder / "features.npz"), "--name", "digits", "--model", "mini", "--out",
             str(caches / "imported.h5"), "--force"],
            caches / "imported.h5", lambda: True, cache_digest,
        ),
        "merge": Verb(
            ["cache", "merge", *map(str, parts), "--out", str(caches / "merged.h5")],
            caches / "merged.h5", lambda: True, cache_digest,
        ),
        "export": Verb(
            ["cache", "export", str(fixed), "--out", str(caches / "exported.npz"), "--force"],
            caches / "exported.npz", lambda: True, npz_digest,
        ),
        "fit": Verb(
            ["fit", *on_cache, "--method", "tip-adapter", "--shots", "4", "--out", str(runs / "fit")],
            runs / "fit", lambda: True, folder_digest,
        ),
        "compare": Verb(
            ["compare", "baselines", *on_cache, "--methods", "zero-shot,tip-adapter", "--shots", "1,2", "--seeds", "1",
             "--out", str(runs / "compare")],
            runs / "compare", lambda: True, folder_digest,
        ),
        "demo": Verb(
            ["demo", "--cache-dir", str(folder / "demo"), "--device", "cpu", "--quiet"],
            folder / "demo", lambda: True, demo_digest,
        ),
    }  # fmt: skip


def write_digits(folder: Path, n_images: int) -> Path:
    """Write digits as a folder with half of the images in train, a fifth in val and the rest in test."""
    from cafe.data import open_dataset

    digits = open_dataset("digits")
    for split, share in (("train", 0.5), ("val", 0.2), ("test", 0.3)):
        for row, label in enumerate(digits.splits[split].labels[: round(share * n_images)].tolist()):
            place = folder / split / digits.class_names[label] / f"{row}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            digits.image(split, row).save(place)
    return folder


def _grow_a_folder(folder: Path, before: Path) -> list[str]:
    """Extract a folder of digits, add a third to it, and return the command that extracts it again."""
    from cafe.data import open_dataset

    digits, photos = open_dataset("digits"), folder / "photos"
    command = ["extract", str(photos), "--model", "cafe:mini", "--device", "cpu", "--quiet", "--batch-size", "8"]
    for row, label in enumerate(digits.splits["train"].labels[:300].tolist()):
        if row == 200 and exit_code(start([*command, "--out", str(before)])) != 0:
            raise SystemExit("the cache of the folder before it grew could not be made")
        place = photos / digits.class_names[label] / f"{row}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        digits.image("train", row).save(place)
    return command


def warm_up(names: Sequence[str]) -> None:
    """Import what the verbs need before the forks, by doing it once, so that a child begins to work at once."""
    from cafe.cache.extract.plan import Draws
    from cafe.cache.extract.run import extract
    from cafe.cache.format.reader import read_features
    from cafe.compare import compare
    from cafe.data import open_dataset
    from cafe.encoders import open_encoder
    from cafe.report.files import write_report

    folder = Path(tempfile.mkdtemp(prefix="kill-test-"))
    try:
        encoder = open_encoder("cafe:mini", device="cpu")
        digits = open_dataset(write_digits(folder / "digits", 100))
        path = extract(digits, encoder, folder / "a.h5", splits=["train", "test"], draws=Draws((1,))).path
        if {"fit", "compare", "demo"}.isdisjoint(names):
            return
        rows = compare("baselines", [read_features(path)], shots=[1], seeds=[1], methods=["zero-shot", "tip-adapter"])
        write_report(folder, rows)
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Run what was asked for, and print one JSON line for each verb."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="for each verb")
    parser.add_argument("--verbs", default="extract,grow,import,merge,export,fit,compare,demo")
    parser.add_argument("--concurrent", type=int, default=8)
    parser.add_argument("--images", type=int, default=900, help="digits in train, val and test")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parse(parser, {"kills": 1, "verbs": "import", "concurrent": 0, "images": 100})
    names = arguments.verbs.split(",")

    warm_up(names)
    folder = Path(tempfile.mkdtemp(prefix="kill-test-"))
    try:
        generator, known = random.Random(arguments.seed), verbs(folder, names, arguments.images)
        for name in names:
            print(json.dumps(run_rounds(name, known[name], arguments.kills, generator)), flush=True)
        if arguments.concurrent:
            verb = known["extract"]
            exit_code(start(verb.arguments))
            reference = verb.digest(verb.out)
            remove(verb.out)
            print(json.dumps(run_together(verb, arguments.concurrent, 64, reference, folder)), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
