"""Files from strangers, mutated: features of other tools, splits, tables, archives, model folders, images.

Every importer, source, data set and encoder brings a tiny example of what it reads; so newcomers are tried as well.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import re
import shutil
import tarfile
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from breaking.campaign import Campaign, Outcome
from breaking.command import judge, run_cafe
from breaking.pool import note

# What may stand in a text file in the place of a word or number.
_WORDS = [
    b"-1", b"1e999", b"-1e999", b"NaN", b"Infinity", b"0", b"1000000000", b"99999999999999999999999999", b"9" * 5000,
    b"1.5", b"true", b"null", b"[]", b"{}", b'""', b'"x"', b"[" * 3000, b'{"a":' * 3000, b"../../../../etc/passwd",
    b"/etc/passwd", b"\\u0000", b"\0", b"\xff\xfe", b"\\ud800", b"\x1b[31mred\x1b[0m", b"\\u001b]0;title\\u0007",
    b"\xe2\x80\xae", b"=1+1", b"\n", b"\r", b",", b'"', b"'", b"a" * 100_000, b"", b" ", b".", b"..", b"CON",
]  # fmt: skip
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\w./+-]+')
_TEXTS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".cls")
SECRET = b"SECRET-OF-ANOTHER-FOLDER"


class RunsCode:
    """Unpickled, it makes a file: the proof that code has run."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def mutate_bytes(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Return what was done, and the bytes after it."""
    how = rng.choice(["bit", "bit", "bit", "cut", "empty", "zeros", "chance", "doubled", "inserted"])
    if how == "empty" or not data:
        return "empty", b""
    start = rng.randrange(len(data))
    end = min(len(data), start + (1 << rng.randrange(12)))
    if how == "bit":
        broken = bytearray(data)
        broken[start] ^= 1 << rng.randrange(8)
        return f"bit of byte {start}", bytes(broken)
    if how == "cut":
        return f"cut off at {start}", data[:start]
    if how == "zeros":
        return f"zeros from {start} to {end}", data[:start] + bytes(end - start) + data[end:]
    if how == "chance":
        return f"chance from {start} to {end}", data[:start] + rng.randbytes(end - start) + data[end:]
    if how == "doubled":
        return f"{start} to {end} doubled", data[:end] + data[start:end] + data[end:]
    return f"chance inserted at {start}", data[:start] + rng.randbytes(end - start) + data[start:]


def mutate_text(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Put hostile words in the place of one to three words of a text."""
    what = []
    for _ in range(rng.choice([1, 1, 2, 3])):
        tokens = list(_TOKEN.finditer(data))
        if not tokens:
            return mutate_bytes(data, rng)
        token, word = rng.choice(tokens), rng.choice(_WORDS)
        if token[0].startswith(b'"') and rng.random() < 0.5:
            word = b'"' + word.replace(b'"', b"") + b'"'
        data = data[: token.start()] + word + data[token.end() :]
        what.append(f"{_shown(token[0])} became {_shown(word)}")
    return "; ".join(what), data


def _shown(data: bytes) -> str:
    text = data.decode("ascii", "backslashreplace").replace("\x1b", "ESC").replace("\0", "NUL")
    return repr(text[:40]) + (f" ({len(data)} bytes)" if len(data) > 40 else "")


def hostile_array(array: np.ndarray, rng: random.Random, marker: Path) -> tuple[str, np.ndarray]:
    """Return an array that no reader expects in the place of this one."""
    rows = len(array) if array.ndim else 1
    flat = array.astype(np.float64) if array.dtype.kind in "fiu" else np.zeros(array.shape)
    choices: dict[str, Callable[[], np.ndarray]] = {
        "no rows": lambda: array[:0],
        "one row fewer": lambda: array[:-1],
        "0-d": lambda: np.asarray(array.reshape(-1)[0] if array.size else 0),
        "one more axis": lambda: array[..., None],
        "one axis fewer": lambda: array.reshape(-1),
        "texts": lambda: np.full(array.shape, "x"),
        "texts with NUL and escapes": lambda: np.full(array.shape, "a\0b\x1b[31m"),
        "bytes": lambda: np.full(array.shape, b"\xff\xfe"),
        "NaN": lambda: np.full(array.shape, np.nan),
        "infinite": lambda: np.where(flat > 0, np.inf, flat),
        "huge": lambda: np.full(array.shape, 3e38),
        "huge labels": lambda: np.full(array.shape, 10**8),
        "highest labels": lambda: np.full(array.shape, np.iinfo(np.int64).max),
        "labels of uint64": lambda: np.full(array.shape, np.iinfo(np.uint64).max, dtype=np.uint64),
        "negative": lambda: -np.abs(flat) - 1,
        "halves": lambda: flat + 0.5,
        "complex": lambda: flat + 1j,
        "dates": lambda: np.full(array.shape, "2026-01-01", dtype="datetime64[D]"),
        "a struct": lambda: np.zeros(rows, dtype=[("a", "f4"), ("b", "i8")]),
        "booleans": lambda: flat > 0,
        "big-endian": lambda: flat.astype(">f8"),
        "long double": lambda: flat.astype(np.longdouble),
        "objects": lambda: np.array([RunsCode(marker)] * max(rows, 1), dtype=object),
        "zeros": lambda: np.zeros_like(flat),
    }
    name = rng.choice(list(choices))
    return name, choices[name]()


def mutate_arrays(path: Path, rng: random.Random, marker: Path) -> str:
    """Put one hostile array into a NumPy file."""
    if path.suffix == ".npy":
        what, array = hostile_array(np.load(path), rng, marker)
        np.save(path, array, allow_pickle=True)
        return what
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    name = rng.choice(list(arrays))
    if rng.random() < 0.1:
        del arrays[name]
        what = f"{name} gone"
    else:
        what, arrays[name] = hostile_array(arrays[name], rng, marker)
        what = f"{name}: {what}"
    np.savez(path, **arrays)
    return what


def mutate_tensors(path: Path, rng: random.Random, marker: Path) -> str:
    """Put hostile tensors, containers or code into a file of torch.save."""
    import torch

    content = torch.load(path, weights_only=True)
    first = content if isinstance(content, torch.Tensor) else next(iter(content.values()), torch.zeros(2, 2))
    choices: dict[str, Callable[[], Any]] = {
        "code": lambda: RunsCode(marker),
        "a number": lambda: 3,
        "nested": lambda: {"a": {"b": first}},
        "a list": lambda: [first, first],
        "sparse": lambda: first.float().to_sparse(),
        "integers": lambda: torch.zeros(first.shape, dtype=torch.int64),
        "complex": lambda: torch.zeros(first.shape, dtype=torch.complex64),
        "no rows": lambda: first[:0],
        "0-d": lambda: torch.tensor(1.0),
        "NaN": lambda: torch.full(first.shape, torch.nan),
        "one more axis": lambda: first[..., None],
        "quantised": lambda: torch.quantize_per_tensor(first.float(), 0.1, 0, torch.qint8),
        "float8": lambda: first.float().to(torch.float8_e4m3fn),
        "expanded": lambda: torch.zeros(1).expand(3, 10**6),
        "an empty dictionary": dict,
    }
    name = rng.choice(list(choices))
    torch.save(choices[name](), path)
    return name


def replace_file(path: Path, rng: random.Random, outside: Path) -> str:
    """Put something that is no regular file of the folder in the place of a file."""
    how = rng.choice(
        ["a folder", "a FIFO", "a link to nothing", "a link to itself", "a link to /dev/zero", "unreadable"]
    )
    path.unlink()
    if how == "a folder":
        path.mkdir()
    elif how == "a FIFO":
        os.mkfifo(path)
    elif how == "a link to nothing":
        path.symlink_to(outside / "nothing")
    elif how == "a link to itself":
        path.symlink_to(path)
    elif how == "a link to /dev/zero":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(b"")
        path.chmod(0)
    return how


class Foreign(Campaign):
    """What is common to all files of strangers."""

    limit = 30.0

    def prepare(self, folder: Path) -> None:
        """Write the examples."""
        self.examples: list[tuple[str, Path, str]] = []  # reader, folder, path of the source below it
        self.write_examples(folder)

    @abstractmethod
    def write_examples(self, folder: Path) -> None:
        """Fill ``self.examples``."""

    def copy_and_mutate(self, rng: random.Random, folder: Path) -> tuple[str, Path, str, str, Path, Path]:
        """Copy an example and mutate one of its files.

        Returns
        -------
        reader, source, kind, what : str, Path, str, str
        changed : Path
            The file that was changed.
        marker : Path
            A file that appears if code of the example runs.
        """
        reader, example, inner = self.examples[rng.randrange(len(self.examples))]
        root = folder / "given"
        shutil.copytree(example, root, symlinks=True)
        outside = folder / "outside"
        outside.mkdir()
        (outside / "secret.txt").write_bytes(SECRET)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        texts = [path for path in files if path.suffix in _TEXTS]
        path = rng.choice(texts if texts and rng.random() < 0.5 else files)
        marker = folder / "code-has-run"
        kind, what = "bytes", ""
        chance = rng.random()
        try:
            if chance < 0.06:
                kind, what = "other kinds of file", replace_file(path, rng, outside)
            elif chance < 0.1:
                kind, what = "gone", "gone"
                path.unlink()
            elif path.suffix in _TEXTS and chance < 0.8:
                kind = "words"
                what, data = mutate_text(path.read_bytes(), rng)
                path.write_bytes(data)
            elif path.suffix in (".npy", ".npz") and chance < 0.75:
                kind, what = "arrays", mutate_arrays(path, rng, marker)
            elif path.suffix in (".pt", ".pth") and chance < 0.6:
                kind, what = "tensors", mutate_tensors(path, rng, marker)
            elif path.suffix == ".tar" and chance < 0.6:
                kind, what = "members", mutate_tar(path, rng)
            elif path.suffix == ".parquet" and chance < 0.6:
                kind, what = "columns", mutate_parquet(path, rng)
        except (pickle.PicklingError, ValueError, TypeError, RuntimeError, IndexError):
            what = ""  # that mutation does not fit this array; a bit does
        if not what:
            what, data = mutate_bytes(path.read_bytes(), rng)
            path.write_bytes(data)
        note(folder, f"{reader}, {kind}")
        source = root / inner if inner else root
        return reader, source, kind, f"{reader}: {path.relative_to(root)}: {what}", path, marker

    def judged(self, reader: str, kind: str, what: str, work: Callable[[], object], names: list[str]) -> Outcome:
        """Judge a call from Python: it works, or raises an error of cafe that names the file or its reader."""
        from cafe.errors import CafeError

        try:
            work()
        except CafeError as error:
            text = str(error)
            if not any(name in text for name in names):
                return Outcome("unnamed", f"{reader}, {kind}", f"{what}; names none of {names}: {text[:400]}")
            return Outcome("detected", f"{reader}, {kind}", f"{what}; {text[:400]}")
        return Outcome("accepted", f"{reader}, {kind}", what)


def mutate_tar(path: Path, rng: random.Random) -> str:
    """Write an archive anew with members that no WebDataset has."""
    with tarfile.open(path) as archive:
        members = [(member, archive.extractfile(member)) for member in archive.getmembers()]
        kept = [(member, stream.read()) for member, stream in members if stream is not None]
    member, data = kept[rng.randrange(len(kept))]
    attack = rng.choice(
        ["sparse", "link", "hard link", "outside", "absolute", "device", "class", "json", "twice", "name"]
    )
    before = member.name
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for other, content in kept:
            if other is not member:
                archive.addfile(other, io.BytesIO(content))
        if attack == "outside":
            member.name = f"../../{member.name}"
        elif attack == "absolute":
            member.name = f"/etc/{member.name}"
        elif attack == "name":
            member.name = rng.choice(
                ["a\x1b[31m.png", ".png", "a" * 5000 + ".png", "\udcff.png", "a/../b.png", "a.png.cls"]
            )
        elif attack in ("link", "hard link", "device"):
            member.type = {"link": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}[attack]
            member.linkname, member.size, data = "/etc/passwd", 0, b""
        elif attack == "class":
            member.name, data = f"{member.name.split('.')[0]}.cls", rng.choice(_WORDS)
        elif attack == "json":
            member.name, data = f"{member.name.split('.')[0]}.json", rng.choice(_WORDS)
        elif attack == "sparse":
            # A sparse file as GNU tar writes it in pax headers: 64 GB of holes, and nothing else.
            member.name = f"{member.name.split('.')[0]}.cls"
            member.pax_headers = {
                "GNU.sparse.major": "1", "GNU.sparse.minor": "0",
                "GNU.sparse.name": member.name, "GNU.sparse.realsize": str(64 << 30),
            }  # fmt: skip
            data = b"1\n" + f"{(64 << 30) - 1}\n1\n".encode()
            data += bytes(512 - len(data)) + b"x"
        member.size = len(data)
        for _ in range(2 if attack == "twice" else 1):
            archive.addfile(member, io.BytesIO(data))
    return f"{before} became {attack}"


def mutate_parquet(path: Path, rng: random.Random) -> str:
    """Put a column of another type into a table."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    table = parquet.read_table(path)
    n = table.num_rows
    name = rng.choice(table.column_names)
    choices: dict[str, Callable[[], Any]] = {
        "texts": lambda: pa.array(["x"] * n),
        "escapes": lambda: pa.array(["\x1b[31m\0=1"] * n),
        "nulls": lambda: pa.nulls(n),
        "lists": lambda: pa.array([[1, 2]] * n),
        "structs": lambda: pa.array([{"a": 1}] * n),
        "dates": lambda: pa.array([0] * n, type=pa.date32()),
        "large labels": lambda: pa.array([10**8] * n),
        "highest labels": lambda: pa.array([2**63 - 1] * n),
        "halves": lambda: pa.array([0.5] * n),
        "binary": lambda: pa.array([b"\xff"] * n),
        "booleans": lambda: pa.array([True] * n),
        "dictionary": lambda: pa.array(["a"] * n).dictionary_encode(),
    }
    attack = rng.choice([*choices, "no rows", "gone"])
    if attack == "no rows":
        table = table.slice(0, 0)
    elif attack == "gone":
        table = table.drop_columns([name])
    else:
        table = table.set_column(table.column_names.index(name), name, choices[attack]())
    parquet.write_table(table, path)
    return f"{name}: {attack}"


class Imports(Foreign):
    """Features of every foreign format, mutated, through ``cafe cache import``."""

    name, tries, short = "imports", 1_000, 40

    def write_examples(self, folder: Path) -> None:
        """Let every importer write its example; arrays in each kind of file."""
        from cafe.registry import entries

        rng = np.random.default_rng(0)
        splits = {}
        for name, n in (("train", 8), ("val", 4), ("test", 6)):
            rows = rng.standard_normal((n, 8))
            splits[name] = ((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16), np.arange(n) % 2)
        for name, entry in entries("cache.transfer.importers", "IMPORTER").items():
            for names in (("train", "val", "test"), ("train", "test"), ("train",)):
                example = folder / f"{name}-{len(names)}"
                example.mkdir()
                try:
                    source = entry.load().write_example(example, {key: splits[key] for key in names})
                except Exception:  # a format that has no val, or a library that is not installed
                    continue
                self.examples.append((name, example, str(source.relative_to(example)) if source != example else ""))
        self._write_arrays(folder, splits)

    def _write_arrays(self, folder: Path, splits: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
        import torch
        from safetensors.numpy import save_file

        arrays = {f"{name}_{what}": array for name, pair in splits.items()
                  for what, array in zip(("features", "labels"), pair, strict=True)}  # fmt: skip
        for suffix in ("npz", "pt", "safetensors"):
            example = folder / f"arrays-{suffix}"
            example.mkdir()
            path = example / f"features.{suffix}"
            if suffix == "npz":
                np.savez(path, **arrays, class_names=np.array(["cat", "dog"]))
            elif suffix == "pt":
                torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
            else:
                save_file(arrays, path)
            self.examples.append((f"arrays {suffix}", example, path.name))

    def attempt(self, number: int, rng: random.Random, folder: Path) -> Outcome:
        """Import a mutated example, and verify what comes of it."""
        from cafe.cache.format.verify import verify_cache

        reader, source, kind, what, changed, marker = self.copy_and_mutate(rng, folder)
        out = folder / "out.h5"
        layout = ["--format", reader] if rng.random() < 0.3 and not reader.startswith("arrays ") else []
        answer = run_cafe(folder, "cache", "import", source, "--out", out, *layout)
        if marker.exists():
            return Outcome("harm", f"{reader}, {kind}", f"{what}; code of the file has run")
        outcome = judge(answer, f"{reader}, {kind}", what)
        if outcome.verdict == "detected":
            root = folder / "given"
            names = [changed.name, source.name, *(str(path.relative_to(root)) for path in root.rglob("*"))]
            words = ("array", "split", "label", "text features", "rows", "got '")
            if not any(name in answer.complaint for name in (*names, *words)):
                return Outcome("unnamed", outcome.kind, outcome.detail)
            if out.exists():
                return Outcome("wrong", outcome.kind, f"{outcome.detail}; a file stands there in spite of it")
        if outcome.verdict == "accepted":
            report = verify_cache(out)
            if not report.ok:
                return Outcome("silent", outcome.kind, f"{outcome.detail}; verify: {report.findings}")
        return outcome


class Sources(Foreign):
    """Splits, tables, archives, folders: every reader of what users bring, and the data sets known by name."""

    name, tries, short = "sources", 1_000, 50
    _COMMANDS_EVERY = 20

    def write_examples(self, folder: Path) -> None:
        """Let every source and data set write its example."""
        from cafe.errors import CafeError
        from cafe.registry import entries

        for name, entry in entries("data", "SOURCE").items():
            example = folder / f"source-{name}"
            example.mkdir()
            try:
                source = entry.load().write_example(example)
            except CafeError:  # its library is not installed
                continue
            self.examples.append((name, example, str(source.relative_to(example)) if source != example else ""))
        self.named = {}
        for name, entry in entries("data", "DATASET").items():
            example = folder / f"dataset-{name}"
            example.mkdir()
            entry.load().write_example(example)
            if any(example.iterdir()):
                self.examples.append((name, example, ""))
                self.named[name] = example
        # What an extraction imports is there before processes with bounded memory are forked.
        first = next(example for example in self.examples if example[0] == "image-folder")
        answer = run_cafe(folder / "try", "extract", "--dataset", first[1], "--workers", "0", "--device", "cpu")
        assert answer.code == 0, answer

    def attempt(self, number: int, rng: random.Random, folder: Path) -> Outcome:
        """Open a mutated example, and read every image."""
        from cafe.data.opening import open_dataset
        from cafe.errors import UnreadableImageError

        reader, source, kind, what, changed, marker = self.copy_and_mutate(rng, folder)
        root = folder / "given"

        def work() -> None:
            dataset = open_dataset(reader, root) if reader in self.named else open_dataset(str(source))
            for name, split in dataset.splits.items():
                for index, sample_id in enumerate(split.sample_ids):
                    path = Path(sample_id)
                    if path.is_absolute() or ".." in path.parts:
                        raise AssertionError(f"sample {sample_id!r} lies outside what was given")
                    try:
                        dataset.image(name, index)
                    except UnreadableImageError:
                        continue

        names = [changed.name, str(source), str(root), reader]
        if number % self._COMMANDS_EVERY:
            outcome = self.judged(reader, kind, what, work, names)
        else:
            words = ["--dataset", reader, "--root", root] if reader in self.named else [source]
            if words == [source]:
                words = ["--dataset", source]
            answer = run_cafe(folder, "extract", *words, "--workers", "0", "--quiet", "--device", "cpu")
            outcome = judge(answer, f"{reader}, {kind}", f"{what}; cafe extract")
        if marker.exists():
            return Outcome("harm", outcome.kind, f"{what}; code of the file has run")
        return outcome


class Models(Foreign):
    """Model folders of every library, mutated; among them such as ask for their own code to be run."""

    name, tries, short = "models", 300, 12
    limit = 60.0

    def write_examples(self, folder: Path) -> None:
        """Let every library write its tiny model."""
        from cafe.encoders.opening import open_encoder
        from cafe.errors import CafeError
        from cafe.registry import entries

        self.models: dict[str, str] = {}
        for name, entry in entries("encoders", "ENCODER").items():
            example = folder / name
            example.mkdir()
            try:
                model = entry.load().write_example(example)
                open_encoder(model, device="cpu", dtype="float32")
            except CafeError:  # its library is not installed
                continue
            self.models[name] = model.replace(str(example), "{}")
            self.examples.append((name, example, ""))

    def attempt(self, number: int, rng: random.Random, folder: Path) -> Outcome:
        """Open a mutated model and encode with it."""
        from cafe.encoders.opening import open_encoder

        reader, source, kind, what, changed, marker = self.copy_and_mutate(rng, folder)
        if number % 5 == 0:
            kind, what = "own code", self._ask_for_code(source, rng, marker) or what

        model = self.models[reader].format(source)

        def work() -> None:
            encoder = open_encoder(model, device="cpu", dtype="float32")
            encoder.encode_images(np.stack([encoder.cropper(_grey()) for _ in range(2)]))
            encoder.encode_text(["a photo of a cat."])

        outcome = self.judged(reader, kind, what, work, [changed.name, str(source)])
        if marker.exists():
            return Outcome("harm", outcome.kind, f"{what}; code of the model has run")
        return outcome

    def _ask_for_code(self, folder: Path, rng: random.Random, marker: Path) -> str:
        """Let the folder's own files ask for code that stands in it."""
        code = f"import os\nos.system('touch {marker}')\nclass Config:\n    pass\nclass Model:\n    pass\n"
        (folder / "custom.py").write_text(code, encoding="utf-8")
        names = [path for path in folder.glob("*config*.json") if path.is_file()]
        for path in names:
            try:
                document = json.loads(path.read_bytes())
            except ValueError:
                continue
            if not isinstance(document, dict):
                continue
            document["auto_map"] = {
                "AutoConfig": "custom.Config", "AutoModel": "custom.Model", "AutoProcessor": "custom.Model",
                "AutoTokenizer": ["custom.Model", "custom.Model"], "AutoImageProcessor": "custom.Model",
                "AutoModelForZeroShotImageClassification": "custom.Model",
            }  # fmt: skip
            if rng.random() < 0.7:
                document["model_type"] = rng.choice(["unheard-of", "clip", "custom"])
            for key in ("tokenizer_class", "processor_class", "image_processor_type", "feature_extractor_type"):
                if rng.random() < 0.5:
                    document[key] = "Model"
            path.write_text(json.dumps(document), encoding="utf-8")
        return "auto_map to code in the folder"


def _grey() -> Any:
    from PIL import Image

    return Image.new("RGB", (32, 32), (100, 120, 140))


class Images(Foreign):
    """Images of every format, mutated, and such as are bombs."""

    name, tries, short = "images", 600, 40
    _COMMANDS_EVERY = 60

    def write_examples(self, folder: Path) -> None:
        """Write one picture in every format that Pillow writes here."""
        from PIL import Image

        from cafe.data.images.files import IMAGE_EXTENSIONS

        pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        for suffix in sorted(IMAGE_EXTENSIONS):
            own = folder / suffix[1:]
            own.mkdir()
            try:
                picture = Image.fromarray(pixels)
                (picture.convert("1") if suffix == ".pbm" else picture).save(own / f"image{suffix}")
            except (KeyError, OSError, ValueError):  # Pillow here does not write it
                continue
            self.examples.append((suffix[1:], own, f"image{suffix}"))
        from PIL import PngImagePlugin  # noqa: F401

        run = Path(__file__).resolve().parents[2] / "data" / "runs" / "zero-shot"
        shutil.copytree(run, folder / "run")
        self.run = folder / "run"
        run_cafe(folder / "try", "predict", folder / "png" / "image.png", "--run", self.run)

    def attempt(self, number: int, rng: random.Random, folder: Path) -> Outcome:
        """Read a mutated picture."""
        from cafe.data.images.decoding import read_image

        reader, source, kind, what, changed, marker = self.copy_and_mutate(rng, folder)
        if number % 12 == 1:
            kind, what = "bomb", self._bomb(source, rng)
        if number % self._COMMANDS_EVERY == 0:
            answer = run_cafe(folder, "predict", source, "--run", self.run, "--device", "cpu")
            return judge(answer, f"{reader}, {kind}", f"{what}; cafe predict", named=[source.name])
        return self.judged(reader, kind, what, lambda: read_image(source, source.name), [source.name])

    def _bomb(self, path: Path, rng: random.Random) -> str:
        """Write a small PNG file that says it is huge."""
        import zlib

        def chunk(name: bytes, data: bytes) -> bytes:
            return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

        side = rng.choice([20_000, 60_000, 1 << 30, (1 << 31) - 1])
        head = side.to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
        text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 26))) if rng.random() < 0.5 else b""
        body = chunk(b"IHDR", head) + text + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
        return f"{side} pixels wide and high"
