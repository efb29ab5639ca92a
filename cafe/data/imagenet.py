"""ImageNet (ILSVRC 2012) as folders or in its Hugging Face form."""

from __future__ import annotations

from cafe.data.imagenet_layout import ImageNetLayout

DATASET = "imagenet"


class ImageNet(ImageNetLayout):
    """ImageNet (ILSVRC 2012): 1.28 million photographs of 1,000 classes; its val images are the test split.

    Expected below the root: ``imagenet/images/{train,val}/<n01440764, ...>/*.JPEG`` or, as on the Hugging Face hub,
    ``imagenet/data/{train,validation}-*.parquet``; and ``imagenet/classnames.txt``. There is no val split.
    """

    name = DATASET
    homepage = "https://image-net.org/download.php"
    folder = "imagenet"
    split_folders = {"train": "images/train", "test": "images/val"}
    published = {"classes": 1000, "train": 1281167, "test": 50000}
