"""What every importer holds, tried on whatever lies in cache/transfer/importers/ and the example that it writes."""

import hashlib
import json

import numpy as np
import pytest

from cafe.cache.format.reader import read_features
from cafe.cache.format.verify import verify_cache
from cafe.cache.transfer.importing import import_features, layouts
from cafe.cli.app import call
from cafe.errors import InputError, MissingDependencyError
from cafe.registry import entries

IMPORTERS = entries("cache.transfer.importers", "IMPORTER")
every_layout = pytest.mark.parametrize("layout", sorted(IMPORTERS))
C = 3


@pytest.fixture(scope="module")
def splits():
    """Features of unit length, exact in float16 as well as in float32, and labels, by split."""
    generator = np.random.default_rng(0)
    made = {}
    for split, n in {"train": 12, "val": 6, "test": 9}.items():
        rows = generator.standard_normal((n, 5))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        made[split] = rows.astype(np.float16).astype(np.float32), np.arange(n) % C
    return made


@pytest.fixture
def example(layout, splits, tmp_path):
    """The importer, and the example that it wrote."""
    importer = IMPORTERS[layout].load()
    (tmp_path / "mine").mkdir()
    try:
        return importer, importer.write_example(tmp_path / "mine", splits)
    except MissingDependencyError as error:
        pytest.skip(str(error))


def test_there_are_importers():
    assert {"arrays", "clip-benchmark", "clip-retrieval", "coop", "tip-adapter"} <= set(IMPORTERS) == set(layouts())


@every_layout
def test_the_example_comes_in_as_it_is(layout, example, splits, tmp_path):
    importer, source = example
    summary = import_features(source, tmp_path / "out.h5", encoder="ViT-B/32")
    assert summary.layout == layout  # which auto found out
    features = read_features(tmp_path / "out.h5")
    assert list(features.splits) == ["train", "val", "test"]
    for split, (rows, labels) in splits.items():
        np.testing.assert_array_equal(features.splits[split].image_features, rows)
        assert features.splits[split].labels.tolist() == labels.tolist()
    assert len(features.class_names) == C
    assert features.provenance["dataset"] == source.stem
    assert features.provenance["encoder"] == "ViT-B/32"
    assert features.provenance["normalised"] is True
    assert features.provenance["image"]["imported"]["format"] == layout
    assert verify_cache(tmp_path / "out.h5").ok


@every_layout
def test_every_file_that_was_read_is_recorded(layout, example, tmp_path):
    _, source = example
    recorded = import_features(source, tmp_path / "out.h5").features.provenance["image"]["imported"]["files"]
    files = [path for path in (tmp_path / "mine").rglob("*") if path.is_file()]
    expected = {(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files}
    assert {(file["name"], file["sha256"]) for file in recorded} == expected


@every_layout
def test_no_other_importer_claims_the_example(layout, example):
    """Or what `auto` takes would depend on the order of names."""
    _, source = example
    claims = [name for name, entry in IMPORTERS.items() if entry.load().accepts(source)]
    assert layout in claims
    assert [name for name in claims if not IMPORTERS[name].load().accepts_anything or name == layout] == [layout]


@every_layout
def test_a_split_may_be_missing(layout, splits, tmp_path):
    try:
        source = IMPORTERS[layout].load().write_example(tmp_path, {"train": splits["train"], "test": splits["test"]})
    except MissingDependencyError as error:
        pytest.skip(str(error))
    assert list(import_features(source, tmp_path / "out.h5").features.splits) == ["train", "test"]


@every_layout
def test_what_is_not_its_own_is_refused_by_name(layout, tmp_path):
    importer = IMPORTERS[layout].load()
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.md").write_text("mine")
    for path in (tmp_path / "empty", tmp_path / "notes.md"):
        assert importer.accepts(path) is False
        with pytest.raises(InputError, match=path.name):
            import_features(path, tmp_path / "out.h5", layout=layout)
    assert not (tmp_path / "out.h5").exists()


@every_layout
@pytest.mark.parametrize(
    "damage",
    [lambda content: content[: len(content) // 2], lambda content: b"", bytes.swapcase],
    ids=["half", "empty", "swapped"],
)
def test_a_damaged_file_is_a_sentence_and_no_traceback(layout, example, damage, tmp_path):
    _, source = example
    for path in sorted(path for path in (tmp_path / "mine").rglob("*") if path.is_file()):
        whole = path.read_bytes()
        path.write_bytes(damage(whole))
        try:
            import_features(source, tmp_path / "out.h5", layout=layout, force=True)
        except InputError as error:
            assert "Traceback" not in str(error)
        path.write_bytes(whole)
    import_features(source, tmp_path / "out.h5", layout=layout, force=True)


@every_layout
def test_the_command_line(layout, example, tmp_path, capfd):
    _, source = example
    out = str(tmp_path / "out.h5")
    assert call(["cache", "import", str(source), "--format", layout, "--out", out, "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["format"], document["path"]) == (layout, out)
    assert document["splits"] == {"train": 12, "val": 6, "test": 9}
