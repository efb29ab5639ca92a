"""Damaged run folders: single bits and pages of ``run.json`` and ``model.safetensors``."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from breaking.caches import _plain as plain
from breaking.caches import difference
from breaking.campaign import Campaign, Outcome
from breaking.command import judge, run_cafe
from breaking.damage import Span, flip_bit, page_damages
from breaking.pool import note

OLD = Path(__file__).resolve().parents[2] / "data" / "runs"
_COMMANDS_EVERY = 200  # opening an encoder takes longest
_LISTS_EVERY = 25
_OLD_EVERY = 6  # of so many tries one is on a folder of the first version, which has no checksums


@dataclass
class Sample:
    """A sound run, and everything that was read from it.

    Attributes
    ----------
    files : dict of str to bytes
        By name.
    loaded : dict
        Document, parameters, fitted attributes, predictions.
    arrays : dict of str to (int, int)
        Where the bytes of each array stand in ``model.safetensors``.
    is_old : bool
        Whether it was written without checksums.
    """

    files: dict[str, bytes]
    loaded: dict[str, Any]
    arrays: dict[str, Span]
    is_old: bool


def loaded_from(folder: Path, X: dict[bool, np.ndarray]) -> dict[str, Any]:
    """Return everything that a run gives its user; ``X`` by whether the method learns from before the projection."""
    from cafe.runs import load

    run = load(folder)
    before = getattr(run, "projection", None) is not None
    loaded = {name: plain(value) for name, value in vars(run).items() if not name.startswith("_")}
    loaded["predictions"] = plain(run.predict_proba(X[before]))
    return loaded


def _array_spans(data: bytes) -> dict[str, Span]:
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    offsets = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    return {name: (8 + size + start, 8 + size + stop) for name, (start, stop) in offsets.items()}


class DamagedRuns(Campaign):
    """What is common to all damage of runs."""

    def prepare(self, folder: Path) -> None:
        """Read the runs of every method that the first version saved, and save each anew by today's writer."""
        from cafe.features import Features
        from cafe.runs import load, save

        with np.load(OLD / "expected.npz") as file:
            # Five rows tell methods apart as well as ten, in half the time.
            self.X = {False: file["X"][:5], True: file["X_unprojected"][:5]}
        self.samples: list[Sample] = []
        self.old: list[Sample] = []
        for path in sorted(OLD.glob("*/run.json")):
            run = load(path.parent)
            again = folder / path.parent.name
            document = run.run_
            features = Features({}, tuple(document["class_names"]), provenance=document["provenance"])
            del run.run_
            save(run, again, row=document["row"], features=features)
            for source, samples, is_old in ((again, self.samples, False), (path.parent, self.old, True)):
                files = {file.name: file.read_bytes() for file in source.iterdir()}
                spans = _array_spans(files["model.safetensors"])
                samples.append(Sample(files, loaded_from(source, self.X), spans, is_old))
        self.image = folder / "image.png"
        from PIL import Image

        Image.new("L", (8, 8), 128).save(self.image)
        run_cafe(folder / "try", "predict", self.image, "--run", folder / "zero-shot")

    def look(self, sample: Sample, name: str, data: bytes, folder: Path, what: str, kind: str, array: str | None,
             number: int) -> Outcome:  # fmt: skip
        """Judge what is made of a run with one damaged file."""
        from cafe.errors import InputError
        from cafe.runs import find_run, run_names

        note(folder, kind)
        run = folder / "caches" / "runs" / "damaged"
        run.mkdir(parents=True)
        for file, content in sample.files.items():
            (run / file).write_bytes(data if file == name else content)
        if number % _LISTS_EVERY == 0 and (run_names(folder / "caches") != ["damaged"]
                                           or find_run("damaged", folder / "caches") != run):  # fmt: skip
            return Outcome("wrong", kind, f"{what}; the run is not found")
        if number % _COMMANDS_EVERY == 0:
            answer = run_cafe(folder, "predict", self.image, "--run", run, "--json")
            outcome = judge(answer, kind, f"{what}; cafe predict", named=[] if sample.is_old else ["damaged"])
            if outcome.verdict not in ("detected", "accepted"):
                return outcome
        try:
            loaded = loaded_from(run, self.X)
        except InputError as error:
            if "damaged" not in str(error):
                return Outcome("unnamed", kind, f"{what}; does not name the folder: {error}")
            if array is not None and not sample.is_old and array not in str(error):
                return Outcome("unnamed", kind, f"{what}; does not name array {array}: {error}")
            return Outcome("detected", kind, f"{what}; {error}")
        other = difference(sample.loaded, loaded)
        if other is None:
            return Outcome("meaningless", kind, what)
        if sample.is_old:
            return Outcome("unprotected", kind, f"{what}; {other} differs, and a run of version 1 has no checksum")
        return Outcome("silent", kind, f"{what}; loads with other {other}")


class RunFlips(DamagedRuns):
    """Single bits of runs of every method, new and old."""

    name, tries, short = "run-flips", 6_000, 150

    def attempt(self, number: int, rng: random.Random, folder: Path) -> Outcome:
        """Flip one bit of one file of one run."""
        samples = self.old if number % _OLD_EVERY == 0 else self.samples
        sample = samples[rng.randrange(len(samples))]
        name = rng.choice(["run.json", "model.safetensors"])
        data = sample.files[name]
        kind, positions = name, range(len(data))
        array = None
        if name == "model.safetensors":
            header = 8 + int.from_bytes(data[:8], "little")
            if rng.random() < 0.5:
                kind, positions = f"{name}, header", range(header)
            else:
                kind, positions = f"{name}, numbers", range(header, len(data))
        position, bit = rng.choice(positions), rng.randrange(8)
        if kind.endswith("numbers"):
            array = next((key for key, (start, stop) in sample.arrays.items() if start <= position < stop), None)
        age = "old" if sample.is_old else "new"
        method = sample.loaded["run_"]["method"]
        what = f"{age} {method}, {name}, byte {position}, bit {bit}"
        return self.look(sample, name, flip_bit(data, position, bit), folder, what, f"{kind}, {age}", array, number)


class RunPages(DamagedRuns):
    """Run folders whose files are cut off at every 4 KiB, lack pages, or are gone."""

    name, tries, short = "run-pages", 400, 30

    def prepare(self, folder: Path) -> None:
        """Also list all damages, of the new runs."""
        super().prepare(folder)
        self.damages = [
            (sample, name, what, data)
            for sample in self.samples
            for name in sample.files
            for what, data in page_damages(sample.files[name], random.Random(0))
        ]
        random.Random(1).shuffle(self.damages)

    def attempt(self, number: int, rng: random.Random, folder: Path) -> Outcome:
        """Damage a page; further rounds cut at any byte, or put the file of another run in the place of this one's."""
        if number < len(self.damages):
            sample, name, what, data = self.damages[number]
        else:
            sample, other = rng.sample(self.samples, 2)
            name = rng.choice(list(sample.files))
            what, data = "exchanged with that of another run", other.files[name]
            if rng.random() < 0.5 or data == sample.files[name]:
                end = rng.randrange(len(sample.files[name]))
                what, data = f"truncated to {end}", sample.files[name][:end]
            elif name == "run.json" and other.files["model.safetensors"] == sample.files["model.safetensors"]:
                return Outcome("meaningless", "exchanged", "both have the same arrays")
        kind = what.split(" ")[0]
        return self.look(sample, name, data, folder, f"{name}, {what}", kind, None, number)
