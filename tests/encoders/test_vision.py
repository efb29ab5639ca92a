"""Models of images alone, small and random in the hub's layout, against the library's own forward and preprocessing."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from cafe.cli.app import call
from cafe.encoders import open_encoder
from cafe.encoders.examples import save_tiny_dinov2
from cafe.errors import InputError

SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
VIT = {**SMALL, "intermediate_size": 48}
STAGES = {"hidden_sizes": [8, 8, 16, 24], "depths": [1, 1, 1, 1], "image_size": 32}
TIMM = {
    "architecture": "vit_tiny_patch16_224",
    "pretrained_cfg": {"input_size": (3, 32, 32), "interpolation": "bicubic", "crop_pct": 0.9, "num_classes": 0},
    "model_args": {"depth": 2, "embed_dim": 24, "num_heads": 4, "img_size": 32, "patch_size": 8},
}
# Of each kind: its configuration, the kind of image processor, and where the feature of an image stands.
KINDS = {
    "Dinov2": ({**SMALL, "mlp_ratio": 2}, "bit", "cls"),
    "Dinov2WithRegisters": ({**SMALL, "mlp_ratio": 2}, "bit", "cls"),
    "DINOv3ViT": ({**VIT, "num_attention_heads": 2, "num_register_tokens": 2}, "dinov3", "cls"),
    "DINOv3ConvNext": (STAGES, "dinov3", "cls"),
    "Aimv2Vision": (VIT, "clip", "pooler_output"),
    "ViT": (VIT, "vit", "cls"),
    "SiglipVision": (VIT, "vit", "pooler_output"),
    "CLIPVision": (VIT, "clip", "pooler_output"),
    "ConvNextV2": (STAGES, "convnext", "pooler_output"),
    "Data2VecVision": (VIT, "vit", "cls"),
    "TimmWrapper": (TIMM, None, "cls"),
}
REFERENCES = {
    "cls": lambda output: output.last_hidden_state[:, 0],
    "pooler_output": lambda output: output.pooler_output.flatten(1),
    "mean": lambda output: output.last_hidden_state.mean(1),
}


def save(kind, folder):
    import transformers

    settings, processor, _ = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**settings)).eval()
        for weight in model.parameters():
            if weight.ndim >= 2:  # fresh, these are so small that all images get nearly one feature
                torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    if processor is not None:
        save_processor(processor, folder)
    return model


def save_processor(kind, folder):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    if kind == "bit":
        save_tiny_dinov2(folder / "other")
        (folder / "other" / "preprocessor_config.json").rename(folder / "preprocessor_config.json")
    elif kind == "dinov3":
        from transformers import DINOv3ViTImageProcessor

        DINOv3ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    elif kind == "convnext":
        ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=0.875).save_pretrained(folder)
    elif kind == "clip":
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    else:
        ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)


@pytest.fixture(scope="module")
def images():
    generator = np.random.default_rng(0)
    sizes = [(50, 70), (32, 32), (64, 20), (90, 33)]
    return [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_features_equal_the_librarys_own(kind, images, tmp_path):
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    if kind == "TimmWrapper":
        pytest.importorskip("timm")
    if kind in ("TimmWrapper", "DINOv3ViT", "DINOv3ConvNext"):
        pytest.importorskip("torchvision")
    model = save(kind, tmp_path)
    encoder = open_encoder(str(tmp_path), device="cpu")
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    with torch.no_grad():
        output = model(**processor(images=images, return_tensors="pt"))
    expected = REFERENCES[KINDS[kind][2]](output).numpy()
    crops = np.stack([encoder.cropper(image) for image in images])
    actual = encoder.encode_images(crops)
    # 64 float32 roundings of the largest entry; see test_transformers_clip.py.
    assert np.abs(actual - expected).max() <= 64 * np.finfo(np.float32).eps * np.abs(expected).max()
    assert np.abs(expected[0] - expected[1]).max() > 1e-3 * np.abs(expected).max()
    identity = encoder.identity()
    assert identity["image"]["architecture"]["pooling"] == KINDS[kind][2]
    assert json.loads(json.dumps(identity)) == identity
    assert identity["text"] is None
    assert not encoder.has_text
    # Opened a second time, it is the same model by its hash, random heads that features do not come from apart.
    assert open_encoder(str(tmp_path), device="cpu").identity() == identity


@pytest.mark.parametrize("kind", ["DINOv3ViT", "TimmWrapper"])
def test_preprocessing_that_cannot_be_cut_where_pixels_are_bytes(kind, images, tmp_path):
    """Its floats come through bit by bit, in processes of their own too; augmented views are refused."""
    import pickle

    from cafe.encoders.towers.processors import WholeCropper, floats_of

    pytest.importorskip("timm" if kind == "TimmWrapper" else "torchvision")
    save(kind, tmp_path)
    encoder = open_encoder(str(tmp_path), device="cpu")
    assert isinstance(encoder.cropper, WholeCropper)
    assert not encoder.takes_views
    crops = np.stack([pickle.loads(pickle.dumps(encoder.cropper))(image) for image in images])
    own = encoder.cropper.processor(images=images, return_tensors="pt")["pixel_values"]
    assert torch.equal(floats_of(torch.from_numpy(crops)).permute(0, 3, 1, 2), own)


def test_a_pooler_that_was_not_saved_is_not_needed(tmp_path, images):
    """Many published ViTs lack their pooler; the class token does not come from it, and nor does the hash."""
    from safetensors.torch import load_file, save_file

    save("ViT", tmp_path)
    whole = open_encoder(str(tmp_path), device="cpu")
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: w for name, w in weights.items() if "pooler" not in name}, tmp_path / "model.safetensors")
    crops = np.stack([whole.cropper(image) for image in images])
    ours, again = (open_encoder(str(tmp_path), device="cpu") for _ in range(2))
    assert np.array_equal(ours.encode_images(crops), whole.encode_images(crops))
    assert ours.identity() == again.identity()
    save_file({name: w for name, w in weights.items() if "layer.1" not in name}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="lacks .* of the model's weights"):
        open_encoder(str(tmp_path), device="cpu")


def test_a_model_that_hides_parts_of_the_picture_is_refused(tmp_path):
    import transformers

    transformers.ViTMAEModel(transformers.ViTMAEConfig(**VIT)).save_pretrained(tmp_path)
    save_processor("vit", tmp_path)
    with pytest.raises(InputError, match="other features of one picture each time"):
        open_encoder(str(tmp_path), device="cpu")


def test_no_image_processor(tmp_path):
    save("Dinov2", tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"has no image processor: it lacks preprocessor_config\.json") as caught:
        open_encoder(str(tmp_path), device="cpu")
    assert "\n" not in str(caught.value)


def test_a_model_that_asks_for_its_own_code(tmp_path):
    save("Dinov2", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError) as caught:
        open_encoder(str(tmp_path), device="cpu")
    assert "code of its own" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_clip_under_the_name_of_the_loader(tiny_clip_folder):
    with pytest.raises(InputError, match="without the leading vision:"):
        open_encoder(f"vision:{tiny_clip_folder}", device="cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for shade, name in enumerate(("cat", "dog", "cow")):
        (folder / name).mkdir()
        for i in range(10):
            picture = generator.integers(0, 60, (20, 24, 3), dtype=np.uint8) + np.uint8(90 * shade)
            Image.fromarray(picture).save(folder / name / f"{i}.png")
    return folder


def run(capfd, *words):
    code = call([*map(str, words), "--json"])
    out, err = capfd.readouterr()
    return code, json.loads(out) if code == 0 else err


def test_from_photographs_to_a_prediction(photos, tmp_path, monkeypatch, capfd):
    """cafe extract, fit, compare and predict on a cache without text; zero-shot is refused with the way out."""
    from cafe.cache.format.reader import read_features

    monkeypatch.setenv("CAFE_CACHE", str(tmp_path / "cache"))
    model = str(save_tiny_dinov2(tmp_path / "dino"))
    code, extracted = run(capfd, "extract", photos, "--model", model, "--templates", "a {}.")
    assert code == 0
    assert any("has no text tower" in note for note in extracted["notes"])
    features = read_features(extracted["path"])
    assert features.text_features is None
    assert features.templates == ()
    assert features.class_names == ("cat", "cow", "dog")
    assert features.provenance["image"]["encoder"]["architecture"]["pooling"] == "cls"
    assert call(["cache", "verify", extracted["path"], "--quiet"]) == 0
    capfd.readouterr()
    code, again = run(capfd, "extract", photos, "--model", model)
    assert (code, again["action"], again["encoded"]) == (0, "already there", 0)

    code, fitted = run(capfd, "fit", photos, "--model", model)
    assert code == 0
    assert fitted["extraction"] is None  # its cache was found
    (row,) = fitted["rows"]
    assert row["class_embeddings"] == "class-means"
    assert row["zero_shot_acc1"] is None
    assert row["acc1"] == 1.0  # dark, grey and bright noise
    code, predicted = run(capfd, "predict", photos / "cow" / "0.png")
    assert code == 0
    assert predicted["images"][0]["predictions"][0]["class"] == "cow"
    code, compared = run(
        capfd, "compare", "baselines", "--cache", extracted["path"], "--shots", "1", "--out", tmp_path / "compared"
    )
    assert code == 0
    methods = {row["method"] for row in compared["rows"]}
    assert "class-means" in methods
    assert "zero-shot" not in methods

    code, error = run(capfd, "fit", photos, "--model", model, "--method", "coop")
    assert code == 2
    assert "without a text tower" in error
    # The folder now holds another model under the same name.
    save_tiny_dinov2(tmp_path / "dino", seed=5)
    code, error = run(capfd, "predict", photos / "cow" / "0.png")
    assert code == 2
    assert "weights_sha256 differ" in error
    code, error = run(capfd, "extract", photos, "--model", model, "--out", extracted["path"])
    assert code == 2
    assert "image.encoder.weights_sha256" in error

    for command in (["fit", "--cache", extracted["path"]], ["fit", photos, "--model", model]):
        code, error = run(capfd, *command, "--method", "zero-shot")
        assert code == 2
        assert "no text features" in error
        assert "--model openai/clip-vit-base-patch32" in error
    code, error = run(capfd, "predict", photos / "cow" / "0.png", "--classes", "cat,dog", "--model", model)
    assert code == 2
    assert "cafe fit FOLDER --model" in error


def test_zero_shot_in_python_stays_class_means():
    import cafe

    X = np.eye(4, dtype=np.float32)
    assert cafe.ZeroShot(class_embeddings=None).fit(X, [0, 0, 1, 1]).predict(X).tolist() == [0, 0, 1, 1]


def test_other_class_names_are_another_cache(photos, tmp_path, monkeypatch, capfd):
    """Without a text part class names stand with the images' identity; the images are taken over, not encoded again."""
    from cafe.cache.format.reader import read_features

    monkeypatch.setenv("CAFE_CACHE", str(tmp_path / "cache"))
    model = str(save_tiny_dinov2(tmp_path / "dino"))
    (tmp_path / "names.txt").write_text("tiger\nbull\nwolf\n")
    _, first = run(capfd, "extract", photos, "--model", model)
    code, second = run(capfd, "extract", photos, "--model", model, "--class-names", tmp_path / "names.txt")
    assert code == 0
    assert second["path"] != first["path"]
    assert (second["encoded"], second["kept"]) == (0, 30)
    assert read_features(second["path"]).class_names == ("tiger", "bull", "wolf")


def test_a_clip_and_a_model_of_images_alone_in_one_pass(photos, tiny_clip_folder, tmp_path, monkeypatch, capfd):
    from cafe.cache.format.reader import read_features

    monkeypatch.setenv("CAFE_CACHE", str(tmp_path / "cache"))
    models = f"{tiny_clip_folder},{save_tiny_dinov2(tmp_path / 'dino')}"
    code, document = run(capfd, "extract", photos, "--model", models)
    assert code == 0
    both = [read_features(summary["path"]) for summary in document["caches"]]
    assert [features.text_features is None for features in both] == [False, True]
    for name, split in both[0].splits.items():
        assert np.array_equal(split.image_sha256, both[1].splits[name].image_sha256)


def test_views_that_bytes_cannot_give(photos, tmp_path, monkeypatch, capfd):
    pytest.importorskip("torchvision")
    monkeypatch.setenv("CAFE_CACHE", str(tmp_path / "cache"))
    save("DINOv3ViT", tmp_path / "dino")
    code, error = run(capfd, "extract", photos, "--model", tmp_path / "dino", "--views", "2")
    assert code == 2
    assert "augmented views are not possible" in error
