"""Runs the commands of a scene in a folder of its own, records their output, and makes their input files."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from outputs.normalise import Normaliser, described_file

REAL_DATA = "CAFE_REAL_DATA"
FOLDER_OF_INPUTS = "inputs"  # in a scene's folder; what lies there was made by the scene and is not recorded


@dataclass(frozen=True)
class Outcome:
    """The result of one command: exit code and both streams."""

    code: int | str
    out: str
    err: str

    def names(self, key: str) -> list[str]:
        """Return the names that a list verb printed as JSON; none if it printed something else."""
        try:
            return [row["name"] for row in json.loads(self.out)[key]]
        except (ValueError, KeyError, TypeError):
            return []


class Desk:
    """Runs the commands of one scene in a folder, and records their output in another folder.

    Parameters
    ----------
    scene : str
        Its name.
    work : Path
        The folder of the whole recording's temporary files; the scene gets ``work/scene``.
    out : Path
        The recording; the scene writes to ``out/scene``.
    code : Path
        The checkout whose code runs.
    """

    def __init__(self, scene: str, work: Path, out: Path, code: Path) -> None:
        self.work, self.here, self.out, self.code = work, work / scene, out / scene, code
        self.inputs = self.here / FOLDER_OF_INPUTS
        self.caches = self.here / "caches"
        self.commands = commands_of(scene)
        self.normaliser = Normaliser([(work, "<work>"), (code, "<code>")])
        self._count = 0
        self.inputs.mkdir(parents=True)
        self.out.mkdir(parents=True, exist_ok=True)
        os.chdir(self.here)
        os.environ["CAFE_CACHE"] = str(self.caches)

    def cafe(self, *arguments: object, **environment: str) -> Outcome:
        """Run ``cafe ARGUMENTS`` in this process and record it; keywords are environment variables."""
        from cafe.cli.app import call

        typed = [str(argument) for argument in arguments]
        with changed_environment(environment), captured(self.work) as streams:
            try:
                code: int | str = call(typed)
            except SystemExit as error:
                code = f"SystemExit({error.code})"
            except BaseException as error:  # a user would see a traceback
                code = f"{type(error).__name__}: {error}"
        return self._record(["cafe", *typed], environment, Outcome(code, *streams))

    def program(self, *arguments: object, start: Sequence[str] = ("-m", "cafe.cli"), **environment: str) -> Outcome:
        """Run ``cafe ARGUMENTS`` as a program of its own and record it."""
        command = [sys.executable, *start, *map(str, arguments)]
        done = subprocess.run(
            command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        said = (stream.decode("utf-8", "backslashreplace") for stream in (done.stdout, done.stderr))
        return self._record(["python", *command[1:]], environment, Outcome(done.returncode, *said))

    def all(self, *commands: str) -> None:
        """Run several commands, each written as one would type it after ``cafe``."""
        for command in commands:
            self.cafe(*shlex.split(command))

    def run(self, section: str) -> None:
        """Run the commands of a section of this scene's file in ``commands/``."""
        self.all(*self.commands[section])

    def write(self, name: str, text: str) -> None:
        """Write a file of the recording."""
        path = self.out / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.normaliser.text(text), encoding="utf-8")

    def files(self) -> None:
        """Record every file that the scene has left; called for at the end of each scene."""
        paths = [path for path in sorted(self.here.rglob("*")) if self.inputs not in (path, *path.parents)]
        names = [path.relative_to(self.here).as_posix() + ("/" if path.is_dir() else "") for path in paths]
        self.write("files", "".join(f"{name}\n" for name in names))
        for name, path in zip(names, paths, strict=True):
            if path.is_file():
                text = described_file(path, self.normaliser)
                target = self.out / "files" / f"{name}.txt"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")

    def digits(self) -> Path:
        """Return this scene's own copy of a cache of the digits, made once for the whole recording."""
        from cafe.cli.app import call

        shared = self.work / "shared" / "digits--cafe-mini.h5"
        if not shared.exists():
            with captured(self.work):
                call(["extract", "--dataset", "digits", "--out", str(shared)])
        self.caches.mkdir(exist_ok=True)
        return shutil.copy(shared, self.caches / shared.name)

    def _record(self, command: Sequence[str], environment: dict[str, str], outcome: Outcome) -> Outcome:
        self._count += 1
        slug = re.sub(r"[^\w.]+", "-", self.normaliser.text(" ".join(command[1:]))).strip("-")[:60].strip("-")
        shown = " ".join([*(f"{k}={shlex.quote(v)}" for k, v in environment.items()), shlex.join(command)])
        text = f"$ {shown}\nexit code {outcome.code}\n--- stdout\n{outcome.out}--- stderr\n{outcome.err}"
        self.write(f"{self._count:03d}-{slug}", text)
        return outcome


def commands_of(scene: str) -> dict[str, list[str]]:
    """Return the commands of a scene's file in ``commands/``, by its sections, as one types them after ``cafe``."""
    file = Path(__file__).parent / "commands" / f"{scene}.txt"
    parts = file.read_text(encoding="utf-8").split("\n\n") if file.exists() else []
    return {title.strip("[]"): lines for title, *lines in (part.splitlines() for part in parts)}


@contextlib.contextmanager
def changed_environment(changes: dict[str, str]) -> Iterator[None]:
    """Set environment variables within the block; an empty value takes one away."""
    before = dict(os.environ)
    os.environ.update(changes)
    for name, value in changes.items():
        if not value:
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def captured(folder: Path) -> Iterator[list[str]]:
    """Collect what this process and its children write to their standard streams; the list is filled at the end."""
    said: list[str] = []
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in range(2)]
        sys.stdout.flush()
        sys.stderr.flush()
        kept = [os.dup(descriptor) for descriptor in (1, 2)]
        try:
            for file, descriptor in zip(files, (1, 2), strict=True):
                os.dup2(file.fileno(), descriptor)
            yield said
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for copy, descriptor in zip(kept, (1, 2), strict=True):
                os.dup2(copy, descriptor)
                os.close(copy)
            for file in files:
                file.seek(0)
                said.append(file.read().decode("utf-8", "backslashreplace"))


def photographs(folder: Path, classes: Sequence[str], per_class: int, suffix: str = "png", size: int = 40) -> Path:
    """Write small noisy pictures, each class with a colour of its own."""
    from PIL import Image

    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            pixels = np.random.default_rng([label, number, size]).integers(0, 120, (size, size + 6, 3), dtype=np.uint8)
            pixels[..., label % 3] += 100
            Image.fromarray(pixels).save(folder / name / f"{number}.{suffix}")
    return folder


def odd_pictures(folder: Path) -> Path:
    """Write two classes of pictures, in every mode with its own rule of conversion, and files that are no pictures."""
    from PIL import Image

    photographs(folder, ["plain", "odd"], 6)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 4), dtype=np.uint8)
    colours = Image.fromarray(pixels[..., :3])
    odd = folder / "odd"
    colours.convert("L").save(odd / "grey.png")
    colours.convert("1").save(odd / "black-and-white.png")
    colours.convert("P").save(odd / "palette.gif")
    colours.convert("CMYK").save(odd / "cmyk.jpg")
    Image.fromarray(pixels, "RGBA").save(odd / "transparent.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(odd / "grey-16.png")
    Image.fromarray(pixels[..., 0].astype(np.float32)).save(odd / "float.tiff")
    colours.save(odd / "animated.gif", save_all=True, append_images=[colours.rotate(90)])
    exif = Image.Exif()
    exif[0x0112] = 6
    colours.save(odd / "rotated.jpg", exif=exif)
    whole = (odd / "rotated.jpg").read_bytes()
    (odd / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (odd / "empty.jpg").write_bytes(b"")
    (odd / "text.jpg").write_text("not an image at all")
    (odd / "notes.txt").write_text("left out, and counted")
    (folder / "beside.png").write_bytes(whole)
    return folder


def digit_pictures(folder: Path, n: int) -> Path:
    """Write the first n of scikit-learn's digits as pictures of 32 x 32 pixels."""
    from PIL import Image
    from sklearn.datasets import load_digits

    folder.mkdir(parents=True)
    for number, digit in enumerate(load_digits().images[:n]):
        pixels = (digit * (255 / 16)).astype(np.uint8)
        Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{number:03d}.png")
    return folder


def tiny_clip(folder: Path, seed: int) -> Path:
    """Save a random CLIP of transformers: 32 x 32 pixels, features 24 wide, a context of 16 tokens."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    letters, marks = sorted(ByteLevel.alphabet()), ["<|startoftext|>", "<|endoftext|>"]
    merges = [("a", "t</w>"), ("p", "h"), ("ph", "o")]
    pieces = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges), *marks]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=16)
    tokenizer.save_pretrained(folder)
    processor = {
        "image_processor_type": "CLIPImageProcessor", "do_resize": True, "do_center_crop": True, "do_rescale": True,
        "do_normalize": True, "do_convert_rgb": True, "size": {"shortest_edge": 32}, "resample": 3,
        "crop_size": {"height": 32, "width": 32}, "rescale_factor": 1 / 255,
        "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    shared = {"num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {name: vocabulary[mark] for name, mark in zip(("bos_token_id", "eos_token_id"), marks, strict=True)}
    text = {"vocab_size": len(pieces), "hidden_size": 24, "intermediate_size": 48, "max_position_embeddings": 16}
    vision = {"hidden_size": 32, "intermediate_size": 64, "image_size": 32, "patch_size": 8}
    config = CLIPConfig(
        text_config={**text, **shared, **ids, "pad_token_id": ids["eos_token_id"]},
        vision_config={**vision, **shared}, projection_dim=24,
    )  # fmt: skip
    torch.manual_seed(seed)
    CLIPModel(config).save_pretrained(folder)
    return folder


def foreign_features(n: int, seed: int, classes: int = 4, width: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Return unit-length rows around class means, and their labels in turn."""
    centres = np.random.default_rng(7).standard_normal((classes, width))
    labels = np.arange(n) % classes
    rows = centres[labels] + 0.8 * np.random.default_rng(seed).standard_normal((n, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


def foreign_splits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return rows and labels of three splits."""
    sizes = {"train": 48, "val": 16, "test": 60}
    return {split: foreign_features(n, seed) for seed, (split, n) in enumerate(sizes.items())}


def save_npz(path: Path, **more: Any) -> Path:
    """Save the three splits, and whatever else, as one file of arrays."""
    arrays = {}
    for split, (rows, labels) in foreign_splits().items():
        arrays |= {f"{split}_features": rows, f"{split}_labels": labels}
    np.savez(path, **arrays, **more)
    return path


def has(*packages: str) -> bool:
    """Return whether these packages are installed."""
    return all(importlib.util.find_spec(package) is not None for package in packages)


def real_data() -> Path | None:
    """Return the folder of real data, if there is one."""
    return Path(os.environ[REAL_DATA]) if os.environ.get(REAL_DATA) else None
