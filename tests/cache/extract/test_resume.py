"""An extraction that is cut off anywhere is carried on with the same bytes, and little is done twice."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections import namedtuple

import pytest

from cafe import files as atomic
from cafe.cache.extract import array_file, unfinished
from cafe.cache.extract.plan import Draws
from cafe.cache.extract.progress import ExtractionInterrupted
from cafe.cache.extract.run import extract, extract_many
from cafe.cache.extract.shards import StoredShard, cut_shards
from cafe.cache.extract.unfinished import UnfinishedCache, partial_folder
from cafe.cache.extract.views import Views
from cafe.cache.format.fingerprint import fingerprint
from cafe.cache.format.reader import read_features
from cafe.cache.format.verify import verify_cache
from cafe.errors import CacheError, CafeError, InputError
from cafe.files import host_name

COUNTS = {"train": 21, "test": 11}  # of batches of 1: shards of 8, so 3 and 2 of them


def content(path):
    """Everything that two runs of the same extraction must agree on."""
    import h5py

    with h5py.File(path) as file:
        return file.attrs["content_sha256"]


def stopping_after(calls):
    count = 0

    def tell(state):
        nonlocal count
        count += state.stage == "images"
        if count > calls:
            raise KeyboardInterrupt

    return tell


@pytest.fixture
def case(fakes, tmp_path_factory):
    """``case()`` is a fresh data set and encoder, and ``case.whole`` the content of an undisturbed run."""

    class Case:
        def __call__(self):
            return fakes[0](COUNTS, unreadable=["train/image_03.png"]), fakes[1](batch_size=1)

    case = Case()
    case.options = {"views": Views(1)}
    case.whole = content(extract(*case(), tmp_path_factory.mktemp("whole") / "whole.h5", **case.options).path)
    return case


@pytest.mark.parametrize("calls", [0, 1, 8, 20, 25, 31])
def test_cut_off_and_carried_on(case, tmp_path, calls):
    path = tmp_path / "a.h5"
    dataset, encoder = case()
    with pytest.raises(ExtractionInterrupted):
        extract(dataset, encoder, path, progress=stopping_after(calls), **case.options)
    first = len(encoder.batches)
    assert not path.exists()
    again = case()[1]
    summary = extract(dataset, again, path, **case.options)
    assert content(path) == case.whole
    assert [entry.name for entry in tmp_path.iterdir() if entry.suffix != ".h5"] == []
    # 20 readable training images twice, 11 test images; beyond that at most the shard that was under way.
    assert 51 <= first + len(again.batches) <= 51 + 16
    assert summary.kept == {0: 0, 1: 0, 8: 7, 20: 15, 25: 20, 31: 28}[calls]  # one of the first shard has no row


def test_what_is_kept_is_said(case, tmp_path):
    dataset, encoder = case()
    with pytest.raises(ExtractionInterrupted, match=r"^interrupted; 16 of 32 images are kept in .*a\.h5\.partial, and"):
        extract(dataset, encoder, tmp_path / "a.h5", progress=stopping_after(20), **case.options)
    seen = []
    extract(dataset, encoder, tmp_path / "a.h5", progress=seen.append, **case.options)
    assert (seen[0].done, seen[0].total, seen[0].kept) == (16, 32, 16)


def test_full_disk_keeps_what_is_done(case, tmp_path, monkeypatch):
    dataset, encoder = case()
    real, begun = array_file.write_all, []

    def write_all(stream, data):
        begun.append(bytes(data[:11]) == b"cafe arrays")
        if sum(begun) == 3:
            stream.write(b"half a sha")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(stream, data)

    monkeypatch.setattr(array_file, "write_all", write_all)
    with pytest.raises(CafeError, match=r"no space left on device; 16 of 32 images are kept") as caught:
        extract(dataset, encoder, tmp_path / "a.h5", **case.options)
    assert caught.value.exit_code == 1
    assert not list(tmp_path.rglob("*.tmp"))
    monkeypatch.undo()
    extract(dataset, encoder, tmp_path / "a.h5", **case.options)
    assert content(tmp_path / "a.h5") == case.whole


def test_a_limit_of_file_sizes_keeps_all_shards(case, tmp_path, monkeypatch):
    real = atomic._reserve

    def reserve(descriptor, size):  # files of more than 100 KB are refused: the finished one is, with its slack
        if size > 100_000:
            raise OSError(errno.EFBIG, "File too large")
        real(descriptor, size)

    monkeypatch.setattr(atomic, "_reserve", reserve)
    with pytest.raises(
        CafeError, match=r"a\.h5 could not be written .*: file too large; 32 of 32 images are kept"
    ) as caught:
        extract(*case(), tmp_path / "a.h5", **case.options)
    assert caught.value.exit_code == 1
    assert not list(tmp_path.rglob("*.tmp"))
    monkeypatch.undo()
    assert extract(*case(), tmp_path / "a.h5", **case.options).kept == 31  # and one that cannot be read
    assert content(tmp_path / "a.h5") == case.whole


def test_no_space_for_the_file_keeps_all_shards(case, tmp_path, monkeypatch):
    dataset, encoder = case()
    usage = namedtuple("usage", "total used free")
    real = atomic.shutil.disk_usage

    def disk_usage(folder):  # full once all five shards are written
        full = len(list(tmp_path.glob("a.h5.partial/shard-*.arrays"))) == 5
        return usage(1000, 0, 1000) if full else real(folder)

    monkeypatch.setattr(atomic.shutil, "disk_usage", disk_usage)
    with pytest.raises(CafeError, match="only 0.0 MB are free"):
        extract(dataset, encoder, tmp_path / "a.h5", **case.options)
    monkeypatch.undo()
    again = case()[1]
    extract(dataset, again, tmp_path / "a.h5", **case.options)
    assert again.batches == []
    assert content(tmp_path / "a.h5") == case.whole


def test_text_that_is_done_is_kept(case, tmp_path):
    dataset, encoder = case()
    real = encoder.encode_text
    encoder.encode_text = lambda prompts: (_ for _ in ()).throw(KeyboardInterrupt) if encoder.prompts else real(prompts)
    with pytest.raises(KeyboardInterrupt):
        extract(dataset, encoder, tmp_path / "a.h5", **case.options)
    again = case()[1]
    extract(dataset, again, tmp_path / "a.h5", **case.options)
    assert (again.batches, again.prompts) == ([], ["the cat", "the dog"])
    assert content(tmp_path / "a.h5") == case.whole


@pytest.mark.parametrize("damage", [b"", b"PK half", None])
def test_a_damaged_shard_is_made_again(case, tmp_path, damage):
    dataset, encoder = case()
    with pytest.raises(ExtractionInterrupted):
        extract(dataset, encoder, tmp_path / "a.h5", progress=stopping_after(25), **case.options)
    shard = tmp_path / "a.h5.partial" / "shard-000001.arrays"
    broken = bytearray(shard.read_bytes())
    broken[100] ^= 1  # within the features
    shard.write_bytes(bytes(broken) if damage is None else damage)
    assert extract(dataset, encoder, tmp_path / "a.h5", **case.options).kept == 12
    assert content(tmp_path / "a.h5") == case.whole


def begin(case, path, **options):
    with pytest.raises(ExtractionInterrupted):
        extract(*case(), path, progress=stopping_after(20), **{**case.options, **options})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"stored_dtype": "float32"}, 'image.stored_dtype = "float16", but "float32" was asked for'),
        ({"views": Views(2)}, "image.views.n = 1, but 2 was asked for"),
        ({"batch_size": 4}, "batch_size = 1, but 4 was asked for"),
        ({"draws": Draws((1,))}, 'image.draws = nothing, but {"shots": [1]'),
    ],
)
def test_another_request_cannot_resume_and_the_error_names_the_field(case, tmp_path, change, field):
    path = tmp_path / "a.h5"
    begin(case, path)
    with pytest.raises(CacheError) as caught:
        extract(*case(), path, **{**case.options, **change})
    assert field in str(caught.value)
    assert "--force" in str(caught.value)
    extract(*case(), path, **case.options)
    assert content(path) == case.whole


def test_another_encoder_is_refused_and_force_discards(case, tmp_path):
    path = tmp_path / "a.h5"
    begin(case, path)
    dataset, encoder = case()
    encoder.image_identity = {**encoder.image_identity, "dtype": "bfloat16"}
    with pytest.raises(CacheError, match='image.encoder.dtype = "float32", but "bfloat16" was asked for'):
        extract(dataset, encoder, path, **case.options)
    summary = extract(dataset, encoder, path, force=True, **case.options)
    assert (summary.kept, summary.action) == (0, "extracted")
    assert not partial_folder(path).exists()


def test_a_forced_run_is_carried_on_too(case, tmp_path):
    path = tmp_path / "a.h5"
    extract(*case(), path, **case.options)
    for cut in (True, False):
        summary = None
        dataset, encoder = case()
        try:
            stop = stopping_after(20) if cut else None
            summary = extract(dataset, encoder, path, force=True, progress=stop, **case.options)
        except ExtractionInterrupted:
            assert verify_cache(path).ok  # the old file is there until the new one is whole
    assert summary is not None and summary.kept == 15
    assert content(path) == case.whole


def test_the_batch_size_is_kept(case, tmp_path):
    path = tmp_path / "a.h5"
    begin(case, path, batch_size=2)
    dataset, encoder = case()
    extract(dataset, encoder, path, **case.options)
    assert max(encoder.batches) == 2
    assert read_features(path).provenance["recorded"]["image"]["batch_size"] == 2


def test_another_device_is_a_note(case, tmp_path):
    path = tmp_path / "a.h5"
    begin(case, path)
    dataset, encoder = case()
    encoder.device = "cuda:0"
    notes = extract(dataset, encoder, path, **case.options).notes
    assert 'the part that was there was made with device = "cpu", but "cuda:0" is here now' in notes
    assert read_features(path).provenance["recorded"]["image"]["device"] == "cpu"


def test_what_a_kill_leaves_after_finishing_is_removed(case, tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    dataset, encoder = case()
    monkeypatch.setattr(UnfinishedCache, "remove", lambda self: None)
    extract(dataset, encoder, path, **case.options)
    assert partial_folder(path).exists()
    monkeypatch.undo()
    assert extract(dataset, encoder, path, **case.options).action == "already there"
    assert [entry.name for entry in tmp_path.iterdir() if entry.suffix != ".h5"] == []


def test_a_lock_that_a_kill_leaves_after_the_shards_are_removed_goes_too(case, tmp_path):
    path, lock = tmp_path / "a.h5", tmp_path / ".a.h5.partial.lock"
    extract(*case(), path, **case.options)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    lock.write_text(f"{host_name()} {ended.pid} 0123abcd\n")
    assert extract(*case(), path, **case.options).action == "already there"
    assert [entry.name for entry in tmp_path.iterdir() if entry.suffix != ".h5"] == []


def test_manifest_of_another_version_is_named(case, tmp_path):
    path = tmp_path / "a.h5"
    begin(case, path)
    manifest = partial_folder(path) / "manifest.json"
    # Version 1, of cafe 0.1.0, had no checksums: what was altered in it could not be told from what was written.
    for version, cafe in ((1, "0.1.0"), (99, "9.0")):
        manifest.write_text(json.dumps({"format": "cafe-partial", "format_version": version, "cafe_version": cafe}))
        with pytest.raises(CacheError, match=rf"has format version {version}, .*\({cafe}\); or discard it"):
            extract(*case(), path, **case.options)
    manifest.write_text("{")
    with pytest.raises(CacheError, match="cannot be read"):
        extract(*case(), path, **case.options)
    extract(*case(), path, **case.options, force=True)
    assert content(path) == case.whole


def test_nothing_is_extracted_through_a_link(case, tmp_path):
    (tmp_path / "victim").mkdir()
    (tmp_path / "a.h5.partial").symlink_to(tmp_path / "victim")
    with pytest.raises(CacheError, match="is a link"):
        extract(*case(), tmp_path / "a.h5", **case.options)
    assert not list((tmp_path / "victim").iterdir())


def test_a_flipped_bit_in_an_unfinished_extraction_changes_nothing(case, tmp_path):
    """Of the manifest and of each shard, a bit in every 37th byte: refused, or made again; never another file."""
    path = tmp_path / "a.h5"
    begin(case, path)
    whole = {file.name: file.read_bytes() for file in partial_folder(path).iterdir()}
    for name in ("manifest.json", "shard-000000.arrays"):
        for place in range(0, len(whole[name]), 37):
            for file, data in whole.items():
                partial_folder(path).mkdir(exist_ok=True)
                (partial_folder(path) / file).write_bytes(data)
            path.unlink(missing_ok=True)
            broken = bytearray(whole[name])
            broken[place] ^= 1 << place % 8
            (partial_folder(path) / name).write_bytes(bytes(broken))
            if name == "manifest.json":
                with pytest.raises(CacheError, match=r"manifest\.json (cannot be read|has format version)"):
                    unfinished._read_manifest(partial_folder(path))
                continue
            shard = cut_shards([("train", 21, 1)], 8)[0]
            run = fingerprint(json.loads(whole["manifest.json"])["identity"])
            with pytest.raises(CacheError, match="shard-000000 in .* was damaged and is removed"):
                StoredShard(partial_folder(path) / name, run, shard, "float16").check()


def test_several_encoders_decode_once(fakes, tmp_path):
    dataset = fakes[0](COUNTS)
    other = {"id": "fake/other", "image_identity": {"weights_sha256": "77" * 32}, "batch_size": 1}
    encoders = [fakes[1](batch_size=1), fakes[1](**other)]
    alone = [content(extract(dataset, e, tmp_path / f"alone{i}.h5").path) for i, e in enumerate(encoders)]
    paths = [tmp_path / "a.h5", tmp_path / "b.h5"]
    with pytest.raises(ExtractionInterrupted):
        extract_many(dataset, encoders, paths, progress=stopping_after(10), workers=0)
    (tmp_path / "b.h5.partial" / "shard-000000.arrays").unlink()  # one is behind the other
    dataset.opened = 0
    extract_many(dataset, encoders, paths, workers=0)
    assert [content(path) for path in paths] == alone
    assert dataset.opened == 8 + 24  # what one of them lacks, and what both do


def test_options_out_of_range(dataset, encoder, tmp_path):
    with pytest.raises(InputError, match="batch size"):
        extract(dataset, encoder, tmp_path / "a.h5", batch_size=0)
    with pytest.raises(InputError, match="--workers"):
        extract(dataset, encoder, tmp_path / "a.h5", workers=-1)


def test_a_damaged_view_is_found_while_the_file_is_written(case, tmp_path, monkeypatch):
    """A shard that breaks after it was checked ends the run without a file; the next run makes it again."""
    from cafe.cache.extract import run

    path, real = tmp_path / "a.h5", run.finish

    def finish(extraction, reporter):
        shard = partial_folder(path) / "shard-000001.arrays"
        broken = bytearray(shard.read_bytes())
        broken[-1] ^= 1  # the last byte of the last view
        shard.write_bytes(bytes(broken))
        return real(extraction, reporter)

    monkeypatch.setattr(run, "finish", finish)
    with pytest.raises(CacheError, match=r"shard-000001 in .*a\.h5\.partial was damaged and is removed"):
        extract(*case(), path, **case.options)
    assert not path.exists()
    monkeypatch.undo()
    assert extract(*case(), path, **case.options).kept == 31 - 8
    assert content(path) == case.whole


def test_features_of_one_number_are_stored_in_c_order(fakes, tmp_path):
    """NumPy writes such a shard column by column unless it is told otherwise, and views are read one by one."""
    dataset, encoder = fakes[0](COUNTS), fakes[1](batch_size=2, dim=1)
    encoder.encode_images = lambda crops: crops[:, 0, 0, :1].astype("float32")
    encoder.encode_text = lambda prompts: [[1.0]] * len(prompts)
    features = read_features(extract(dataset, encoder, tmp_path / "a.h5", views=Views(2)).path)
    train = features.splits["train"]
    assert train.image_features[:, 0].tolist() == [10 * i for i in range(21)]
    assert train.view_features[1, :, 0].tolist() == [10 * i for i in range(21)]
