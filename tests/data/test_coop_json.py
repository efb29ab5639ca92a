import json
from pathlib import Path

import pytest

from cafe.data import open_dataset
from cafe.errors import InputError, UnreadableImageError


def test_order_and_numbers_are_the_files(tmp_path: Path, bring) -> None:
    dataset = open_dataset(str(bring["coop-json"](tmp_path)))
    assert dataset.name == "Mine"
    assert dataset.class_names == ("cat", "dog")
    assert list(dataset.splits["val"].sample_ids) == ["cat1.png", "dog1.png"]
    assert dataset.split_origin == "published"
    assert dataset.notes == []


def test_images_elsewhere(tmp_path: Path, bring) -> None:
    path = bring["coop-json"](tmp_path / "set")
    (tmp_path / "set" / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"names images such as 'cat0\.png', which are not in .*\?images=DIR"):
        open_dataset(str(path))
    assert len(open_dataset(f"{path}?images={tmp_path}/elsewhere").splits["train"]) == 2
    with pytest.raises(InputError, match="there is no folder of images"):
        open_dataset(f"{path}?images={tmp_path}/nowhere")
    (tmp_path / "elsewhere" / "dog2.png").unlink()
    with pytest.raises(InputError, match=r"names 1 image that is not in .*'dog2\.png'"):
        open_dataset(f"{path}?images={tmp_path}/elsewhere")
    lenient = open_dataset(f"{path}?images={tmp_path}/elsewhere", lenient=True)
    with pytest.raises(UnreadableImageError, match=r"dog2\.png"):
        lenient.image("test", 1)


def test_no_val_and_no_split_file(tmp_path: Path, bring) -> None:
    path = bring["coop-json"](tmp_path)
    rows = json.loads(path.read_text())
    path.write_text(json.dumps({**rows, "val": []}))
    dataset = open_dataset(str(path))
    assert list(dataset.splits) == ["train", "test"]
    assert dataset.notes == ["the val split is empty"]
    path.write_text(json.dumps([rows]))
    with pytest.raises(InputError, match="is not a CoOp split file"):
        open_dataset(str(path))
