"""Links, FIFOs, folders and sockets where cafe expects files of its own: in the cache folder, in runs, in the way."""

from __future__ import annotations

import os
import random
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np

from breaking.caches import OLD, write_new_cache, write_split_caches
from breaking.campaign import Campaign, Outcome
from breaking.command import judge, run_cafe
from breaking.pool import note

VICTIM = b"A FILE OF SOMEBODY ELSE\n" * 10
_RUN = Path(__file__).resolve().parents[2] / "data" / "runs" / "zero-shot"

# Where something odd stands, below the folder of the try, and the command that meets it there.
_EXTRACT = (
    "extract",
    "--dataset",
    "{photos}",
    "--out",
    "{caches}/a.h5",
    "--workers",
    "0",
    "--device",
    "cpu",
    "--quiet",
)
_PLACES: dict[str, tuple[str, tuple[str, ...]]] = {
    "extract: the cache": ("caches/a.h5", _EXTRACT),
    "extract: its unfinished folder": ("caches/a.h5.partial", _EXTRACT),
    "extract: the lock": ("caches/.a.h5.partial.lock", _EXTRACT),
    "extract: the manifest": ("caches/a.h5.partial/manifest.json", _EXTRACT),
    "extract: a shard": ("caches/a.h5.partial/shard-000000.arrays", _EXTRACT),
    "extract: a claim": ("caches/a.h5.partial/shard-000000.claim", _EXTRACT),
    "extract: an image": ("photos/cat/0.png", _EXTRACT),
    "import: the cache": ("caches/a.h5", ("cache", "import", "{prepared}/features.npz", "--out", "{caches}/a.h5")),
    "import: the source": ("a.npz", ("cache", "import", "{folder}/a.npz", "--out", "{caches}/a.h5")),
    "import: class names": (
        "names.txt",
        ("cache", "import", "{prepared}/features.npz", "--out", "{caches}/a.h5", "--class-names", "{folder}/names.txt"),
    ),
    "merge: the cache": (
        "caches/a.h5",
        ("cache", "merge", "{prepared}/train.h5", "{prepared}/test.h5", "--out", "{caches}/a.h5"),
    ),
    "export: the file": ("a.npz", ("cache", "export", "{prepared}/whole.h5", "--out", "{folder}/a.npz")),
    "fit: the run": (
        "run",
        ("fit", "--cache", "{prepared}/whole.h5", "--method", "zero-shot", "--out", "{folder}/run", "--device", "cpu"),
    ),
    "fit: run.json": (
        "run/run.json",
        ("fit", "--cache", "{prepared}/whole.h5", "--method", "zero-shot", "--out", "{folder}/run", "--device", "cpu"),
    ),
    "fit: the cache": (
        "caches/a.h5", ("fit", "--cache", "{caches}/a.h5", "--method", "zero-shot", "--out", "{folder}/run"),
    ),
    "ls: a cache": ("caches/a.h5", ("cache", "ls")),
    "info: a cache": ("caches/a.h5", ("cache", "info", "a")),
    "verify: a cache": ("caches/a.h5", ("cache", "verify", "{caches}/a.h5")),
    "rm: a cache": ("caches/a.h5", ("cache", "rm", "-y", "{caches}/a.h5")),
    "predict: run.json": ("caches/runs/a/run.json", ("predict", "{photo}", "--run", "a", "--device", "cpu")),
    "predict: arrays": ("caches/runs/a/model.safetensors", ("predict", "{photo}", "--run", "a", "--device", "cpu")),
    "predict: the image": ("image.png", ("predict", "{folder}/image.png", "--run", "{run}", "--device", "cpu")),
}  # fmt: skip


def _link(name: str) -> Callable[[Path, Path], None]:
    return lambda path, victims: path.symlink_to(victims / name)


def _bind(path: Path, victims: Path) -> None:
    # The address of a socket may have 107 bytes, which a folder of tests can go beyond.
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.fchdir(here)
        os.close(here)


_KINDS: dict[str, Callable[[Path, Path], None]] = {
    "link to a file": _link("victim.txt"),
    "link to a folder": _link("folder"),
    "link to nothing": _link("nothing.txt"),
    "link to itself": lambda path, victims: path.symlink_to(path),
    "link to a FIFO": _link("fifo"),
    "link to /dev/zero": lambda path, victims: path.symlink_to("/dev/zero"),
    "FIFO": lambda path, victims: os.mkfifo(path),
    "socket": _bind,
    "folder": lambda path, victims: path.mkdir(),
}


class Links(Campaign):
    """Every odd kind of file in every place where a command meets it."""

    name, tries, short = "links", len(_PLACES) * len(_KINDS), 22
    limit = 30.0

    def prepare(self, folder: Path) -> None:
        """Write sound files, and let every command run once where nothing is odd."""
        from PIL import Image

        whole = write_new_cache(folder / "other.h5")
        shutil.copy(OLD / "extracted-0.1.0.h5", folder / "whole.h5")
        write_split_caches(whole, folder)
        rng = np.random.default_rng(0)
        for name in ("cat", "dog"):
            (folder / "photos" / name).mkdir(parents=True)
            for i in range(5):
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "photos" / name / f"{i}.png")
        labels = np.arange(8) % 2
        np.savez(folder / "features.npz", train_features=rng.random((8, 4)), train_labels=labels)
        shutil.copytree(_RUN, folder / "run")
        self.folder, self.sound = folder, whole.read_bytes()
        cases = [(place, kind) for place in _PLACES for kind in _KINDS]
        random.Random(0).shuffle(cases)
        self.cases = cases
        for number, place in enumerate(_PLACES):  # the commands work where nothing is in their way
            below = folder / f"sound-{number}" / "try"
            below.mkdir(parents=True)
            answer = run_cafe(below, *self._words(place, below))
            assert answer.code == 0 or ": the cache" not in place or place.startswith("fit"), (place, answer)

    def attempt(self, number: int, rng: random.Random, folder: Path) -> Outcome:
        """Put one odd thing in the way of one command."""
        place, odd = self.cases[number % len(self.cases)]
        note(folder, odd)
        victims = folder / "victims"
        (victims / "folder").mkdir(parents=True)
        (victims / "victim.txt").write_bytes(VICTIM)
        (victims / "folder" / "kept.txt").write_bytes(VICTIM)
        os.mkfifo(victims / "fifo")
        words = self._words(place, folder)
        path = folder / _PLACES[place][0]
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        _KINDS[odd](path, victims)

        answer = run_cafe(folder, *words)
        what = f"{place} is a {odd}"
        outcome = judge(answer, odd, what, failing=True)
        changed = self._changed(victims)
        if changed is not None:
            return Outcome("harm", odd, f"{outcome.detail}; {changed}")
        if outcome.verdict not in ("accepted", "detected"):
            return outcome
        listed = run_cafe(folder, "cache", "ls")
        if listed.code != 0 or "sound.h5" not in listed.out:
            return Outcome("wrong", odd, f"{what}; cafe cache ls does not list the sound cache: {listed.shown()}")
        return outcome

    def _words(self, place: str, folder: Path) -> list[str]:
        """Fill in the command, and put what it reads into the folder."""
        caches = folder / "caches"
        caches.mkdir()
        (caches / "sound.h5").write_bytes(self.sound)
        shutil.copytree(self.folder / "photos", folder / "photos")
        shutil.copytree(_RUN, caches / "runs" / "a")
        names = {
            "folder": folder, "caches": caches, "prepared": self.folder, "photos": folder / "photos",
            "photo": folder / "photos" / "dog" / "1.png", "run": self.folder / "run",
        }  # fmt: skip
        return [word.format(**names) for word in _PLACES[place][1]]

    @staticmethod
    def _changed(victims: Path) -> str | None:
        names = sorted(str(path.relative_to(victims)) for path in victims.rglob("*"))
        if names != ["fifo", "folder", "folder/kept.txt", "victim.txt"]:
            return f"the folder of somebody else holds {names}"
        for name in ("victim.txt", "folder/kept.txt"):
            if (victims / name).read_bytes() != VICTIM:
                return f"{name} of somebody else was changed"
        return None
