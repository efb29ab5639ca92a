"""docs/sources.md is run: every command and its Python, on small stand-ins for what it names."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from cafe.cli.app import call
from cafe.data import open_dataset
from cafe.data.images import decoding as images_module
from cafe.registry import entries

TEXT = (Path(__file__).parents[2] / "docs" / "sources.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, flags=re.S) for line in block.splitlines()]


def write_tables(desk: Path, make_files) -> None:
    names = make_files(desk, [f"photos/{n}.png" for n in range(8)])
    rows = [(name, ("hot dog", "pizza")[n % 2], "train" if n < 4 else "test") for n, name in enumerate(names)]
    for file, head, chosen in (
        ("labels.csv", "file_name,label,split", rows),
        ("other.csv", "photo,kind,fold", rows),
        ("lacking.csv", "path,label,split", [*rows, ("photos/lost.png", "pizza", "test")]),
    ):
        (desk / file).write_text("\n".join([head, *map(",".join, chosen)]))
    lines = [json.dumps({"image": name, "label": label}) for name, label, _ in rows]
    (desk / "labels.jsonl").write_text("\n".join(lines))
    for split in ("train", "test"):
        own = make_files(desk / "imagefolder" / split, ["0.png", "1.png"])
        lines = [json.dumps({"file_name": name, "label": label}) for name, label in zip(own, ("x", "y"), strict=True)]
        (desk / "imagefolder" / split / "metadata.jsonl").write_text("\n".join(lines))


def write_shards(desk: Path, make_tar, make_png) -> None:
    for number, name in enumerate(("train/000", "train/001", "test/000")):
        members = {}
        for n in range(4):
            members |= {f"{n}.png": make_png(10 * number + n), f"{n}.cls": str(n % 2).encode()}
        make_tar(desk / "shards" / f"{name}.tar", members)
    (desk / "shards" / "classnames.txt").write_text("cat\ndog\n")
    (desk / "shards" / "train" / "classnames.txt").write_text("cat\ndog\n")


@pytest.fixture(scope="module")
def desk(tmp_path_factory, bring, plant, make_files, make_tar, make_png) -> Path:
    """Everything that the document names, in one folder."""
    datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
    desk = tmp_path_factory.mktemp("desk")
    plant("oxford-pets", desk / "data")
    make_files(desk / "my_photos", [f"{kind}/{n}.png" for kind in ("hot_dog", "pizza") for n in range(5)])
    splits = [f"{split}/{kind}/{n}.png" for split in ("train", "test") for kind in ("a", "b") for n in range(2)]
    make_files(desk / "my_split_photos", splits)
    write_tables(desk, make_files)
    bring["coop-json"](desk)
    shutil.copytree(desk / "images", desk / "elsewhere")
    write_shards(desk, make_tar, make_png)
    bring["hugging-face"](desk / "parquet")
    cells = [{"bytes": make_png(n), "path": None} for n in range(10)]
    rows = datasets.Dataset.from_dict({"photo": cells, "kind": ["x", "y"] * 5})
    rows.cast_column("photo", datasets.Image()).save_to_disk(desk / "saved")
    make_files(desk / "damaged", [f"{kind}/{n}.png" for kind in ("a", "b") for n in range(8)])
    whole = (desk / "damaged" / "a" / "0.png").read_bytes()
    for name, content in (("cut.png", whole[:40]), ("empty.jpg", b""), ("text.jpg", b"not an image at all")):
        (desk / "damaged" / "b" / name).write_bytes(content)
    return desk


@pytest.fixture(autouse=True)
def _at_the_desk(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = sys.modules["datasets"]
    real = datasets.load_dataset

    def load_dataset(name, *rest, **options):
        if name != "owner/pets":
            return real(name, *rest, **options)
        files = {
            split: str(desk / "parquet" / "data" / f"{split}-00000-of-00001.parquet") for split in ("train", "test")
        }
        return real("parquet", data_files=files)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)  # the hub, which is not asked
    monkeypatch.chdir(desk)
    monkeypatch.delenv("CAFE_DATA", raising=False)
    monkeypatch.setenv("CAFE_CACHE", str(desk / "cache"))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run_as_typed(command: str, capfd) -> None:
    program, *words = shlex.split(command)
    assert program == "cafe"
    code = call([*words, "--json"])
    said = capfd.readouterr()
    assert code == 0, said.err
    answer = json.loads(said.out)
    if words[0] == "extract":
        assert answer["splits"]["train"] > 0
        assert answer["n_classes"] == 2


def test_every_source_of_the_page_is_shown() -> None:
    shown = set()
    for command in COMMANDS:
        words = shlex.split(command)
        if words[1] == "extract":
            dataset = open_dataset(words[3], Path("data"), lenient="--on-error" in words)
            shown.add(type(dataset).__name__)
    assert shown == {"ImageFolder", "Table", "CoopJson", "WebDataset", "HuggingFace", "OxfordPets"}


def test_python_runs(desk: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)
    names: dict[str, object] = {}
    exec(compile(block, "sources.md", "exec"), names)
    assert names["summary"].splits == {"train": 10, "val": 4, "test": 6}


def test_the_table_of_named_sets_is_the_code() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line[:3] == "| `"]
    assert len(rows) == 15
    for name, *cells in rows:
        cls = entries("data", "DATASET")[name.strip("`")].load()
        counts = [str(cls.published.get(key, "")) for key in ("classes", "train", "val", "test")]
        assert cells[1:5] == counts
        assert cls.expected()[0].partition("/")[0] in cells[0]
        assert cells[5] == cls.templates[0] or len(cls.templates) == 7


def test_the_table_of_images_is_the_code() -> None:
    table = images_module.__doc__.split("===\n")
    rows = [line for part in table for line in part.splitlines() if "  " in line and not line.startswith("=")]
    documented = [
        [cell.strip() for cell in row] for row in re.findall(r"^\| ([^|`]+) \| ([^|`]+) \|$", TEXT, flags=re.M)
    ]
    assert len(rows) >= 12
    for row in rows:
        assert re.split(r"\s{2,}", row.strip()) in documented


def test_refused_images_are_recorded_by_id(capfd) -> None:
    assert call(["extract", "--dataset", "./damaged", "--json", "--force"]) == 0
    unreadable = json.loads(capfd.readouterr().out)["unreadable"]
    assert sorted(entry["sample_id"] for entry in unreadable) == ["b/cut.png", "b/empty.jpg", "b/text.jpg"]
    assert call(["extract", "--dataset", "./damaged", "--on-error", "fail", "--force"]) == 2
    assert re.search(r"b/(cut|empty|text)", capfd.readouterr().err)


def test_a_lacking_file_stops_unless_it_may_be_skipped(capfd) -> None:
    for extra in ([], ["--on-error", "fail"]):
        assert call(["extract", "--dataset", "lacking.csv", *extra]) == 2
        assert "names 1 image that is not in" in capfd.readouterr().err
    assert call(["extract", "--dataset", "lacking.csv", "--on-error", "skip", "--json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert [entry["sample_id"] for entry in answer["unreadable"]] == ["photos/lost.png"]
    assert answer["splits"] == {"train": 4, "test": 4}
