"""What every kind of encoder keeps: one walk over all that there are.

The kinds are the example of every library in ``cafe/encoders``, and every row of the tables by which the other files of
this folder make tiny models (``KINDS`` or ``FAMILIES``, beside a function ``save(kind, folder)``). A new library, or a
new row, is walked without a line here.
"""

import importlib.util
import json
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cafe.cache import extract
from cafe.cache.format.reader import read_features
from cafe.data import open_dataset
from cafe.encoders import open_encoder
from cafe.errors import CafeError, InputError
from cafe.registry import entries

HERE, LIBRARIES = Path(__file__).parent, entries("encoders", "ENCODER")
TABLES = {"KINDS": "{}", "FAMILIES": "open_clip:local-dir:{}"}  # and how a user names a folder of that table
CLASSES = {"cat": (40, 90, 190), "dog": (200, 60, 60)}


def kinds():
    """Name every kind, from the tables' text: a file that needs a library which is missing is not imported."""
    names = [f"example of {library}" for library in sorted(LIBRARIES)]
    for path in sorted(HERE.glob("test_*.py")):
        for table, body in re.findall(r"^(KINDS|FAMILIES) = \{\n(.*?)^\}", path.read_text("utf-8"), flags=re.M | re.S):
            keys = re.findall(r'^    "([^"]+)":', body, flags=re.M)
            names += [f"{path.stem}, {table}, {key}" for key in keys]
    return names


def module(stem):
    """Import a file of this folder, once."""
    for loaded in list(sys.modules.values()):
        if getattr(loaded, "__file__", None) == str(HERE / f"{stem}.py"):
            return loaded
    spec = importlib.util.spec_from_file_location(f"tests_encoders_{stem}", HERE / f"{stem}.py")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def save(kind, folder):
    """Write the tiny model of a kind; return what a user would give to open it."""
    library = kind.removeprefix("example of ")
    try:
        if library != kind:
            return LIBRARIES[library].load().write_example(folder)
        stem, table, key = kind.split(", ", 2)
        module(stem).save(key, folder)
    except (CafeError, ImportError) as error:  # a library is not installed, or does not fit the torch that is
        pytest.skip(str(error))
    return TABLES[table].format(folder)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of photographs of several sizes and shapes."""
    folder, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name, colour in CLASSES.items():
        (folder / name).mkdir()
        for i, size in enumerate([(50, 70), (32, 32), (64, 20), (90, 33), (20, 24), (40, 41)]):
            pixels = np.clip(np.array(colour) + draw.normal(0, 40, (*size, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def mini(photos, tmp_path_factory):
    """The same photographs by the embedded CLIP."""
    folder = tmp_path_factory.mktemp("mini")
    return read_features(extract(open_dataset(photos), open_encoder("cafe:mini", "cpu"), folder / "mini.h5").path)


def test_there_are_many_kinds():
    assert len(kinds()) > 35
    assert {table for kind in kinds() for table in TABLES if table in kind} == set(TABLES)


@pytest.mark.parametrize("kind", kinds())
def test_kind(kind, photos, mini, tmp_path):
    (tmp_path / "model").mkdir()
    model = save(kind, tmp_path / "model")
    try:
        encoder = open_encoder(model, "cpu")
        if len(encoder.dtypes) > 1:
            encoder = open_encoder(model, "cpu", "float32")
    except CafeError as error:
        if "pip install" not in str(error):
            raise
        pytest.skip(str(error))
    # Its identity is JSON, names the weights, and says whether there is text.
    identity = encoder.identity()
    assert json.loads(json.dumps(identity)) == identity
    assert len(identity["image"]["weights_sha256"]) == 64
    assert (identity["text"] is not None) == encoder.has_text
    assert identity["recorded"]["id"] == encoder.id == model
    # An image's pixels are made in any thread or process, and its feature is its own.
    files = sorted(photos.rglob("*.png"))
    cropper = pickle.loads(pickle.dumps(encoder.cropper))
    crops = np.stack([cropper(Image.open(file)) for file in files])
    features = encoder.encode_images(crops)
    assert features.shape == (len(files), encoder.dim)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert len(np.unique(features.round(6), axis=0)) == len(files)
    if encoder.has_text:
        assert encoder.encode_text(["a cat", "x"]).shape == (2, encoder.dim)
    else:
        with pytest.raises(InputError):
            encoder.encode_text(["a cat"])
    # A cache holds these features, in the order of the images, and text where there is any.
    made = read_features(extract(open_dataset(photos), encoder, tmp_path / "cache.h5").path)
    assert (made.text_features is not None) == encoder.has_text
    for split in made.splits.values():
        rows = [files.index(photos / sample) for sample in split.sample_ids]
        # float16 has 11 bits; and a batch of another size may round float32 elsewhere.
        bound = 2.0**-11 * np.abs(features).max() + 1e-5
        np.testing.assert_allclose(split.image_features, features[rows], rtol=2.0**-10, atol=bound)
    # Beside another encoder it is the second, or, with text, the first.
    joined = made.join(mini)
    assert joined.provenance["encoder"] == (f"{model}+cafe:mini" if encoder.has_text else f"cafe:mini+{model}")
    assert joined.second_width in (mini.split("train").image_features.shape[1], encoder.dim)
    assert joined.text_features is not None
