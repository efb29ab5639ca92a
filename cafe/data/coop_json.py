"""A CoOp split file of the user's own."""

from __future__ import annotations

import json
from pathlib import Path

from cafe.data.base import Dataset, ImageFiles, Source, read_options, without_options
from cafe.data.images.examples import write_pictures
from cafe.data.images.files import check_inside, subfolders
from cafe.data.layouts.coop import SPLITS, SplitRows, class_names_of, image_splits, read_split_file
from cafe.errors import InputError

SOURCE = "coop-json"


class CoopJson(ImageFiles, Source):
    """A CoOp split file (.json), with the images in its folder or in a folder beside it.

    ``split_zhou_Mine.json?images=DIR`` says where the images are if they are elsewhere.
    """

    def __init__(self, path: Path, images: Path, rows: SplitRows, lenient: bool) -> None:
        """Take the rows of the file, and the folder to which their paths are relative."""
        self._image_root = images.absolute()
        self.name = path.stem.removeprefix("split_zhou_").removeprefix("split_") or path.stem
        self.class_names = class_names_of(path, rows)
        self.splits = image_splits(self._image_root, path, rows, lenient=lenient)
        self.notes = [f"the {split} split is empty" for split in rows if split not in self.splits]

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Return whether the path is a JSON file."""
        path = without_options(path)
        return path.suffix.lower() == ".json" and path.is_file()

    @classmethod
    def open(cls, path: Path, *, lenient: bool = False) -> Dataset:
        """Read the file, and find the size of every image that it names.

        Raises
        ------
        InputError
            If the file has another form, none of its images is found, or (unless ``lenient``) one is missing.
        """
        options = read_options(path, ["images"])
        path = without_options(path)
        rows = read_split_file(path)
        folder = Path(options["images"]).expanduser() if "images" in options else _image_folder(path, rows)
        if not folder.is_dir():
            raise InputError(f"{path}: there is no folder of images {folder}")
        return cls(path, folder, rows, lenient)

    @classmethod
    def write_example(cls, folder: Path) -> Path:
        """Write ``split_zhou_Mine.json`` with an image of each of two classes in every split; see the base class."""
        rows: dict[str, list[list[object]]] = {}
        for number, split in enumerate(SPLITS):
            images = write_pictures(folder / "images", [f"cat{number}.png", f"dog{number}.png"], start=2 * number)
            rows[split] = [[image, n, ("cat", "dog")[n]] for n, image in enumerate(images)]
        (folder / "split_zhou_Mine.json").write_text(json.dumps(rows), encoding="utf-8")
        return folder / "split_zhou_Mine.json"


def _image_folder(split_file: Path, rows: SplitRows) -> Path:
    """Find the folder of the images: the split file's own folder, or one within that.

    The first folder that has one of the ten first images of a split is returned.
    """
    named = [row[0] for part in rows.values() for row in part[:10]]
    check_inside(named, split_file.parent, split_file)
    folders = [split_file.parent, *(split_file.parent / name for name in subfolders(split_file.parent))]
    for folder in folders:
        if any((folder / name).is_file() for name in named):
            return folder
    tried = ", ".join(map(str, folders[:5]))
    raise InputError(
        f"{split_file} names images such as {named[0] if named else None!r}, which are not in {tried}; say where they "
        f"are with --dataset '{split_file}?images=DIR'"
    )
