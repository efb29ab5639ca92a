"""UCF101 with CoOp's split."""

from __future__ import annotations

from cafe.data.layouts.coop import CoopLayout

DATASET = "ucf101"


class UCF101(CoopLayout):
    """UCF101: 13,320 middle frames of videos of 101 human actions.

    Expected below the root:
    ``ucf101/UCF-101-midframes/<Action>/v_*.jpg`` and
    ``ucf101/split_zhou_UCF101.json``.
    """

    name = DATASET
    templates = ("a photo of a person doing {}.",)
    homepage = "https://www.crcv.ucf.edu/data/UCF101.php"
    folder = "ucf101"
    image_folder = "UCF-101-midframes"
    split_file = "split_zhou_UCF101.json"
    published = {"classes": 101, "train": 7639, "val": 1898, "test": 3783}
