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
import contextlib
import csv
import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

SMOKE = "lists"  # the cheapest scene: no torch, no cache
REAL_DATA = "CAFE_REAL_DATA"
HERE = Path(__file__).resolve()
NOT_CODE = (".git", "__pycache__", "docs", "benchmarks", "*.pyc", ".*_cache", "*.egg-info")
FOLDER_OF_INPUTS = "inputs"  # in a scene's folder; what lies there was made by the scene and is not recorded
COLUMNS = "100"


# ---------------------------------------------------------------------------------------------- normalising

NUMBER = r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
TIMES = ("(?:fit_)?seconds(?:_mean|_std)?", "images_per_second", "read", "encode", "write")
MASKED_COLUMNS = {"fit_seconds": "<seconds>", "cafe_version": "<version>"}
SUBSTITUTIONS = [
    # JSON, on one line or indented; it stays JSON.
    (rf'"({"|".join(TIMES)})": {NUMBER}', r'"\1": "<seconds>"'),
    (rf'"fit_seconds_ci95": \[\s*{NUMBER},\s*{NUMBER}\s*\]', '"fit_seconds_ci95": ["<seconds>"]'),
    (r'"bottleneck": "(?:read|encode|write)"', '"bottleneck": "<clock>"'),
    (r'"cafe_version": "[^"]*"', '"cafe_version": "<version>"'),
    # Prose.
    (r"[\d,]+ images/s \(.*?\)", "<rate> images/s (<clocks>)"),
    (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:\+00:00|Z)?", "<date>"),
    (r"\b(?:\d+ h \d+ min|\d+ min \d+ s|\d+(?:\.\d+)? s)\b", "<time>"),
    (r"^cafe \d+\.\d+\S*$", "cafe <version>"),
    (r"(<dt>cafe version</dt><dd>)[^<]*", r"\1<version>"),
    # Where an error happened within the code is no business of the user's; that there is a traceback is.
    (r"(Traceback \(most recent call last\):\n)(?:[ ].*\n)+", r"\1  <frames>\n"),
]
PATTERNS = [(re.compile(pattern, re.MULTILINE), words) for pattern, words in SUBSTITUTIONS]


@dataclass(frozen=True)
class Normaliser:
    """Replaces what may differ between two recordings.

    Attributes
    ----------
    folders : sequence of (Path, str)
        Folders of the recording and what stands for them, the innermost first.
    """

    folders: Sequence[tuple[Path, str]]

    def text(self, text: str) -> str:
        """Return prose or JSON without times, dates, versions and temporary folders."""
        for folder, words in self.folders:
            text = text.replace(str(folder), words)
        for pattern, words in PATTERNS:
            text = pattern.sub(words, text)
        return text

    def document(self, text: str) -> str:
        """Return a JSON file with the members of each object sorted: they have no order that a reader could rely on."""
        try:
            return json.dumps(json.loads(self.text(text)), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        except ValueError:
            return self.text(text)

    def table(self, text: str) -> str:
        """Return a CSV file with the columns masked that hold times or versions."""
        rows = list(csv.reader(io.StringIO(text)))
        if written(rows) != text:
            return "(not written as Python's csv module does)\n" + self.text(text)
        head = rows[0] if rows else []
        masked = [[MASKED_COLUMNS.get(name, cell) for name, cell in zip(head, row, strict=True)] for row in rows[1:]]
        return self.text(written([head, *masked]))

    def page(self, text: str) -> str:
        """Return an HTML page, a table row on each line, with pictures as hashes and columns masked as in a table."""
        text = re.sub(r"data:image/png;base64,([\w+/=]+)", lambda found: f"<picture {sha256(found[1].encode())}>", text)
        head: list[str] = []
        lines = []
        for line in text.replace("</tr>", "</tr>\n").splitlines():
            if "<th " in line:
                head = re.findall(r"<th [^>]*>(.*?)</th>", line)
            cells = re.findall(r"<td>(.*?)</td>", line)
            if head and len(cells) == len(head) and not MASKED_COLUMNS.keys().isdisjoint(head):
                masked = (MASKED_COLUMNS.get(name, cell) for name, cell in zip(head, cells, strict=True))
                line = "".join(f"<td>{cell}</td>" for cell in masked)
            lines.append(line)
        return self.text("\n".join(lines) + "\n")


def written(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def sha256(content: bytes) -> str:
    """Return the hash in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def described_array(array: Any) -> str:
    """Return dtype, shape and hash of an array; of texts and other objects the hash of how they print."""
    array = np.asarray(array)
    content = repr(array.tolist()).encode() if array.dtype.hasobject else np.ascontiguousarray(array).tobytes()
    return f"{array.dtype} {list(array.shape)} {sha256(content)}"


# ---------------------------------------------------------------------------------------------- files left behind


def described_file(path: Path, normaliser: Normaliser) -> str:
    """Return what a file holds, as text that two recordings share."""
    kinds: dict[str, Callable[[Path, Normaliser], str]] = {
        ".h5": cache_as_text,
        ".npz": npz_as_text,
        ".safetensors": safetensors_as_text,
        ".dat": safetensors_as_text,  # the name that a scene gives to one
        ".parquet": parquet_as_text,
        ".png": picture_as_text,
    }
    texts = {".csv": normaliser.table, ".html": normaliser.page, ".json": normaliser.document}
    if path.suffix in kinds:
        try:
            return kinds[path.suffix](path, normaliser)
        except Exception as error:  # a scene may leave broken files on purpose
            return f"cannot be read ({type(error).__name__}): {sha256(path.read_bytes())}\n"
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return f"{sha256(path.read_bytes())}\n"
    return texts.get(path.suffix, normaliser.text)(text)


def cache_as_text(path: Path, normaliser: Normaliser) -> str:
    """Describe an HDF5 file: attributes, arrays with how they are stored, and the provenance in full."""
    import h5py

    lines: list[str] = []

    def attributes(name: str, item: Any) -> None:
        for key, value in sorted(item.attrs.items()):
            value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
            if key == "cafe_version" or key.startswith("seconds"):
                value = "<not compared>"
            lines.append(f"{name or '/'} @{key} = {value!r}")

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            stored = (item.chunks, item.compression, item.id.get_create_plist().get_layout())
            lines.append(f"{name} {described_array(item[()])} stored {stored}")
        else:
            lines.append(f"{name}/")
        attributes(name, item)

    with h5py.File(path, "r") as file:
        attributes("", file)
        file.visititems(visit)
        if "provenance" in file:
            document = json.loads(np.asarray(file["provenance"]).reshape(-1)[0])
            lines += ["provenance:", json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)]
    return normaliser.text("\n".join(lines) + "\n")


def npz_as_text(path: Path, normaliser: Normaliser) -> str:
    """Describe the arrays of an ``.npz`` file, in its order; a single text in full."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    single = {name for name, array in arrays.items() if array.dtype.kind == "U" and array.ndim == 0}
    shown = {name: str(array) if name in single else described_array(array) for name, array in arrays.items()}
    return normaliser.text("".join(f"{name} {text}\n" for name, text in shown.items()))


def safetensors_as_text(path: Path, normaliser: Normaliser) -> str:
    """Describe arrays and metadata of a safetensors file."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        lines = [f"{name} {described_array(file.get_tensor(name))}" for name in sorted(file.keys())]
        lines += [f"@{name} = {value}" for name, value in sorted((file.metadata() or {}).items())]
    return normaliser.text("\n".join(lines) + "\n")


def parquet_as_text(path: Path, normaliser: Normaliser) -> str:
    """Describe schema, metadata and columns of a parquet file."""
    from pyarrow import parquet

    table = parquet.read_table(path)
    lines = [str(table.schema.remove_metadata())]
    lines += [f"@{key!r} = {value!r}" for key, value in sorted((table.schema.metadata or {}).items())]
    lines += [f"{name} {sha256(repr(table[name].to_pylist()).encode())}" for name in table.column_names]
    return normaliser.text("\n".join(lines) + "\n")


def picture_as_text(path: Path, _: Normaliser) -> str:
    """Describe a picture by its size and pixels."""
    from PIL import Image

    with Image.open(path) as picture:
        return f"{picture.format} {picture.mode} {picture.size} {sha256(picture.tobytes())}\n"


# ---------------------------------------------------------------------------------------------- running commands


@dataclass(frozen=True)
class Outcome:
    """What a user sees of one command."""

    code: int | str
    out: str
    err: str

    def names(self, key: str) -> list[str]:
        """Return the names that a list verb printed as JSON; none if it printed something else."""
        try:
            return [one["name"] for one in json.loads(self.out)[key]]
        except (ValueError, KeyError, TypeError):
            return []


class Desk:
    """Where one scene runs: a folder, in which commands are typed, and a folder for what they say.

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
        self.normaliser = Normaliser([(work, "<work>"), (code, "<code>")])
        self._count = 0
        self.inputs.mkdir(parents=True)
        self.out.mkdir(parents=True, exist_ok=True)
        os.chdir(self.here)
        os.environ["CAFE_CACHE"] = str(self.caches)

    def cafe(self, *words: object, **environment: str) -> Outcome:
        """Run ``cafe WORDS`` in this process and record it; keywords are environment variables."""
        from cafe.cli.app import call

        typed = [str(word) for word in words]
        with changed_environment(environment), captured(self.work) as streams:
            try:
                code: int | str = call(typed)
            except SystemExit as error:
                code = f"SystemExit({error.code})"
            except BaseException as error:  # a user would see a traceback
                code = f"{type(error).__name__}: {error}"
        return self._record(["cafe", *typed], environment, Outcome(code, *streams))

    def program(self, *words: object, start: Sequence[str] = ("-m", "cafe.cli"), **environment: str) -> Outcome:
        """Run ``cafe WORDS`` as a program of its own and record it."""
        command = [sys.executable, *start, *map(str, words)]
        done = subprocess.run(
            command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        said = (stream.decode("utf-8", "backslashreplace") for stream in (done.stdout, done.stderr))
        return self._record(["python", *command[1:]], environment, Outcome(done.returncode, *said))

    def all(self, *commands: str) -> None:
        """Run several commands, each written as one would type it after ``cafe``."""
        for command in commands:
            self.cafe(*shlex.split(command))

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


# ---------------------------------------------------------------------------------------------- inputs


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
    """Write two classes of pictures in every mode that has a rule of its own, and some that are none."""
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


# ---------------------------------------------------------------------------------------------- scenes

SCENES: dict[str, tuple[int, Callable[[Desk], None]]] = {}


def scene(process: int) -> Callable[[Callable[[Desk], None]], Callable[[Desk], None]]:
    """Take a function as a scene, run in the first or the second process."""

    def take(function: Callable[[Desk], None]) -> Callable[[Desk], None]:
        SCENES[function.__name__.replace("_", "-")] = (process, function)
        return function

    return take


LISTS = ("datasets", "methods", "models", "suites", "templates")
VERBS = (
    "", "demo", "extract", "fit", "compare", "predict", *LISTS, "cache", "cache import", "cache merge", "cache export",
    "cache ls", "cache info", "cache verify", "cache rm",
)  # fmt: skip


@scene(1)
def lists(desk: Desk) -> None:
    """Help of every verb, and what there is by name."""
    for verb in VERBS:
        desk.cafe(*verb.split(), "--help")
    desk.cafe("fit", "--help", COLUMNS="60")
    desk.all("", "cache", "-h", "--version", "fit -h")
    for verb in LISTS:
        desk.all(verb, f"{verb} --json", f"{verb} --quiet", f"{verb} --cache-dir elsewhere --json -q")
    (desk.inputs / "data" / "eurosat").mkdir(parents=True)
    desk.all("datasets --root inputs/data", "datasets --root inputs/data --json", "datasets --root inputs/nowhere")
    desk.cafe("datasets", CAFE_DATA="inputs/data")


@scene(1)
def program(desk: Desk) -> None:
    """The program as a shell starts it: exit codes, completion, and that nothing heavy is imported unasked."""
    desk.program("--version")
    desk.program()
    desk.program("cache", "ls")
    desk.program("cache", "ls", CAFE_CACHE="", XDG_CACHE_HOME=str(desk.here / "xdg"))
    desk.program("cache", "ls", CAFE_CACHE="", XDG_CACHE_HOME="", HOME=str(desk.here / "home"))
    desk.program("comapre")
    desk.program("fit", "--shots", "2")
    desk.program("fit", "--shots", "2", CAFE_DEBUG="1")
    desk.program("methods", "--json", start=("-c", "from cafe.cli.app import main; main()"))
    for typed in ("cafe fit --method c", "cafe extract --dataset im", "cafe compare b", "cafe c", "cafe cache "):
        count = str(len(typed.split()) - (not typed.endswith(" ")))
        desk.program(_CAFE_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=count)
    heavy = ["numpy", "scipy", "sklearn", "torch", "transformers", "h5py", "matplotlib", "PIL", "pandas", "ray"]
    after = f"import sys; print([name for name in {heavy} if name in sys.modules])"
    light = ("import cafe", "import cafe.cache", "import cafe; dir(cafe)", "import cafe; cafe.CLIPAdapter")
    calls = ("call(['fit', '--help'])", "call(['methods', '-q'])", "call(['cache', 'ls'])", "call(['fit'])")
    for code in (*light, *(f"from cafe.cli.app import call; {one}" for one in calls)):
        desk.program(start=("-c", f"{code}; {after}"))


@scene(1)
def fit(desk: Desk) -> None:
    """Every method, every variant and ratio, settings, and policies of selection."""
    desk.digits()
    for method in desk.cafe("methods", "--json").names("methods"):
        short = ["--set", "epochs=1", "--set", "n_context=2"] if method == "coop" else []
        desk.cafe("fit", "--method", method, "--shots", 2, "--out", f"out/{method}", "--json", *short)
    desk.all(
        "fit --shots 1", "fit --shots 1 --seed 2 --quiet", "fit --shots 1", "fit --method zero-shot",
        "fit --method zero-shot --shots 4 --json", "fit --method linear-probe --set C=1",
        "fit --cache digits --shots 50 --json",
        "fit --cache caches/digits--cafe-mini.h5 --shots 4 --seed 3 --json --device cpu",
        "fit --cache digits--cafe-mini --shots 4 --cache-dir caches --out out/again",
        "fit --cache digits--cafe-mini --shots 2 --cache-dir caches --out out/again",
    )  # fmt: skip
    for side, option in (("image", "alpha"), ("text", "beta")):
        for value in ("0", "0.2", "1", "auto", "learned", "scalar"):
            desk.all(f"fit --variant {side} --{option} {value} --shots 2 --out out/{side}-{value} --json")
    for pair in ("0.2 0.6", "auto auto", "learned learned", "scalar scalar", "auto 0.2", "learned scalar", "0 0"):
        alpha, beta = pair.split()
        desk.all(f"fit --variant both --alpha {alpha} --beta {beta} --shots 2 --out 'out/both-{pair}' --json")
    desk.all("fit --variant both --alpha auto --beta auto --shots 4", "fit --variant text --shots 1")
    changed = (
        "form=released", "epochs=3", "optimizer=sgd", "normalize=false", "kernel=reference", "kernel=cpu",
        "batch_size=8", "weight_decay=0.1", "logit_scale=20", "lr=0.01",
    )  # fmt: skip
    for setting in changed:
        desk.all(f"fit --shots 4 --set {setting} --json")
    desk.all("fit --shots 2 --set form=released --set epochs=5 --reduction 2 --json")
    for dtype in ("float32", "float64", "bfloat16"):
        desk.all(f"fit --shots 2 --dtype {dtype} --json --out out/{dtype}")
    more = (
        "linear-probe --set C=0.5", "linear-probe --set solver=scikit-learn --set C=1", "linear-probe --set C=auto",
        "gda --alpha auto", "gda --set shrinkage=auto", "lp++ --set iterations=auto", "lp++ --set form=released",
        "tip-adapter-f --alpha auto --beta auto", "ape --alpha auto --beta auto --set gamma=auto",
        "cross-modal-linear-probe --set lr=auto", "trans-clip --set gamma=auto", "trans-clip --set setting=zero-shot",
        "prolip --set strength=auto", "task-res --alpha auto", "zs-lp --set lr=auto", "ape-t --set epochs=2",
        "coop --set epochs=1 --set class_specific=true --set class_token=middle",
        "coop --set epochs=1 --set 'context_init=a photo of a'", "auto --set folds=2",
    )  # fmt: skip
    for words in more:
        desk.all(f"fit --method {words} --shots 2 --json")
    for policy in ("auto", "fixed", "few-shot-val", "cross-validation", "oracle-test"):
        desk.all(
            f"fit --method tip-adapter --alpha auto --beta auto --shots 2 --selection {policy}",
            f"fit --variant image --alpha auto --shots 2 --selection {policy} --json",
        )
    desk.all(
        "fit --method linear-probe --shots 1 --selection cross-validation",
        "fit --method tip-adapter --alpha auto --shots 1 --selection cross-validation --quiet",
    )


@scene(1)
def compare(desk: Desk) -> None:
    """Every suite, with everything that its report holds."""
    digits = desk.digits()
    desk.cafe("cache", "export", digits, "--out", "inputs/exported.npz")
    moved = arrays_of(desk.inputs / "exported.npz")
    for name in list(moved):
        if "image_features" in name:
            noise = np.random.default_rng(len(name)).standard_normal(moved[name].shape)
            moved[name] = (moved[name] + 0.3 * np.abs(moved[name]).mean() * noise).astype(moved[name].dtype)
    np.savez(desk.inputs / "moved.npz", **moved)
    desk.all("cache import inputs/moved.npz --name moved --model cafe:mini --json")
    grid = "--shots 1,2 --seeds 1,2"
    wishes = {
        "methods": "--shots 2 --seeds 1",
        "shift": "--shots 2 --seed 1 --cache caches/digits--cafe-mini.h5,caches/moved--cafe-mini.h5",
        "base-to-new": "--shots 2 --seed 1 --cache digits",
        "variants": "--shots 1 --seeds 1,2 --cache digits",
        "alpha": f"{grid} --values 0,0.2,1 --cache digits",
        "manifold": "--shots 2 --seeds 1,2 --cache digits",
    }
    for suite in desk.cafe("suites", "--json").names("suites"):
        desk.all(f"compare {suite} --out out/{suite} {wishes.get(suite, f'{grid} --cache digits')}")
    desk.all(
        "compare baselines --cache digits --shots 1 --seed 3 --json",
        "compare baselines --cache digits --shots 1 --seed 3 --quiet",
        "compare baselines --cache digits,moved --shots 1 --seeds 1,2,3 --methods zero-shot,clip-adapter",
        "compare baselines --cache digits --shots 1 --shots 2 --seed 1 --methods tip-adapter --selection oracle-test",
        "compare baselines --cache digits --shots 2 --seed 1 --methods tip-adapter --selection cross-validation --json",
        "compare baselines --cache moved --shots 2 --seed 1 --methods clip-adapter --selection fixed --dtype float64",
        "compare baselines --cache moved --shots 2 --seed 1 --methods linear-probe --selection fixed",
        "compare bottleneck --cache digits --shots 2 --seed 1 --values 1,8 --json --out out/bottleneck",
        "compare alpha --cache digits --shots 2 --seeds 1,2 --json",
        "compare shots --cache digits --shots 1,4 --seed 1 --methods clip-adapter --dtype float32 --device cpu",
        "compare methods --cache moved --shots 1 --seed 1 --methods gda,zero-shot,lp++,coop --include coop",
        "compare paper --cache digits,moved --shots 1 --seeds 1,2 --json",
        "compare variants --cache digits --shots 1 --seed 1 --json",
        "compare base-to-new --cache digits --shots 1 --seed 1 --methods zero-shot,clip-adapter --json",
    )  # fmt: skip


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an exported cache, without the text that says when the cache was made.

    What is imported has the hash of its file in its fingerprint, so that no date may be in there.
    """
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files if arrays[name].ndim}


@scene(1)
def cache(desk: Desk) -> None:
    """Caches: listed, described, checked, imported, joined, exported and removed; and one of an older format."""
    desk.all("cache ls", "cache ls --json", "cache ls -q", "cache info", "cache verify", "cache export --out a.npz")
    digits = desk.digits()
    for verb in ("ls", "info", "verify"):
        desk.all(f"cache {verb}", f"cache {verb} --json", f"cache {verb} --quiet")
    desk.all("cache info digits", "cache info digits--cafe-mini.h5 -q", "cache verify caches/digits--cafe-mini.h5")
    desk.all("datasets", "datasets --json", "models", "models --json", "cache ls --cache-dir caches")
    old_format(desk)
    exporting(desk)
    importing(desk)
    joining(desk)
    damaging(desk, digits)
    desk.all(
        "cache rm", "cache rm digits", "cache rm nothing --yes", "cache rm photos nothing --yes", "cache ls --json"
    )
    desk.all("cache rm photos --yes", "cache rm photos-again -y --json", "cache rm caches/old.h5 --yes -q", "cache ls")


def old_format(desk: Desk) -> None:
    """Read the cache of format version 1 that the tests keep, and learn from it."""
    found = [path for root in (HERE.parents[1], desk.code) for path in sorted(root.glob("tests/**/format-1.h5"))]
    if not found:
        desk.write("old-format", "there is no format-1.h5 below tests\n")
        return
    shutil.copy(found[0], desk.caches / "old.h5")
    desk.all(
        "cache info old", "cache info old --json", "cache verify old", "cache ls", "cache export old --out old.npz",
        "fit --cache old --shots 1", "fit --cache old --method zero-shot --json",
        "cache export old --out old.safetensors", "compare baselines --cache old --shots 1 --seed 1",
        "fit --cache pets --method linear-probe --set C=1 --json",
    )  # fmt: skip


def exporting(desk: Desk) -> None:
    """Export in each format, by suffix and by name."""
    desk.all("cache export digits --out out/all.npz", "cache export digits --format npz", "cache export digits")
    desk.all("cache export digits --format npz", "cache export digits --format npz --force --json")
    desk.all("cache export digits --out out/all.safetensors", "cache export digits --out out/all.txt")
    desk.all("cache export digits --out out/all.dat --format safetensors -q", "cache export --out out/newest.npz")
    if has("pyarrow"):
        desk.all("cache export digits --out out/all.parquet --json", "cache export digits --out out/all.parquet")


def importing(desk: Desk) -> None:
    """Import every layout, by its own name and found out."""
    import torch
    from safetensors.numpy import save_file

    inputs, splits = desk.inputs, foreign_splits()
    text = np.random.default_rng(3).standard_normal((4, 16)).astype(np.float32)
    names = "cat\nhot dog\ncow\nzebra\n"
    (inputs / "names.txt").write_text(names)
    (inputs / "names.json").write_text(json.dumps(names.split("\n")[:4]))
    np.save(inputs / "text.npy", text)
    save_npz(inputs / "plain.npz")
    save_npz(inputs / "whole.npz", text_features=text, class_names=np.array(names.split("\n")[:4]))
    shots = {f"features_{k}shot": foreign_features(4 * k, 10 + k)[0] for k in (1, 2, 4)}
    np.savez(inputs / "shots.npz", **shots, **{f"labels_{k}shot": np.arange(4 * k) % 4 for k in (1, 2, 4)})
    flat = {f"{split}_{name}": array for split, pair in splits.items() for name, array in zip("Xy", pair, strict=True)}
    save_file(flat, inputs / "flat.safetensors")
    for folder in ("clip_benchmark", "tip_adapter", "coop", "arrays"):
        (inputs / folder).mkdir()
    for split, (rows, labels) in splits.items():
        torch.save(torch.from_numpy(rows), inputs / "clip_benchmark" / f"features_{split}.pt")
        torch.save(torch.from_numpy(labels), inputs / "clip_benchmark" / f"targets_{split}.pt")
        np.savez(inputs / "coop" / f"{split}.npz", feature_list=rows.tolist(), label_list=labels.tolist())
        np.save(inputs / "arrays" / f"{split}_features.npy", 3 * rows)
        np.save(inputs / "arrays" / f"{split}_labels.npy", np.array(["b", "a", "d", "c"])[labels])
        if split != "train":
            torch.save(torch.from_numpy(rows).half(), inputs / "tip_adapter" / f"{split}_f.pt")
            torch.save(torch.from_numpy(labels), inputs / "tip_adapter" / f"{split}_l.pt")
    for k in (2, 4):
        rows, labels = (torch.from_numpy(array[: 4 * k]) for array in splits["train"])
        torch.save(rows.half().T, inputs / "tip_adapter" / f"keys_{k}shots.pt")
        torch.save(torch.nn.functional.one_hot(labels, 4).half(), inputs / "tip_adapter" / f"values_{k}shots.pt")
    if (desk.here / "out" / "all.npz").exists():
        np.savez(inputs / "exported.npz", **arrays_of(desk.here / "out" / "all.npz"))
    desk.all(
        "cache import inputs/whole.npz --name photos --model ViT-B/32", "cache info photos", "cache verify photos",
        "cache import inputs/whole.npz --name photos --model ViT-B/32 --json", "fit --cache photos --shots 2 --json",
        "cache import inputs/plain.npz --name photos --model ViT-B/32", "compare baselines --cache photos --shots 1,2",
        "cache import inputs/plain.npz --name photos --model ViT-B/32 --force", "fit --cache photos --shots 2",
        "cache import inputs/plain.npz --name photos-again --class-names inputs/names.txt "
        "--text-features inputs/text.npy --logit-scale 50 --json",
        "cache import inputs/plain.npz --name named --class-names inputs/names.json -q",
        "cache import inputs/shots.npz",
        "cache import inputs/shots.npz --train 4shot --test 1shot,2shot --force --json",
        "cache import inputs/shots.npz --train 4shot --test 2shots --out x.h5",
        "cache import inputs/plain.npz --drop-similar 0.9 --out out/dropped.h5 --json",
        "cache import inputs/flat.safetensors --json", "cache import inputs/clip_benchmark",
        "cache import inputs/tip_adapter --class-names inputs/names.txt --json",
        "cache import inputs/tip_adapter --train keys_2shots --out out/two.h5", "cache import inputs/coop --json",
        "cache import inputs/arrays --json", "cache import inputs/arrays --format coop --out x.h5",
        "cache import inputs/plain.npz --format clip_benchmark", "cache import inputs", "cache import inputs/nothing",
        "cache import inputs/exported.npz --name digits-again --json", "compare shots --cache digits-again --shots 1",
        "compare baselines --cache photos-again --shots 1,2 --seed 1", "fit --cache arrays --method gda --json",
        "predict --run photos-ViT-B-32-clip-adapter-image-2-shot-seed-1 inputs",
    )  # fmt: skip
    if has("pyarrow"):
        import pyarrow
        from pyarrow import parquet

        for split, (rows, labels) in splits.items():
            folder = inputs / "clip_retrieval" / split
            for kind in ("img_emb", "metadata"):
                (folder / kind).mkdir(parents=True)
            np.save(folder / "img_emb" / "img_emb_0.npy", rows.astype(np.float16))
            paths = [f"/photos/class {label}/{split}{row}.jpg" for row, label in enumerate(labels)]
            table = pyarrow.table({"image_path": paths, "kind": [f"kind {label}" for label in labels]})
            parquet.write_table(table, folder / "metadata" / "metadata_0.parquet")
        desk.all(
            "cache import inputs/clip_retrieval --json", "cache import inputs/clip_retrieval --label-column king",
            "cache import inputs/clip_retrieval --label-column kind --out out/kinds.h5",
            "cache import inputs/clip_retrieval/test --split test --out out/test-alone.h5",
        )  # fmt: skip


def joining(desk: Desk) -> None:
    """Join caches of different splits, and refuse those that do not belong together."""
    desk.all(
        "extract --dataset digits --splits train --out parts/train.h5 -q",
        "extract --dataset digits --splits val,test --out parts/rest.h5 --json",
        "cache merge parts/train.h5 parts/rest.h5 --out parts/all.h5", "cache verify parts/all.h5",
        "cache merge parts/train.h5 parts/rest.h5 --out parts/all-again.h5 --json", "cache info parts/all.h5 --json",
        "cache merge parts/train.h5 parts/train.h5 --out parts/x.h5", "cache merge parts/train.h5 --out parts/x.h5",
        "cache merge parts/rest.h5 photos --out parts/x.h5", "cache merge parts/rest.h5 nothing --out parts/x.h5",
    )  # fmt: skip


def damaging(desk: Desk, digits: Path) -> None:
    """Damage copies of a cache as disks and people do."""
    import h5py

    folder = desk.here / "damaged"
    folder.mkdir()
    (folder / "cut.h5").write_bytes(digits.read_bytes()[:2000])
    (folder / "text.h5").write_text("not HDF5 at all")
    with h5py.File(folder / "foreign.h5", "w") as file:
        file["weights"] = [1, 2, 3]
    shutil.copy(digits, folder / "changed.h5")
    with h5py.File(folder / "changed.h5", "r+") as file:
        file["splits/test/image_features"][0, 0] = 1
    shutil.copy(digits, folder / "newer.h5")
    with h5py.File(folder / "newer.h5", "r+") as file:
        file.attrs["format_version"] = 99
    desk.all("cache ls --cache-dir damaged", "cache ls --cache-dir damaged --json")
    for name in ("cut", "text", "foreign", "changed", "newer", "missing"):
        path = f"damaged/{name}.h5"
        desk.all(f"cache info {path}", f"cache verify {path}", f"cache verify {path} --json")
        if name != "changed":
            desk.all(
                f"fit --cache {path}", f"compare baselines --cache {path}", f"extract --dataset digits --out {path}"
            )
    desk.all("cache rm --cache-dir damaged text --yes", "cache ls --cache-dir damaged -q")


@scene(1)
def errors(desk: Desk) -> None:
    """Wrong names, wrong numbers, missing files: one sentence each."""
    desk.all("fit", "compare baselines", "cache info", "cache verify", "fit --cache nothing", "predict x --run y")
    digits = desk.digits()
    photographs(desk.inputs / "photos", ["cat", "dog"], 5)
    photographs(desk.inputs / "single", ["cat"], 5)
    photographs(desk.inputs / "hollow", ["cat", "dog"], 5)
    (desk.inputs / "hollow" / "fish").mkdir()
    (desk.inputs / "empty").mkdir()
    (desk.inputs / "names.txt").write_text("only one\n")
    (desk.inputs / "templates.txt").write_text("a photo of a {}.\na photo of nothing\n")
    (desk.inputs / "prompts.json").write_text(json.dumps({"zero": ["the digit zero"]}))
    (desk.inputs / "broken.json").write_text("{")
    (desk.inputs / "table.csv").write_text("file_name,label\nphotos/cat/0.png,cat\nphotos/cat/9.png,dog\n")
    (desk.inputs / "strange.csv").write_text("one,two\n1,2\n")
    (desk.here / "taken").mkdir()
    (desk.here / "taken" / "mine.txt").write_text("mine")
    verbs = (
        "comapre", "cache verfy", "fit --shot 4", "fit --shots", "fit --shots few", "fit 4", "extract", "predict",
        "compare", "cache import", "cache merge a b", "--verbose", "fit --json=yes", "cache rm", "methods extra",
    )  # fmt: skip
    extract = (
        "inputs/nowhere", "digit", "inputs/single", "inputs/hollow", "inputs/empty", "inputs/names.txt", "caltech101",
        "caltech101 --root inputs", "caltech101 --root inputs/nowhere", "inputs/table.csv", "inputs/strange.csv",
        "inputs/strange.csv?path=one", "inputs/broken.json", "inputs/photos --model cafe:mimi", "hf:", "",
        "inputs/photos --model inputs/photos", "inputs/photos --model inputs/nowhere", "inputs/photos --model a/b/c",
        "inputs/photos --model nobody/no-such-model", "digits --model cafe:mini,cafe:mini",
        "digits --model cafe:mini,inputs/photos --out x.h5", "digits --splits train,valid", "digits --splits ,",
        "digits --templates inputs/templates.txt", "digits --templates 'a photo'", "digits --templates nothing.txt",
        "digits --class-names inputs/names.txt", "digits --class-names inputs/nothing.txt",
        "digits --prompts inputs/prompts.json", "digits --prompts inputs/broken.json", "digits --prompts inputs/none",
        "digits --views -1", "digits --views many", "digits --views 1 --splits test", "digits --seeds 1",
        "digits --shots 0", "digits --shots x", "digits --shots 1 --seeds -1", "digits --batch-size 0",
        "digits --workers many", "digits --workers -1", "digits --decoder jpeg", "digits --engine rai",
        "digits --ray-address auto", "digits --stored-dtype int8", "digits --on-error ignore", "digits --device gpu",
        "digits --device cuda:7", "digits --dtype float8", "digits --out taken", "digits --out inputs/names.txt",
        "digits --out inputs/names.txt/x.h5", "inputs/photos --out caches/digits--cafe-mini.h5",
        "inputs/photos --splits val --out caches/digits--cafe-mini.h5 --on-error fail",
    )  # fmt: skip
    fitting = (
        "--method clipadapter", "--alpha high", "--alpha 1.5", "--alpha -0.1", "--alpha nan", "--variant images",
        "--variant text --alpha 0.2", "--beta 0.2", "--method zero-shot --reduction 4", "--reduction 0", "--shots 0",
        "--reduction 1000", "--seed -1", "--selection best", "--device gpu", "--device mps", "--dtype tf32",
        "--dtype int8", "--method gda --dtype float64", "--method gda --device cpu", "--set form", "--set form=x",
        "--set alpha=1", "--set class_names=x", "--set epochs=many", "--set epochs=-1", "--set epochs=1 --set epochs=2",
        "--set nothing=1", "--set random_state=1", "--set kernel=triton", "--set optimizer=lion", "--out taken",
        "--out taken/mine.txt", "--out taken/mine.txt/run", "--cache taken/mine.txt", "--cache inputs", "--cache digit",
        "--method linear-probe --set C=0", "--method coop --set n_context=0", "--method tip-adapter --alpha high",
        "--method linear-probe --selection cross-validation --shots 1 --set C=auto", "--method prolip --set steps=0",
    )  # fmt: skip
    comparing = (
        "baseline", "baselines --methods zeroshot", "baselines --methods gda", "baselines --include cop",
        "baselines --shots 1,x", "baselines --shots 0", "baselines --seeds -1", "baselines --seeds 1 --seed 2",
        "alpha --values high", "alpha --values 2", "bottleneck --values 0", "bottleneck --values 1.5",
        "baselines --cache digits,digits", "baselines --cache digits,nothing", "shift", "baselines --out taken",
        "baselines --selection best", "baselines --device gpu",
        "baselines --dtype tf32 --shots 1 --methods clip-adapter", "baselines --out taken/mine.txt",
    )  # fmt: skip
    desk.all(*verbs, *(f"extract --dataset {words or repr('')}" for words in extract))
    desk.all(*(f"fit {words}" for words in fitting), *(f"compare {words}" for words in comparing))
    desk.all("fit --shots 1 --out run -q", "predict --run run inputs/empty", "predict --run run inputs/nowhere")
    desk.all("predict --run nothing inputs/photos", "predict --run taken inputs/photos", "predict --run run x.jpg")
    desk.all("predict --run run inputs/photos --top 0", "predict --run run inputs/photos --top all", "predict x")
    desk.all("predict --run run inputs/photos --model cafe:mimi", "predict --run run inputs/photos --device gpu")
    for name, text in (
        ("newer", '{"run_version": 99}'),
        ("list", "[]"),
        ("broken", "{"),
        ("bare", '{"run_version": 1}'),
    ):
        (desk.here / name).mkdir()
        (desk.here / name / "run.json").write_text(text)
        desk.all(f"predict --run {name} inputs/photos")
    (desk.here / "run" / "model.safetensors").write_bytes(b"broken")
    desk.all("predict --run run inputs/photos")
    desk.cafe("fit", "--alpha", "high", CAFE_DEBUG="1")
    desk.cafe("fit", "--cache", digits, "--method", "gda", "--shots", "1", "--json", "--out", digits)


@scene(1)
def python(desk: Desk) -> None:
    """The Python face: public names with their signatures, and what calls return."""
    cache = desk.digits()
    desk.cafe("fit", "--shots", 2, "--out", "run", "--quiet")
    cafe, module = importlib.import_module("cafe"), importlib.import_module("cafe.cache")
    desk.write("names", "\n".join([str(cafe.__doc__), *public_names(cafe)]) + "\n")
    desk.write("names-of-cache", "\n".join([str(module.__doc__), *public_names(module)]) + "\n")
    sections = (
        features_in_python, draws_in_python, adapter_in_python, methods_in_python, grid_in_python, runs_in_python,
        caches_in_python, documented_in_python, named_in_python,
    )  # fmt: skip
    for section in sections:
        lines: list[str] = []
        with captured(desk.work) as said, warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                section(cafe, cache, lines.append)
            except Exception as error:
                lines.append(f"raised {described_error(error)}")
        told = (f"{type(one.message).__name__}: {one.message}" for one in warned if told_to_users(one.category))
        lines += [*(f"warned {text}" for text in told), "--- stdout", said[0], "--- stderr", said[1]]
        desk.write(section.__name__.replace("_", "-"), "\n".join(lines) + "\n")


def told_to_users(category: type[Warning]) -> bool:
    """Return whether a warning is about the user's data; those among libraries are not."""
    return issubclass(category, UserWarning)


def described_error(error: BaseException) -> str:
    """Return the type of an error, the public types that it also is, and what it says."""
    also = [kind.__name__ for kind in type(error).__mro__[1:-1]]
    return f"{type(error).__name__} ({', '.join(also)}): {error}"


def attempt(tell: Callable[[str], None], name: str, call: Callable[[], Any]) -> Any:
    """Make a call and tell what it returned or raised."""
    try:
        value = call()
    except Exception as error:
        tell(f"{name} raised {described_error(error)}")
        return None
    tell(f"{name} = {described_array(value) if isinstance(value, np.ndarray) else repr(value)}")
    return value


def public_names(module: ModuleType) -> list[str]:
    """Describe every public name of a module: functions and classes of the package, no modules, nothing imported."""
    lines = []
    for name in sorted(dir(module)):
        if name.startswith("_"):
            continue
        try:
            value = getattr(module, name)
        except Exception as error:
            lines.append(f"{name} raises {described_error(error)}")
            continue
        if inspect.ismodule(value) or not str(getattr(value, "__module__", "")).startswith("cafe"):
            continue
        lines.append(f"{name}{signature_of(value)}: {first_line(value)}")
        if inspect.isclass(value):
            lines += members_of(value)
    return lines


def members_of(kind: type) -> list[str]:
    """Describe the public members of a class, inherited or not, and what it is beside the package's own bases."""
    lines = [f"    is a {', '.join(base.__name__ for base in kind.__mro__ if not base.__module__.startswith('cafe'))}"]
    for name in sorted(dir(kind)):
        if name.startswith("_") or hasattr(object, name):
            continue
        member = inspect.getattr_static(kind, name)
        if callable(getattr(kind, name)):
            lines.append(f"    .{name}{signature_of(getattr(kind, name))}: {first_line(getattr(kind, name))}")
        else:
            shown = type(member).__name__ if hasattr(member, "__get__") else repr(member)
            lines.append(f"    .{name} {shown}")
    return lines


def signature_of(value: Any) -> str:
    """Return a signature, or nothing where there is none."""
    try:
        return str(inspect.signature(value))
    except (TypeError, ValueError):
        return ""


def first_line(value: Any) -> str:
    """Return the first line of a docstring."""
    return (inspect.getdoc(value) or "").partition("\n")[0]


def features_in_python(cafe: Any, cache: Path, tell: Callable[[str], None]) -> None:
    """Load a cache, whole and mapped."""
    for memmap in (False, True, "auto"):
        features = cafe.load_features(cache, memmap=memmap)
        for name, split in features.splits.items():
            for array in ("image_features", "labels", "sample_ids", "view_features", "projection_features"):
                tell(f"{memmap} {name} {array} {described_array(getattr(split, array))}")
            tell(f"{len(split)} rows; taken: {described_array(split.take(np.array([3, 1])).image_features)}")
        for name in ("text_features", "class_embeddings", "projection", "prompt_features", "prompt_classes"):
            tell(f"{name} {described_array(getattr(features, name))}")
        tell(f"{features.class_names} {features.templates} {features.logit_scale!r} {features.logit_bias!r}")
        tell(json.dumps(dict(features.provenance), indent=1, sort_keys=True))
    attempt(tell, "no such split", lambda: features.split("valid"))
    attempt(tell, "no such file", lambda: cafe.load_features("nothing.h5"))
    attempt(tell, "no features", lambda: cafe.Features({}, ("a", "b"), np.zeros((2, 2))))
    attempt(tell, "no such name", lambda: cafe.Nothing)


def draws_in_python(cafe: Any, cache: Path, tell: Callable[[str], None]) -> None:
    """Draw few shots, and fail to."""
    features = cafe.load_features(cache)
    train, val = features.split("train").labels, features.split("val").labels
    for shots in (1, 4, 16, 100):
        for seed in (0, 1, 2, 3):
            rows, own = cafe.draw_few_shot(train, val, shots, seed, features.class_names)
            tell(f"{shots} shots, seed {seed}: {rows[:20].tolist()} {described_array(rows)} {described_array(own)}")
    for arguments in (([], None, 1, 1), ([1.5], None, 1, 1), ([0, 1], None, 0, 1), ([0, 1], None, 1, -1)):
        attempt(tell, f"draw_few_shot{arguments}", lambda arguments=arguments: cafe.draw_few_shot(*arguments))


def few_rows(cafe: Any, cache: Path, shots: int = 2) -> tuple[Any, Any, Any, Any, Any]:
    """Return features, rows and labels of one draw, and test rows and labels."""
    features = cafe.load_features(cache)
    train, test = features.split("train"), features.split("test")
    rows, _ = cafe.draw_few_shot(train.labels, features.split("val").labels, shots, 1)
    return features, train.image_features[rows], train.labels[rows], test.image_features, test.labels


def adapter_in_python(cafe: Any, cache: Path, tell: Callable[[str], None]) -> None:
    """Use CLIP-Adapter as the README does, and as scikit-learn does."""
    from sklearn.base import clone

    features, X, y, test, labels = few_rows(cafe, cache)
    model = cafe.CLIPAdapter(features.class_embeddings, variant="image", alpha=0.2, random_state=1)
    tell(f"score {model.fit(X, y).score(test, labels)!r}")
    tell(f"probabilities {model.predict_proba(test[:5]).round(6).tolist()}")
    tell(f"decision {model.decision_function(test[:2]).tolist()}")
    both = cafe.CLIPAdapter(features.class_embeddings, variant="both", alpha=0.3, beta=0.6, random_state=2, epochs=5)
    tell(f"both {described_array(both.fit(X, y).predict_proba(test))} {described_array(both.adapt(test))}")
    tell(f"clone {described_array(clone(both).fit(X, y).predict_proba(test))}")
    named = cafe.CLIPAdapter(features.class_embeddings, classes=list(features.class_names), random_state=1)
    words = np.array(features.class_names)[y]
    tell(f"named {named.fit(X, words).predict(test[:20]).tolist()}")
    bare = cafe.CLIPAdapter(random_state=1).fit(X.astype(np.float64), y)
    tell(f"without text {described_array(bare.predict_proba(test))}")
    tell(f"other classes {described_array(both.for_classes(features.class_embeddings[:4]).predict_proba(test))}")
    attempt(tell, "not fitted", lambda: cafe.CLIPAdapter(features.class_embeddings).predict(test))
    attempt(tell, "wrong width", lambda: model.predict(test[:, :5]))
    attempt(tell, "wrong labels", lambda: cafe.CLIPAdapter(features.class_embeddings).fit(X, y + 5))
    attempt(tell, "wrong ratio", lambda: cafe.CLIPAdapter(features.class_embeddings, alpha=2).fit(X, y))
    attempt(tell, "wrong variant", lambda: cafe.CLIPAdapter(features.class_embeddings, variant="side").fit(X, y))


def estimators(cafe: Any) -> Iterator[tuple[str, type]]:
    """Yield every public class that can be fitted."""
    for name in dir(cafe):
        kind = getattr(cafe, name)
        if inspect.isclass(kind) and hasattr(kind, "fit"):
            yield name, kind


def methods_in_python(cafe: Any, cache: Path, tell: Callable[[str], None]) -> None:
    """Fit every method on two shots, and tell everything that it learned."""
    features, X, y, test, labels = few_rows(cafe, cache)
    more = {"class_names": list(features.class_names), "text_tower": "cafe:mini", "n_context": 2, "random_state": 1}
    for name, kind in estimators(cafe):
        known = inspect.signature(kind).parameters
        own = {key: value for key, value in more.items() if key in known}
        if name == "CoOp":
            own["epochs"] = 1
        model = kind(class_embeddings=features.class_embeddings, logit_scale=features.logit_scale, **own)
        tell(f"\n{name}: {kind().get_params()}\ngrid {kind.grid}")
        if attempt(tell, "fit", lambda model=model: type(model.fit(X, y)).__name__) is None:
            continue
        for key, value in sorted(vars(model).items()):
            if key.endswith("_") and not key.startswith("_"):
                tell(f"  {key} {described_array(value) if isinstance(value, np.ndarray) else shown(value)}")
        for call in ("predict", "predict_proba", "decision_function"):
            attempt(tell, f"  {call}", lambda model=model, call=call: getattr(model, call)(test))
        attempt(tell, "  score", lambda model=model: model.score(test, labels))
        attempt(tell, "  for_classes", lambda model=model: type(model.for_classes(features.class_embeddings)).__name__)
        bare = kind(**own)
        attempt(tell, "  without text", lambda bare=bare: bare.fit(X, y).predict_proba(test))


def shown(value: Any) -> str:
    """Return how an object prints, without its address in memory; arrays within it as hashes."""
    if isinstance(value, dict):
        return str({key: shown(one) for key, one in value.items()})
    if isinstance(value, list | tuple):
        return str([shown(one) for one in value])
    return described_array(value) if isinstance(value, np.ndarray) else re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def grid_in_python(cafe: Any, cache: Path, tell: Callable[[str], None]) -> None:
    """Fit many at once: different methods, parameters and rows."""
    features, X, y, test, _ = few_rows(cafe, cache, shots=4)
    text, halves = features.class_embeddings, [np.arange(0, len(y), 2), np.arange(1, len(y), 2)]
    wishes = [
        *(cafe.CLIPAdapter(text, alpha=alpha, random_state=seed) for alpha in (0.2, 0.6) for seed in (1, 2)),
        cafe.CLIPAdapter(text, variant="both", alpha="learned", beta="scalar", random_state=1),
        cafe.TipAdapter(text), cafe.LinearProbe(text, C=1.0), cafe.LinearProbe(text, C=0.1), cafe.ZeroShot(text),
        cafe.TipAdapterF(text, random_state=1, epochs=3),
    ]  # fmt: skip
    fits = cafe.fit_many(X, y, wishes)
    fits += cafe.fit_many(X, y, wishes[:2] + wishes[5:7], [*halves, *halves])
    for model in fits:
        tell(f"{model!r}\nprobabilities {described_array(model.predict_proba(test))}")
    attempt(tell, "nothing", lambda: cafe.fit_many(X, y, []))


def runs_in_python(cafe: Any, cache: Path, tell: Callable[[str], None]) -> None:
    """Load what ``cafe fit`` saved."""
    _, _, _, test, labels = few_rows(cafe, cache)
    model = cafe.load("run")
    tell(f"{type(model).__name__} {model.score(test, labels)!r} {described_array(model.predict_proba(test))}")
    tell(json.dumps(model.run_, indent=1, sort_keys=True))
    attempt(tell, "no run", lambda: cafe.load("nothing"))


def caches_in_python(cafe: Any, cache: Path, tell: Callable[[str], None]) -> None:
    """Find, list and check caches; the public names of ``cafe.cache`` beside extraction."""
    import cafe.cache as caches

    folder = cache.parent
    attempt(tell, "cache_dir", lambda: caches.cache_dir())
    attempt(tell, "cache_path", lambda: caches.cache_path(folder, "my photos", "openai/clip"))
    for name in (None, "digits", "digits--cafe-mini.h5", str(cache), cache, "nothing", "a/b.h5"):
        attempt(tell, f"find_cache {name}", lambda name=name: caches.find_cache(name, folder))
    attempt(tell, "list_caches", lambda: caches.list_caches(folder))
    attempt(tell, "summarise", lambda: json.dumps(caches.summarise(cache).to_json()))
    attempt(tell, "verify_cache", lambda: caches.verify_cache(cache))
    attempt(tell, "nothing", lambda: caches.summarise(folder / "nothing.h5"))
    for name in ("load_features", "write_cache"):
        attempt(tell, f"cafe.cache.{name}", lambda name=name: getattr(caches, name).__name__)
    from_loader = attempt(tell, "load", lambda: described_array(caches.load_features(cache).split("val").labels))
    if from_loader is not None:
        written_to = folder / "written.h5"
        attempt(tell, "write", lambda: caches.write_cache(written_to, caches.load_features(cache)))


def documented_in_python(cafe: Any, cache: Path, tell: Callable[[str], None]) -> None:
    """What the pages of ``docs/`` import beyond the public names: images in memory, and a comparison."""
    from cafe.cache import extract
    from cafe.compare import compare as compare_methods
    from cafe.data import from_arrays
    from cafe.encoders import open_encoder

    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    dataset = from_arrays(images, labels=[0, 1] * 10, class_names=["cat", "hot dog"])
    states: list[Any] = []
    summary = extract(dataset, open_encoder("cafe:mini"), "arrays.h5", progress=states.append)
    tell(json.dumps(summary.to_json()))
    # Rates aside; the stages and counts are what a caller's progress bar shows.
    tell("\n".join(f"{one.stage} {one.split} {one.done} of {one.total}" for one in states))
    features = cafe.load_features(cache)
    comparison = compare_methods("baselines", [features], shots=[1], seeds=[1, 2])
    for name in ("suite", "title", "rows", "summary", "pairs", "published", "notes", "layout"):
        value = getattr(comparison, name)
        tell(f"{name}: {json.dumps(value, default=dataclasses.asdict, indent=1)}")


def named_in_python(cafe: Any, cache: Path, tell: Callable[[str], None]) -> None:
    """Methods by name, and the draws under the name of their module."""
    from cafe import methods
    from cafe.protocol.draws import draw_few_shot

    attempt(tell, "method_names", methods.method_names)
    for name in methods.method_names():
        attempt(tell, f"make_method {name}", lambda name=name: methods.make_method(name))
        kind = type(methods.make_method(name))
        attempt(tell, "expected failed checks", lambda kind=kind: sorted(kind.expected_failed_checks))
    attempt(tell, "unknown method", lambda: methods.make_method("clipadapter"))
    attempt(tell, "unknown parameter", lambda: methods.make_method("gda", nothing=1))
    attempt(tell, "expected_failed_checks", lambda: signature_of(methods.expected_failed_checks))
    tell(f"{methods.fit_many is cafe.fit_many} {draw_few_shot is cafe.draw_few_shot}")


@scene(2)
def demo(desk: Desk) -> None:
    """The demo, in full, and once more on the cache that it left, and its run tried on pictures."""
    desk.all("demo", "demo --seed 2 --json", "cache ls --json", "demo --quiet --cache-dir other --device gpu")
    digit_pictures(desk.inputs / "pictures", 6)
    desk.all("predict --run demo/fit inputs/pictures", "fit --variant both --alpha auto --shots 16")


@scene(2)
def extract_digits(desk: Desk) -> None:
    """The options of extraction on the digits."""
    inputs = desk.inputs
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    (inputs / "names.txt").write_text("".join(f"the number {word}\n" for word in words))
    (inputs / "names.json").write_text(json.dumps({"zero": "nought"}))
    (inputs / "unknown.json").write_text(json.dumps({"0": "nought"}))
    (inputs / "templates.txt").write_text("a scan of a {}.\na pencil drawing of a {c}.\n")
    (inputs / "templates.json").write_text(json.dumps(["a scan of a {}.", "{} in ink"]))
    desk.all("extract --dataset digits", "extract --dataset digits", "extract --dataset digits --json")
    names = json.loads(desk.cafe("cache", "info", "--json").out).get("class_names", [])
    prompts = {name: [f"a drawing of {name}", *(["a written {0}"] * (row % 2))] for row, name in enumerate(names)}
    (inputs / "prompts.json").write_text(json.dumps(prompts))
    text = (
        "--templates 'a picture of the digit {}.' --json", "--templates generic", "--templates imagenet-7 --quiet",
        "--templates inputs/templates.txt --templates '{}' --json", "--templates inputs/templates.json",
        "--class-names inputs/names.txt --json", "--class-names inputs/names.json", "--class-names inputs/unknown.json",
        "--prompts inputs/prompts.json",
        "--prompts inputs/prompts.json --templates generic --json", "",
    )  # fmt: skip
    for number, option in enumerate(text):
        desk.cafe("extract", "--dataset", "digits", *shlex.split(option))
        desk.cafe("cache", "export", "digits", "--out", f"text/{number}.npz", "-q")
        desk.cafe("cache", "info", "digits", "--json")
    desk.all("extract --dataset digits --prompts inputs/prompts.json -q", "fit --shots 2 --json", "cache verify")
    images = (
        "--force", "--force --json --batch-size 100", "--views 2 --shots 1 --seeds 1,2 --json", "--shots 2 --seeds 1",
        "--shots 2 --seeds 1 --json", "--shots 1,4 --splits train,test", "--views 1 --seed 5 --splits val,train -q",
        "--splits test --stored-dtype float32 --json", "--projection-features --shots 2 --seeds 1 --json",
        "--splits val --dtype bfloat16", "--splits val --dtype float16 --device cpu --json",
        "--splits val --workers 0 --batch-size 7 --out out/batches.h5", "--splits val --workers 0 --out out/threads.h5",
        "--splits val --cache-dir other", "--splits val --cache-dir other --templates generic --json",
        "--splits train --out out/threads.h5", "--splits train --out out/threads.h5 --force --json",
        "--splits val --out out/fail.h5 --on-error fail", "--projection-features --out out/before.h5 --quiet",
        "--views 2 --out out/views.h5 --shots 2 --seeds 1 --projection-features",
    )  # fmt: skip
    for option in images:
        desk.cafe("extract", "--dataset", "digits", *shlex.split(option))
    desk.all("cache ls", "cache ls --json", "cache ls --cache-dir other", "datasets", "models --json", "fit --shots 2")
    cut = "fit --cache digits--cafe-mini--"
    for path in sorted(desk.caches.glob("digits--cafe-mini--*.h5")):
        desk.all(
            f"cache info {path.stem} --json", f"{cut}{path.stem.removeprefix('digits--cafe-mini--')} --shots 2 --json"
        )
    desk.all(
        "fit --cache out/views.h5 --shots 2 --json", "fit --cache out/views.h5 --method tip-adapter --shots 2 --json",
        "fit --cache out/before.h5 --method prolip --shots 2 --json", "fit --cache out/views.h5 --shots 2 --seed 2",
        "fit --cache out/before.h5 --method prolip --shots 2 --set strength=auto --set lr=auto --json",
    )  # fmt: skip


@scene(2)
def extract_sources(desk: Desk) -> None:
    """Every kind of source, with what is odd about real folders."""
    inputs = desk.inputs
    names = [f"photos/{kind}/{n}.png" for kind in ("hot_dog", "pizza") for n in range(6)]
    photographs(inputs / "photos", ["hot_dog", "pizza"], 6)
    for split, count in (("train", 3), ("valid", 1), ("test", 2)):
        photographs(inputs / "split_photos" / split, ["a", "b"], count, "jpg", size=30 + count)
    odd_pictures(inputs / "odd")
    rows = [(name, name.split("/")[1], "train" if n % 2 else "test") for n, name in enumerate(names)]
    tables = {
        "labels.csv": ("file_name,label,split", rows), "other.csv": ("photo,kind,fold", rows),
        "lacking.csv": ("path,label,split", [*rows, ("photos/lost.png", "pizza", "test")]),
    }  # fmt: skip
    for name, (head, own) in tables.items():
        (inputs / name).write_text("\n".join([head, *map(",".join, own)]))
    (inputs / "labels.tsv").write_text("\n".join(["file_name\tlabel", *(f"{a}\t{b}" for a, b, _ in rows)]))
    (inputs / "labels.jsonl").write_text("\n".join(json.dumps({"image": a, "label": b}) for a, b, _ in rows))
    triples = [[name, name.split("/")[1] == "pizza", name.split("/")[1]] for name in names]
    parts = {"train": triples[0::3], "val": triples[1::3], "test": triples[2::3]}
    (inputs / "split_zhou_Mine.json").write_text(json.dumps(parts))
    shards(inputs / "shards", inputs / "photos")
    eurosat = inputs / "data" / "eurosat"
    photographs(eurosat / "2750", ["AnnualCrop", "SeaLake"], 6, "jpg")
    named = {"AnnualCrop": "Annual Crop Land", "SeaLake": "Sea or Lake"}
    triples = [[f"{k}/{n}.jpg", label, named[k]] for label, k in enumerate(named) for n in range(6)]
    parts = {"train": triples[0::3], "val": triples[1::3], "test": triples[2::3]}
    (eurosat / "split_zhou_EuroSAT.json").write_text(json.dumps(parts))
    sources = [
        "photos", "split_photos", "odd", "labels.csv", "labels.tsv", "labels.jsonl", "split_zhou_Mine.json", "shards",
        "other.csv?path=photo&label=kind&split=fold", "lacking.csv", "split_zhou_Mine.json?images=inputs",
        "shards/train/{000..001}.tar",
    ]  # fmt: skip
    if has("pyarrow", "datasets"):
        parquet_files(inputs / "parquet", inputs / "photos")
        sources.append("parquet")
    for number, source in enumerate(sources):
        desk.cafe("extract", "--dataset", f"inputs/{source}", "--workers", 0)
        desk.cafe("extract", "--dataset", f"inputs/{source}", "--json", "--out", f"out/{number}.h5", "--workers", 0)
    desk.all(
        "extract --dataset inputs/lacking.csv --on-error skip", "extract --dataset inputs/odd --on-error fail --force",
        "extract --dataset inputs/odd --workers 2 --force --json", "extract --dataset inputs/odd --views 1 --json -q",
        "extract --dataset inputs/lacking.csv --on-error skip --json --out out/lacking.h5", "cache info odd --json",
        "datasets --root inputs/data", "extract --dataset eurosat --root inputs/data",
        "extract --dataset eurosat --root inputs/data --json --templates eurosat",
        "extract --dataset inputs/photos --templates imagenet-7 --stored-dtype float32 --force",
        "fit --cache eurosat --shots 1", "fit --cache photos --shots 2 --json", "cache ls", "cache ls --json",
    )  # fmt: skip
    desk.cafe("extract", "--dataset", "eurosat", CAFE_DATA="inputs/data")
    if has("simplejpeg"):
        desk.all("extract --dataset inputs/split_photos --decoder simplejpeg --json")


def shards(folder: Path, photos: Path) -> None:
    """Write pictures of two classes as webdataset tars."""
    pictures = sorted(photos.rglob("*.png"))
    (folder / "train").mkdir(parents=True)
    (folder / "test").mkdir()
    for number, name in enumerate(("train/000", "train/001", "test/000")):
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for picture in pictures[number::3]:
                key = f"{picture.parent.name}-{picture.stem}"
                label = b"0" if picture.parent.name == "hot_dog" else b"1"
                for suffix, content in (("png", picture.read_bytes()), ("cls", label)):
                    member = tarfile.TarInfo(f"{key}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    for place in (folder, folder / "train"):
        (place / "classnames.txt").write_text("hot dog\npizza\n")


def parquet_files(folder: Path, photos: Path) -> None:
    """Write pictures of two classes as the hub's parquet files."""
    import datasets

    datasets.disable_progress_bars()
    pictures = sorted(photos.rglob("*.png"))
    (folder / "data").mkdir(parents=True)
    for number, split in enumerate(("train", "test")):
        own = pictures[number::2]
        cells = [{"bytes": picture.read_bytes(), "path": None} for picture in own]
        labels = [int(picture.parent.name == "pizza") for picture in own]
        rows = datasets.Dataset.from_dict({"image": cells, "label": labels})
        rows = rows.cast_column("image", datasets.Image())
        rows = rows.cast_column("label", datasets.ClassLabel(names=["hot dog", "pizza"]))
        rows.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


@scene(2)
def encoders(desk: Desk) -> None:
    """Encoders in a folder, several in one pass, features before the projection, and methods that need them."""
    photographs(desk.inputs / "photos", ["cat", "hot_dog", "pizza"], 10)
    for seed in (1, 2):
        tiny_clip(desk.inputs / f"clip-{seed}", seed)
    shutil.copytree(desk.inputs / "clip-1", desk.inputs / "no-weights", ignore=shutil.ignore_patterns("*.safetensors"))
    shutil.copytree(
        desk.inputs / "clip-1", desk.inputs / "no-words", ignore=shutil.ignore_patterns("*token*", "*vocab*")
    )
    photos = "extract --dataset inputs/photos"
    desk.all(
        f"{photos} --model inputs/clip-1", f"{photos} --model inputs/clip-1,inputs/clip-2 --json",
        f"{photos} --model inputs/clip-1,inputs/clip-2 --templates generic", f"{photos} --model inputs/no-weights",
        f"{photos} --model inputs/no-words", f"{photos} --model inputs/clip-1 --out out/photos.h5 -q",
        f"{photos} --model inputs/clip-2 --out out/photos.h5", f"{photos} --model inputs/clip-1 --views 1 --json",
        f"{photos} --model inputs/clip-1 --projection-features --out out/before.h5 --json", "cache info out/before.h5",
        f"{photos} --model inputs/clip-1 --dtype bfloat16 --out out/bfloat16.h5 --json", "cache ls --json",
        "fit --cache out/before.h5 --method prolip --shots 2 --out out/prolip --json",
        "fit --cache out/before.h5 --method prolip --shots 2 --set lr=auto --set strength=auto --json",
        "fit --cache out/photos.h5 --method coop --shots 2 --set n_context=2 --set epochs=2 --out out/coop --json",
        "fit --cache out/photos.h5 --shots 2 --out out/adapter", "predict --run out/adapter inputs/photos --json",
        "predict --run out/prolip inputs/photos/cat", "predict --run out/coop inputs/photos/pizza --top 1",
        "predict --run out/adapter inputs/photos --model inputs/clip-2", "compare methods --cache out/before.h5 "
        "--shots 2 --seed 1 --methods zero-shot,prolip,clip-adapter", "compare baselines --cache out/photos.h5 "
        "--include coop --methods coop --shots 1 --seed 1 --json",
    )  # fmt: skip
    shutil.move(desk.inputs / "clip-1", desk.inputs / "moved")
    desk.all(
        "predict --run out/adapter inputs/photos/cat",
        "predict --run out/adapter inputs/photos/cat --model inputs/moved",
    )


@scene(2)
def predict(desk: Desk) -> None:
    """Name what is on pictures: files, folders, what is broken, and what is no picture."""
    desk.digits()
    pictures = digit_pictures(desk.inputs / "pictures", 8)
    digit_pictures(desk.inputs / "deep" / "deeper", 3)
    (desk.inputs / "broken").mkdir()
    (desk.inputs / "broken" / "one.png").write_bytes(b"broken")
    (desk.inputs / "list.csv").write_text("file_name\npictures/000.png\n")
    (desk.inputs / "list.json").write_text('["pictures/000.png"]')
    odd_pictures(desk.inputs / "odd")
    desk.all("fit --shots 4", "fit --method tip-adapter --shots 2", "fit --method zero-shot --out out/zero-shot")
    desk.all(
        "fit --method trans-clip --shots 2 --out out/trans-clip -q", "fit --method auto --shots 4 --out out/auto -q"
    )
    name = "digits-cafe-mini-clip-adapter-image-4-shot-seed-1"
    desk.all(
        f"predict --run {name} inputs/pictures", f"predict --run {name} inputs/pictures --json",
        f"predict --run {name} inputs/pictures --quiet --top 1",
        f"predict --run {name} inputs/pictures/000.png --top 20",
        f"predict --run caches/runs/{name} inputs/pictures/001.png inputs/pictures/000.png inputs/pictures/001.png",
        f"predict --run {name} inputs/deep inputs/pictures/000.png inputs/odd", f"predict --run {name} inputs/list.csv",
        f"predict --run {name} inputs/odd --json --top 2", f"predict --run {name} inputs/list.json --json",
        f"predict --run {name} inputs/broken", f"predict --run {name} inputs/broken inputs/pictures/000.png --json",
        "predict --run digits-cafe-mini-tip-adapter-2-shot-seed-1 inputs/pictures --top 2",
        "predict --run out/zero-shot inputs/pictures --json", "predict --run out/trans-clip inputs/pictures",
        "predict --run out/auto inputs/pictures", f"predict --run {name} inputs/pictures --dtype bfloat16",
        f"predict --run {name} inputs/pictures --model cafe:mini --device cpu", "predict --run digits inputs/pictures",
        f"predict --run {name} inputs/pictures --cache-dir caches",
        f"predict --run {name} -q inputs/pictures --cache-dir x",
    )  # fmt: skip
    desk.cafe("predict", "--run", name, pictures)


@scene(2)
def real_photographs(desk: Desk) -> None:
    """A few classes of real photographs, one of them cut off."""
    data = real_data()
    if data is None:
        desk.write("left-out", f"{REAL_DATA} is unset\n")
        return
    unpack(data / "caltech101_images.tar", desk.inputs, classes=6)
    photos = next(desk.inputs.glob("**/101_ObjectCategories"))
    shutil.copytree(photos, desk.inputs / "photos")
    first = min((desk.inputs / "photos").rglob("*.jpg"))
    first.write_bytes(first.read_bytes()[:500])
    desk.all(
        "extract --dataset inputs/photos", "extract --dataset inputs/photos --workers 2 --force --json",
        "extract --dataset inputs/photos --workers 0 --out out/threads.h5 -q", "cache info --json", "cache verify",
        "extract --dataset inputs/photos --on-error fail --out out/fail.h5", "datasets --root inputs",
        "extract --dataset inputs/photos --views 2 --splits train --json", "extract --dataset caltech101 --root inputs",
        "extract --dataset caltech101 --root inputs --json --shots 2 --seeds 1 --out out/shots.h5",
        "fit --cache caltech101 --shots 2 --json", "compare baselines --cache caltech101 --shots 1,2 --seeds 1,2",
        "fit --cache out/shots.h5 --shots 2 --out out/run --json", "predict --run out/run inputs/photos --json --top 2",
        "compare paper --cache caltech101 --shots 1,2 --seeds 1,2",
    )  # fmt: skip


def unpack(tar: Path, folder: Path, classes: int) -> None:
    """Unpack the photographs of the first classes, and a split file of these alone."""
    with tarfile.open(tar) as archive:
        names = archive.getnames()
        (split_file,) = [name for name in names if name.endswith(".json")]
        wanted = sorted({name.split("/")[-2] for name in names if name.endswith(".jpg")})[:classes]
        own = [name for name in names if name.endswith(".jpg") and name.split("/")[-2] in wanted]
        archive.extractall(folder, [archive.getmember(name) for name in [*own, split_file]], filter="data")
    parts = json.loads((folder / split_file).read_text(encoding="utf-8"))
    kept = {split: [row for row in rows if row[0].split("/")[0] in wanted] for split, rows in parts.items()}
    labels = {old: new for new, old in enumerate(sorted({row[1] for rows in kept.values() for row in rows}))}
    renamed = {split: [[path, labels[label], name] for path, label, name in rows] for split, rows in kept.items()}
    (folder / split_file).write_text(json.dumps(renamed), encoding="utf-8")


@scene(1)
def real_features(desk: Desk) -> None:
    """Real CLIP features: of the size at which other kernels and threads are chosen than on digits."""
    data = real_data()
    if data is None:
        desk.write("left-out", f"{REAL_DATA} is unset\n")
        return
    for name in ("caltech69", "imagenet", "oxford_flowers"):
        shutil.copy(data / "clip_features" / f"{name}_vitb32.npz", desk.inputs)
    desk.all(
        "cache import inputs/caltech69_vitb32.npz --name caltech69 --model ViT-B/32 --train train_16shot --json",
        "cache import inputs/imagenet_vitb32.npz --name imagenet --model ViT-B/32 --train 1shot --test 2shot "
        "--drop-similar 0.93 --json",
        "cache import inputs/oxford_flowers_vitb32.npz --name flowers --model ViT-B/32 --json",
        "cache verify imagenet", "fit --cache caltech69 --shots 16 --out out/caltech --json",
        "fit --cache caltech69 --shots 4 --alpha auto --json",
        "fit --cache caltech69 --shots 16 --dtype bfloat16 --json",
        "fit --cache imagenet --shots 1 --out out/imagenet --json",
        "fit --cache imagenet --shots 1 --method tip-adapter --alpha 1 --beta 5 --json",
        "fit --cache imagenet --shots 1 --method gda --json", "fit --cache flowers --shots 4 --json",
        "compare baselines --cache caltech69 --shots 1 --seed 1",
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- recording


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
    """Read the command line and do what it says."""
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
