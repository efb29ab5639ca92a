"""What caches are called, which there are, which one is meant."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from cafe.cache.format.writer import write_cache
from cafe.cache.locate import cache_path, find_cache, list_caches
from cafe.errors import CacheError


@pytest.fixture
def folder(make, tmp_path):
    """Three caches, the newest in the middle of the alphabet."""
    for day, (name, dataset) in enumerate(
        [("digits--mini", "digits"), ("pets--mini", "pets"), ("digits--vit", "digits")]
    ):
        moment = datetime(2026, 1, 1 + day, tzinfo=UTC)
        write_cache(tmp_path / f"{name}.h5", make.features(), make.provenance(dataset=dataset), created=moment)
    return tmp_path


def test_names_hold_nothing_that_a_file_system_dislikes():
    assert cache_path(Path("c"), "digits", "cafe:mini") == Path("c/digits--cafe-mini.h5")
    assert cache_path(Path("c"), "../my photos", "/models/clip").name == "my-photos--models-clip.h5"


def test_list_is_newest_first_and_damage_is_not_fatal(folder):
    (folder / "broken.h5").write_bytes((folder / "pets--mini.h5").read_bytes()[:-1])
    (folder / ".pets.h5.00000000-1-00000000.tmp").write_bytes(b"")
    (folder / "notes.txt").write_text("mine")
    listed = list_caches(folder)
    assert [summary.path.stem for summary in listed] == ["digits--vit", "pets--mini", "digits--mini", "broken"]
    assert "truncated" in listed[-1].damaged
    newest = listed[0].to_json()
    assert newest["splits"] == {"train": 5, "test": 4}
    assert (newest["dim"], newest["n_classes"], newest["n_templates"]) == (6, 3, 2)
    assert (newest["dataset"], newest["stored_dtype"], newest["damaged"]) == ("digits", "float16", None)
    assert newest["created"] == "2026-01-03T00:00:00.000000+00:00"
    assert list_caches(folder / "none") == []


def test_find_newest_by_time_recorded(folder):
    assert find_cache(None, folder).stem == "digits--vit"


def test_find_by_data_set_or_file_name(folder):
    assert find_cache("pets", folder).stem == "pets--mini"
    assert find_cache("digits--mini", folder).stem == "digits--mini"
    assert find_cache("digits--mini.h5", folder).stem == "digits--mini"
    assert find_cache(folder / "pets--mini.h5", Path("elsewhere")) == folder / "pets--mini.h5"
    assert find_cache(str(folder / "pets--mini.h5"), Path("elsewhere")) == folder / "pets--mini.h5"


def test_several_that_fit_are_all_named(folder):
    with pytest.warns(
        UserWarning,
        match=r"2 caches fit 'digits' \(digits--vit\.h5, digits--mini\.h5\); taking the one last used or made",
    ):
        assert find_cache("digits", folder).stem == "digits--vit"


def test_none_yet(tmp_path):
    with pytest.raises(CacheError, match="there is no cache in .* yet; make one with: cafe extract"):
        find_cache(None, tmp_path)
    with pytest.raises(CacheError, match="there is no cache 'pets' in .*none yet"):
        find_cache("pets", tmp_path)


def test_unknown_name_lists_what_there_is(folder):
    with pytest.raises(CacheError, match=r"no cache 'cars'.*those there are: digits--vit, pets--mini, digits--mini"):
        find_cache("cars", folder)
    with pytest.raises(CacheError, match=r"there is no cache .*cars\.h5"):
        find_cache("cars.h5", folder)


@pytest.mark.parametrize("name", ["broken", "broken.h5"])
def test_a_damaged_cache_that_is_named_says_what_is_wrong_with_it(folder, name):
    (folder / "broken.h5").write_bytes((folder / "pets--mini.h5").read_bytes()[:-1])
    with pytest.raises(CacheError, match=r"broken\.h5 is truncated"):
        find_cache(name, folder)


def test_damaged_caches_are_counted_where_none_fits(folder):
    (folder / "broken.h5").write_bytes((folder / "pets--mini.h5").read_bytes()[:-1])
    with pytest.raises(CacheError, match="and 1 damaged"):
        find_cache("cars", folder)
