"""``cafe cache ls | info | verify | rm``."""

from __future__ import annotations

import h5py
import pytest


def damage(path):
    """Flip one number of one array, as a failing disk would."""
    with h5py.File(path, "r+") as file:
        array = file["splits/test/image_features"]
        array[0, 0] = array[0, 0] + 1


def test_ls_of_an_empty_folder(cafe, cache_dir):
    assert cafe("cache", "ls", "--json").json == {"cache_dir": str(cache_dir), "caches": []}
    outcome = cafe("cache", "ls")
    assert (outcome.code, outcome.out) == (0, "")
    assert "cafe extract FOLDER" in outcome.err


def test_ls_names_every_cache(cafe, make_cache):
    paths = {make_cache("blobs"), make_cache("drops")}
    caches = cafe("cache", "ls", "--json").json["caches"]
    assert {row["path"] for row in caches} == {str(path) for path in paths}
    assert {row["dataset"]: row["splits"] for row in caches}["drops"] == {"train": 80, "val": 24, "test": 100}
    text = cafe("cache", "ls").out
    assert "blobs--made-up.h5" in text and "204" in text


def test_ls_shows_damaged_files_without_failing(cafe, blobs):
    blobs.write_bytes(blobs.read_bytes()[:1000])
    outcome = cafe("cache", "ls")
    assert outcome.code == 0
    assert "damaged" in outcome.out and "warning:" in outcome.err


def test_info_holds_names_templates_and_provenance(cafe, blobs):
    info = cafe("cache", "info", "--json").json
    assert info["class_names"] == ["class 0", "class 1", "class 2", "class 3"]
    assert info["templates"] == ["a {}"]
    assert info["logit_scale"] == 20.0
    assert info["provenance"]["fingerprint"] == info["fingerprint"]


def test_info_takes_a_name_a_file_name_or_a_path(cafe, blobs, make_cache):
    make_cache("drops")
    for name in ("blobs", blobs.stem, blobs.name, blobs):
        outcome = cafe("cache", "info", name, "--json")
        assert outcome.json["dataset"] == "blobs"
        assert "using the newest" not in outcome.err
    assert "using the cache last used" in cafe("cache", "info").err
    assert cafe("cache", "info", "--quiet").err == ""


def test_verify_a_sound_cache(cafe, blobs):
    report = cafe("cache", "verify", "--json").json
    assert report["ok"] is True and report["findings"] == []
    assert report["arrays"] >= 12  # image features, labels, ids and sizes of three splits, and text


def test_verify_finds_one_changed_number(cafe, blobs):
    damage(blobs)
    outcome = cafe("cache", "verify")
    assert outcome.code == 2 and outcome.out == ""
    assert "splits/test/image_features" in outcome.err and "Traceback" not in outcome.err
    report = cafe("cache", "verify", "--json")
    assert report.code == 2
    assert report.json["ok"] is False and len(report.json["findings"]) >= 1


def test_rm_removes_what_is_named_and_only_that(cafe, blobs, make_cache):
    other = make_cache("drops")
    assert cafe("cache", "rm", "drops", "--yes", "--json").json == {"removed": [str(other)]}
    assert blobs.exists() and not other.exists()


@pytest.mark.parametrize("names", [["blobs", "nothing"], ["nothing"]])
def test_rm_of_a_wrong_name_removes_nothing(cafe, blobs, names):
    outcome = cafe("cache", "rm", *names, "--yes")
    assert outcome.code == 2
    assert blobs.exists()


def test_rm_without_anyone_to_ask_removes_nothing(cafe, blobs):
    outcome = cafe("cache", "rm", "blobs")
    assert outcome.code == 2
    assert "--yes" in outcome.err
    assert blobs.exists()


def test_rm_of_a_name_that_fits_several_asks_which(cafe, make_cache):
    paths = [make_cache("blobs"), make_cache("blobs", encoder="another")]
    outcome = cafe("cache", "rm", "blobs", "--yes")
    assert outcome.code == 2
    assert all(path.name in outcome.err for path in paths)
    assert all(path.exists() for path in paths)


def test_rm_can_remove_a_damaged_file(cafe, blobs):
    blobs.write_bytes(b"not hdf5")
    assert cafe("cache", "rm", blobs.stem, "--yes").code == 2
    assert cafe("cache", "rm", blobs.stem, "--yes", "--damaged").code == 0
    assert not blobs.exists()


def test_old_versions_are_shown_and_removed_together(cafe, cache_dir, tmp_path):
    from PIL import Image

    def fill(n):
        for number in range(n):
            place = tmp_path / "photos" / ("cat", "dog")[number % 2] / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (7 * number, 90, 3)).save(place)

    fill(20)
    options = ("extract", str(tmp_path / "photos"), "--model", "cafe:mini", "--json")
    first = cafe(*options)
    assert (first.json["encoded"], first.json["kept"]) == (20, 0)
    fill(23)
    (tmp_path / "photos" / "notes.txt").touch()
    grown = cafe(*options)
    assert (grown.json["encoded"], grown.json["kept"]) == (3, 20)
    assert grown.json["contents"]["left_out"] == [{"path": "notes.txt", "why": "no image by its name"}]
    assert "old versions of it: photos--cafe-mini.h5" in grown.err
    caches = cafe("cache", "ls", "--json").json["caches"]
    assert {row["path"]: row["replaced_by"] for row in caches} == {
        first.json["path"]: grown.json["path"],
        grown.json["path"]: None,
    }
    listed = cafe("cache", "ls")
    assert listed.out.count("(old version)") == 1
    assert "cafe cache rm --old" in listed.err
    assert cafe("cache", "rm").code == 2
    assert cafe("cache", "rm", "--old", "--yes", "--json").json == {"removed": [first.json["path"]]}
    assert cafe("cache", "rm", "--old", "--yes", "--json").json == {"removed": []}
    assert [row["path"] for row in cafe("cache", "ls", "--json").json["caches"]] == [grown.json["path"]]
