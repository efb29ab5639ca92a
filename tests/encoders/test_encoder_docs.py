"""docs/encoders.md is run: every command in its blocks, in its order, on small stand-ins for what readers bring."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cafe.cache.format.reader import read_features
from cafe.cli.app import call
from cafe.encoders.examples import save_tiny_dinov2
from cafe.registry import entries

PAGE = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.S) for line in block.splitlines() if line]
CLASSES = ("cat", "dog", "cow")
LIBRARIES, OURS = entries("encoders", "ENCODER"), ("transformers", "open_clip", "vision")


@pytest.fixture(scope="module")
def desk(tmp_path_factory, make_tiny_clip):
    """A reader's desk: photographs, a model, text files, and features as other tools write them."""
    folder = tmp_path_factory.mktemp("desk")
    generator = np.random.default_rng(0)
    for name in CLASSES:
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(8):
            picture = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(picture).save(folder / "photos" / name / f"{i}.png")
    make_tiny_clip(folder / "my-clip")
    save_tiny_dinov2(folder / "my-dino")
    (folder / "templates.txt").write_text("a {}\nthe {c}\n")
    (folder / "names.txt").write_text("\n".join(CLASSES))
    (folder / "cupl.json").write_text(
        json.dumps({name: [f"{name}s are so."] * (i + 1) for i, name in enumerate(CLASSES)})
    )
    save_foreign(folder, generator)
    return folder


def save_foreign(folder, generator):
    import torch

    for name in ("clip_benchmark_features", "tip_adapter_cache", "coop_features"):
        (folder / name).mkdir()
    arrays = {}
    for split, n in (("train", 24), ("test", 12)):
        rows, labels = generator.standard_normal((n, 6)).astype(np.float32), np.arange(n) % 3
        torch.save(torch.from_numpy(rows), folder / "clip_benchmark_features" / f"features_{split}.pt")
        torch.save(torch.from_numpy(labels), folder / "clip_benchmark_features" / f"targets_{split}.pt")
        np.savez(folder / "coop_features" / f"{split}.npz", feature_list=rows, label_list=labels)
        if split == "train":
            torch.save(torch.from_numpy(rows.T.copy()), folder / "tip_adapter_cache" / "keys_8shots.pt")
            torch.save(torch.from_numpy(np.eye(3)[labels]), folder / "tip_adapter_cache" / "values_8shots.pt")
        else:
            torch.save(torch.from_numpy(rows), folder / "tip_adapter_cache" / "test_f.pt")
            torch.save(torch.from_numpy(labels), folder / "tip_adapter_cache" / "test_l.pt")
        save_clip_retrieval(folder / "clip_retrieval" / split, rows, labels)
        for shots in (1, 2, 4):
            if split == "train":
                drawn = generator.standard_normal((3 * shots, 6)).astype(np.float16)
                arrays |= {f"features_{shots}shot": drawn, f"labels_{shots}shot": np.arange(3 * shots) % 3}
    np.savez(folder / "features.npz", **arrays, class_names=np.array(CLASSES))


def save_clip_retrieval(folder, rows, labels):
    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    np.save(folder / "img_emb" / "img_emb_0.npy", rows)
    try:
        import pyarrow.parquet
    except ImportError:
        return
    table = pyarrow.table({"image_path": [f"p/{CLASSES[y]}/{i}.jpg" for i, y in enumerate(labels)]})
    pyarrow.parquet.write_table(table, folder / "metadata" / "metadata_0.parquet")


def with_stand_ins(text):
    """Name the small models of the desk in place of those that would be downloaded, and their caches."""
    for name, own in (("openai/clip-vit-base-patch32", "./my-clip"), ("facebook/dinov2-base", "./my-dino")):
        text = text.replace(name, own).replace(f"photos--{name.replace('/', '-')}", f"photos--{own.removeprefix('./')}")
    return text


def test_the_page_has_commands():
    assert len(COMMANDS) >= 25
    assert all(command.startswith("cafe ") for command in COMMANDS)


def test_every_command_runs(desk, monkeypatch, capfd, request):
    monkeypatch.chdir(desk)
    monkeypatch.setenv("CAFE_CACHE", str(desk / "cache"))
    skipped = []
    for command in COMMANDS:
        words = shlex.split(with_stand_ins(command))[1:]
        if any(word.startswith("open_clip:") for word in words):
            try:
                tiny = request.getfixturevalue("tiny_open_clip")
            except pytest.skip.Exception:
                skipped.append(command)
                continue
            words = [tiny if word.startswith("open_clip:") else word for word in words]
        if "parquet" in command or "clip_retrieval" in command:
            pytest.importorskip("pyarrow")
        assert call(words) == 0, f"{command}: {capfd.readouterr().err}"
    assert len(skipped) <= 2
    assert read_features(desk / "all.h5").provenance["fingerprint"]
    assert (desk / "all.text.parquet").is_file()
    # And in Python, on the caches that the commands left.
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    capfd.readouterr()
    exec(compile(with_stand_ins(block), "docs/encoders.md", "exec"), {})
    assert capfd.readouterr().out.strip()[2:-2] in CLASSES


def test_the_table_of_formats_names_those_that_there_are():
    from cafe.cache.transfer.importing import layouts

    formats = re.findall(r"^\| `([a-z-]+)` \|", PAGE.split("| `--format`")[1].split("\n\n")[0], flags=re.M)
    assert len(formats) >= 5
    assert set(formats) <= set(layouts())  # a new importer is one file, so it may be missing here


def families():
    """The page's table: what stands in the row of each family."""
    table = PAGE.split("| family | `--model`")[1].split("\n\n")[0].splitlines()[2:]
    return {cells[0]: cells[1:] for cells in ([cell.strip() for cell in row.strip("|").split("|")] for row in table)}


def test_the_table_of_families_is_what_cafe_models_lists(capfd):
    """Every model with its size, width, resolution and licence, in the row of its family, and no other family."""
    assert call(["models", "--json"]) == 0
    ours = [library.load().known_models for name, library in LIBRARIES.items() if name in OURS]
    names = {name for models in ours for name in models}  # a new encoder is one file, so it may be missing on the page
    listed = [row for row in json.loads(capfd.readouterr().out)["models"] if row["name"] in names]
    table = families()
    assert set(table) == {row["family"] for row in listed}
    for family, (models, licences, *_) in table.items():
        own = [row for row in listed if row["family"] == family]
        numbers = [(row["parameters"], row["width"], row["resolution"]) for row in own]
        written = [", ".join("-" if number is None else f"{number:g}" for number in three) for three in numbers]
        assert models == ", ".join(f"`{row['name']}` ({text})" for row, text in zip(own, written, strict=True)), family
        assert licences == ", ".join(dict.fromkeys(row["licence"] or "none named" for row in own)), family
        assert all(row["good_at"] for row in own)


def test_every_family_of_the_table_is_tested_where_it_says():
    here = Path(__file__).parent
    for family, (*_, files, _) in families().items():
        named = re.findall(r"`(test_\w+\.py)`", files)
        assert named, family
        assert all((here / name).is_file() for name in named), family
    tiny = set(re.findall(r'^    "([^"]+)": \(', (here / "test_open_clip_families.py").read_text(), re.M))
    assert {name.removesuffix(" S0").removesuffix(" B") for name in tiny} <= set(families())
    assert len(tiny) >= 10


def test_every_kind_that_is_named_is_tested():
    kinds = (Path(__file__).parent / "test_kinds.py").read_text(encoding="utf-8").lower().replace("-", "")
    (named,) = re.findall(r"end in one vector each: (.*?) and dual encoders", PAGE, flags=re.S)
    for kind in re.split(r",\s*|\s+and\s+", re.sub(r"\(.*?\)", "", named)):
        assert kind.strip().lower().replace("-", "").replace(" ", "") in kinds.replace(" ", ""), kind
