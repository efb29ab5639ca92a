"""What is recorded, scene by scene: files that its commands need, and when those of ``commands/`` run."""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import shutil
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from outputs.desk import (
    REAL_DATA,
    Desk,
    captured,
    digit_pictures,
    foreign_features,
    foreign_splits,
    has,
    odd_pictures,
    photographs,
    real_data,
    save_npz,
    tiny_clip,
)
from outputs.python_face import (
    adapter_in_python,
    caches_in_python,
    described_error,
    documented_in_python,
    draws_in_python,
    features_in_python,
    grid_in_python,
    methods_in_python,
    named_in_python,
    public_names,
    runs_in_python,
)

ROOT = Path(__file__).resolve().parents[2]


SCENES: dict[str, tuple[int, Callable[[Desk], None]]] = {}


def scene(process: int) -> Callable[[Callable[[Desk], None]], Callable[[Desk], None]]:
    """Take a function as a scene, run in the first or the second process."""

    def take(function: Callable[[Desk], None]) -> Callable[[Desk], None]:
        SCENES[function.__name__.replace("_", "-")] = (process, function)
        return function

    return take


LISTS = ("datasets", "methods", "models", "suites", "templates")


@scene(1)
def lists(desk: Desk) -> None:
    """Help of every verb, and the lists of names."""
    desk.run("help")
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
    for code in (*light, *(f"from cafe.cli.app import call; {call}" for call in calls)):
        desk.program(start=("-c", f"{code}; {after}"))


@scene(1)
def fit(desk: Desk) -> None:
    """Every method, every variant and ratio, settings, and policies of selection."""
    desk.digits()
    for method in desk.cafe("methods", "--json").names("methods"):
        short = ["--set", "epochs=1", "--set", "n_context=2"] if method == "coop" else []
        desk.cafe("fit", "--method", method, "--shots", 2, "--out", f"out/{method}", "--json", *short)
    desk.run("settings")


@scene(1)
def compare(desk: Desk) -> None:
    """Record `cafe compare` of every suite, with all files of its report."""
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
    options_of_suite = {
        "methods": "--shots 2 --seeds 1",
        "shift": "--shots 2 --seed 1 --cache caches/digits--cafe-mini.h5,caches/moved--cafe-mini.h5",
        "base-to-new": "--shots 2 --seed 1 --cache digits",
        "variants": "--shots 1 --seeds 1,2 --cache digits",
        "alpha": f"{grid} --values 0,0.2,1 --cache digits",
        "manifold": "--shots 2 --seeds 1,2 --cache digits",
    }
    for suite in desk.cafe("suites", "--json").names("suites"):
        desk.all(f"compare {suite} --out out/{suite} {options_of_suite.get(suite, f'{grid} --cache digits')}")
    desk.run("options")


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an exported cache, without the text that says when the cache was made.

    What is imported has the hash of its file in its fingerprint, so that no date may be in there.
    """
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files if arrays[name].ndim}


@scene(1)
def cache(desk: Desk) -> None:
    """Caches: listed, described, checked, imported, joined, exported and removed; and one of an older format."""
    desk.run("without a cache")
    digits = desk.digits()
    desk.run("looking")
    old_format(desk)
    exporting(desk)
    importing(desk)
    desk.run("joining")
    damaging(desk, digits)
    desk.run("removing")


def old_format(desk: Desk) -> None:
    """Read the cache of format version 1 that the tests keep, and learn from it."""
    files = [path for root in (ROOT, desk.code) for path in sorted(root.glob("tests/**/format-1.h5"))]
    if not files:
        desk.write("old-format", "there is no format-1.h5 below tests\n")
        return
    shutil.copy(files[0], desk.caches / "old.h5")
    desk.run("old format")


def exporting(desk: Desk) -> None:
    """Export in each format, by suffix and by name."""
    desk.run("exporting")
    if has("pyarrow"):
        desk.all("cache export digits --out out/all.parquet --json", "cache export digits --out out/all.parquet")


def importing(desk: Desk) -> None:
    """Import every layout, by its name and by ``auto``."""
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
    desk.run("importing")
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
        desk.run("importing clip_retrieval")


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
    desk.run("damaged")


@scene(1)
def errors(desk: Desk) -> None:
    """Wrong names, wrong numbers, missing files: one sentence each."""
    desk.run("without a cache")
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
    desk.run("wrong words")
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
        told = (f"{type(w.message).__name__}: {w.message}" for w in warned if issubclass(w.category, UserWarning))
        lines += [*(f"warned {text}" for text in told), "--- stdout", said[0], "--- stderr", said[1]]
        desk.write(section.__name__.replace("_", "-"), "\n".join(lines) + "\n")


@scene(2)
def demo(desk: Desk) -> None:
    """The demo, in full, and once more on the cache that it left, and its run tried on pictures."""
    desk.all("demo", "demo --seed 2 --json", "cache ls --json", "demo --quiet --cache-dir other --device gpu")
    digit_pictures(desk.inputs / "pictures", 6)
    desk.all("predict --run demo/fit inputs/pictures", "fit --variant both --alpha auto --shots 16")


@scene(2)
def extract_digits(desk: Desk) -> None:
    """Record `cafe extract` on the digits with each of its options."""
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
    for number, command in enumerate(desk.commands["text"]):
        desk.all(command, f"cache export digits --out text/{number}.npz -q", "cache info digits --json")
    desk.run("images")
    cut = "fit --cache digits--cafe-mini--"
    for path in sorted(desk.caches.glob("digits--cafe-mini--*.h5")):
        desk.all(
            f"cache info {path.stem} --json", f"{cut}{path.stem.removeprefix('digits--cafe-mini--')} --shots 2 --json"
        )
    desk.run("views and features before the projection")


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
    desk.run("again and otherwise")
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
    desk.run("encoders")
    shutil.move(desk.inputs / "clip-1", desk.inputs / "moved")
    desk.run("after the encoder moved")


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
    desk.run("predictions")
    desk.cafe("predict", "--run", "digits-cafe-mini-clip-adapter-image-4-shot-seed-1", pictures)


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
    desk.run("photographs")


def unpack(tar: Path, folder: Path, classes: int) -> None:
    """Unpack the photographs of the first classes, and a split file of these alone."""
    with tarfile.open(tar) as archive:
        names = archive.getnames()
        (split_file,) = [name for name in names if name.endswith(".json")]
        chosen = sorted({name.split("/")[-2] for name in names if name.endswith(".jpg")})[:classes]
        images = [name for name in names if name.endswith(".jpg") and name.split("/")[-2] in chosen]
        # Python before 3.11.4 has no filter, and takes no argument of that name.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder, [archive.getmember(name) for name in [*images, split_file]])
    parts = json.loads((folder / split_file).read_text(encoding="utf-8"))
    kept = {split: [row for row in rows if row[0].split("/")[0] in chosen] for split, rows in parts.items()}
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
    desk.run("features")
