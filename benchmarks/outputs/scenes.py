"""What is recorded, scene by scene: commands of one kind, from the lists to real photographs."""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import shlex
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
    told_to_users,
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
VERBS = (
    "", "demo", "extract", "fit", "compare", "predict", *LISTS, "cache", "cache import", "cache merge", "cache export",
    "cache ls", "cache info", "cache verify", "cache rm",
)  # fmt: skip


@scene(1)
def lists(desk: Desk) -> None:
    """Help of every verb, and the lists of names."""
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
    for code in (*light, *(f"from cafe.cli.app import call; {call}" for call in calls)):
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
    files = [path for root in (ROOT, desk.code) for path in sorted(root.glob("tests/**/format-1.h5"))]
    if not files:
        desk.write("old-format", "there is no format-1.h5 below tests\n")
        return
    shutil.copy(files[0], desk.caches / "old.h5")
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
        told = (f"{type(w.message).__name__}: {w.message}" for w in warned if told_to_users(w.category))
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
