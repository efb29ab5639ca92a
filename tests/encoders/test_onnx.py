"""The engine of ONNX Runtime, float32 and int8: its features, the graph it keeps, and what is never mixed."""

import pickle
import sys
import threading

import numpy as np
import pytest

import cafe
from cafe.cache import extract
from cafe.cli.app import call
from cafe.data import open_dataset
from cafe.data.images.examples import write_pictures
from cafe.encoders import open_encoder
from cafe.encoders.examples import save_tiny_dinov2
from cafe.encoders.onnx_int8 import OnnxInt8Encoder
from cafe.encoders.stopping import StoppedError, stop_this_thread_on
from cafe.encoders.towers import onnx_graphs
from cafe.errors import CacheError, InputError, MissingDependencyError

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(autouse=True)
def cache(folder, monkeypatch):
    """One cache folder for the file, in which graphs are kept."""
    monkeypatch.setenv("CAFE_CACHE", str(folder / "cache"))
    monkeypatch.setattr(onnx_graphs, "kept_in", lambda: folder / "cache")
    return folder / "cache"


@pytest.fixture(scope="module")
def crops():
    digits, encoder = open_dataset("digits"), open_encoder("cafe:mini", "cpu", "float32")
    return np.stack([encoder.cropper(digits.image("test", row)) for row in range(40)])


def cosines(first, second):
    return (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)


def test_features_are_those_of_torch(crops):
    plain = open_encoder("cafe:mini", "cpu", "float32")
    expected, before = plain.encode_images_unprojected(crops)
    exact, coarse = open_encoder("onnx:cafe:mini"), open_encoder("onnx-int8:cafe:mini")
    # float32 sums in another order; int8 has seven and eight bits, and docs/extraction.md says what they cost.
    np.testing.assert_allclose(exact.encode_images(crops), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert 0.999 < cosines(coarse.encode_images(crops), expected).min() < 1 - 1e-6
    for encoder in (exact, coarse):
        features, unprojected = encoder.encode_images_unprojected(crops)
        np.testing.assert_array_equal(features, encoder.encode_images(crops))
        np.testing.assert_allclose(features, unprojected @ encoder.projection(), rtol=0, atol=1e-5)
        assert cosines(unprojected, before).min() > 0.999
        np.testing.assert_allclose(encoder.encode_for_prediction(crops[:2]), features[:2], rtol=0, atol=1e-5)
        np.testing.assert_array_equal(encoder.encode_text(["a cat"]), plain.encode_text(["a cat"]))
        assert encoder.identity()["text"] == plain.identity()["text"]
        assert encoder.logit_scale == plain.logit_scale


def test_a_thread_that_is_told_to_end_does_so_between_two_runs_of_the_graph(crops, monkeypatch):
    encoder = open_encoder("onnx-int8:cafe:mini")  # one image a run
    run, told, runs, ended = encoder._graph.run, threading.Event(), [], []

    def counted(*given, **options):
        runs.append(len(given[0]))
        told.set()
        return run(*given, **options)

    def work():
        stop_this_thread_on(told)
        try:
            encoder.encode_images(crops)
        except StoppedError:
            ended.append(True)

    monkeypatch.setattr(encoder._graph, "run", counted)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == [True] and runs == [1]


def test_a_feature_in_int8_depends_on_its_image_alone(crops):
    encoder = open_encoder("onnx-int8:cafe:mini")
    together = encoder.encode_images(crops)
    assert encoder.least_rows == 1
    np.testing.assert_array_equal(encoder.encode_images(crops[7:8]), together[7:8])
    np.testing.assert_array_equal(encoder.encode_images(crops[::-1]), together[::-1])


def test_a_model_of_images_alone(folder):
    model = str(save_tiny_dinov2(folder / "dino"))
    plain, encoder = open_encoder(model, "cpu", "float32"), open_encoder(f"onnx:{model}")
    pixels = np.stack([plain.cropper(open_dataset("digits").image("test", row)) for row in range(3)])
    np.testing.assert_allclose(encoder.encode_images(pixels), plain.encode_images(pixels), rtol=0, atol=1e-4)
    assert not encoder.has_text


def test_a_graph_is_made_once_and_again_if_damaged(folder, crops, monkeypatch):
    monkeypatch.setattr(onnx_graphs, "kept_in", lambda: folder / "kept")
    made = []
    write = onnx_graphs.write_graph
    monkeypatch.setattr(onnx_graphs, "write_graph", lambda *given: (made.append(1), write(*given)))
    first = open_encoder("onnx:cafe:mini").encode_images(crops)
    np.testing.assert_array_equal(open_encoder("onnx:cafe:mini").encode_images(crops), first)
    assert len(made) == 1
    (graph,) = (folder / "kept" / "onnx").iterdir()
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    np.testing.assert_array_equal(open_encoder("onnx:cafe:mini").encode_images(crops), first)
    assert len(made) == 2
    assert len(list((folder / "kept" / "onnx").iterdir())) == 1
    # A folder that cannot be written to: the graph stays in this process.
    (folder / "file").write_text("no folder")
    monkeypatch.setattr(onnx_graphs, "kept_in", lambda: folder / "file")
    encoder = open_encoder("onnx:cafe:mini")
    np.testing.assert_array_equal(encoder.encode_images(crops), first)
    np.testing.assert_array_equal(encoder.encode_images(crops), first)
    assert len(made) == 3


def test_an_encoder_travels_with_its_graph(crops, monkeypatch, tmp_path):
    encoder = open_encoder("onnx-int8:cafe:mini")
    features = encoder.encode_images(crops)
    packed = pickle.dumps(encoder)
    monkeypatch.setattr(onnx_graphs, "kept_in", lambda: tmp_path)  # of another machine
    monkeypatch.setattr(onnx_graphs, "write_graph", lambda *_: pytest.fail("the graph is there"))
    np.testing.assert_array_equal(pickle.loads(packed).encode_images(crops), features)


def test_what_is_refused(monkeypatch, make_tiny_clip, tmp_path):
    for engine in ("onnx", "onnx-int8"):
        with pytest.raises(InputError, match="runs on the CPU, and device 'mps'"):
            type(open_encoder(f"{engine}:cafe:mini")).open("cafe:mini", "mps", "auto")
        with pytest.raises(InputError, match="unknown model"):
            open_encoder(f"{engine}:cafe:maxi")
        with pytest.raises(InputError, match="runs towers of torch"):
            open_encoder(f"{engine}:onnx:cafe:mini")
    with pytest.raises(InputError, match="computes in int8, and dtype 'float32'"):
        open_encoder("onnx-int8:cafe:mini", dtype="float32")
    encoder = open_encoder(f"onnx:{make_tiny_clip(tmp_path / 'tiny', seed=5)}")
    monkeypatch.setattr(onnx_graphs, "write_graph", lambda *_: exec("raise RuntimeError('no such operator')"))
    with pytest.raises(InputError, match=r"cannot be run by ONNX Runtime: .*no such operator; --model .*tiny runs it"):
        encoder.encode_images(np.zeros((1, 32, 32, 3), np.uint8))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        MissingDependencyError, match=r"encoder onnx:cafe:mini needs .*'onnxruntime'.*cafe-clip\[onnx\]"
    ):
        open_encoder("onnx:cafe:mini")


def test_rows_are_never_mixed_with_those_of_torch(folder, capfd):
    photos = folder / "photos"
    for name in ("cat", "dog"):
        (photos / name).mkdir(parents=True)
        write_pictures(photos / name, [f"{i}.png" for i in range(8)])
    summaries = []
    for model in ("cafe:mini", "onnx:cafe:mini", "onnx-int8:cafe:mini"):
        encoder = open_encoder(model, "cpu")
        summaries.append(extract(open_dataset(str(photos)), encoder, folder / "rows" / f"{model[:8]}.h5"))
        assert summaries[-1].encoded == 16  # nothing was taken from the caches beside it
    provenance = cafe.load_features(summaries[2].path).provenance
    assert provenance["image"]["encoder"]["engine"]["quantization"] == "dynamic"
    assert provenance["image"]["encoder"]["dtype"] == "int8"
    assert "onnxruntime" in provenance["recorded"]["image"]["versions"]
    again = extract(open_dataset(str(photos)), open_encoder("onnx-int8:cafe:mini"), summaries[2].path)
    assert again.action == "already there"
    with pytest.raises(CacheError, match="engine"):
        extract(open_dataset(str(photos)), open_encoder("onnx:cafe:mini"), summaries[2].path, named=True)


def test_a_run_encodes_new_images_by_the_engine_of_its_features(folder, cache, capfd):
    digits = open_dataset("digits")
    for row in range(40):
        split = digits.splits["train"]
        place = folder / "digits" / digits.class_names[split.labels[row]] / f"{row}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        digits.image("train", row).save(place)
    fitted = cafe.Classifier.fit(
        folder / "digits", model="onnx-int8:cafe:mini", method="tip-adapter", save=folder / "run", cache_dir=cache
    )
    assert isinstance(fitted.encoder, OnnxInt8Encoder)
    loaded = cafe.Classifier.load(folder / "run", cache_dir=cache)
    assert isinstance(loaded.encoder, OnnxInt8Encoder)
    picture = digits.image("test", 3)
    np.testing.assert_allclose(loaded.predict_proba([picture]), fitted.predict_proba([picture]), rtol=0, atol=1e-6)
    with pytest.raises(InputError, match=r"is not the one that this run was fitted with: engine differ"):
        cafe.Classifier.load(folder / "run", model="cafe:mini", cache_dir=cache)
    with pytest.raises(InputError, match="float32, in which an exported file computes"):
        loaded.export_onnx(folder / "a.onnx")
    picture.save(folder / "new.png")
    assert call(["predict", str(folder / "new.png"), "--run", str(folder / "run"), "--json"]) == 0
    assert call(["predict", str(folder / "new.png"), "--classes", "a,b", "--model", "onnx:cafe:mini", "--json"]) == 0
    capfd.readouterr()
