"""What a CLIP's or SigLIP's files say, read without transformers: shapes of its towers, weights and their hashes.

Whatever is not exactly as expected here (another kind of model, a file that is missing or damaged, a setting that is
not known) makes :func:`read_checkpoint` answer None: the library is asked then, and words what is wrong.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import CafeError
from cafe.foreign import check_regular, read_json

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
PROCESSOR_FILE = "preprocessor_config.json"
ACTIVATIONS = ("quick_gelu", "gelu", "gelu_pytorch_tanh")
# Each changes what is loaded: another place of settings, weights in several files, weights that are added to others.
_OTHER_FILES = ("processor_config.json", "adapter_config.json", "model.safetensors.index.json")

# What the library takes where a configuration says nothing (CLIPVisionConfig and so on, transformers 5).
_CLIP_VISION: dict[str, Any] = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "num_channels": 3, "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
_CLIP_TEXT: dict[str, Any] = {
    "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
    "num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    "pad_token_id": 1, "eos_token_id": 49407,
}  # fmt: skip
_SIGLIP_VISION: dict[str, Any] = {
    **_CLIP_VISION, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
}  # fmt: skip
# Entries that change no feature. The first published checkpoints list every setting of the library.
_TRAINING = {
    "attention_dropout", "dropout", "initializer_factor", "initializer_range", "projection_dim", "model_type",
    "torch_dtype", "dtype", "architectures", "_name_or_path", "transformers_version", "id2label", "label2id",
    "output_attentions", "output_hidden_states", "return_dict", "use_cache", "bos_token_id",
}  # fmt: skip
# Those of them that are neither off nor at one.
_OF_OTHER_TASKS = {"max_length", "top_k", "diversity_penalty", "projection_size", "vision_use_head"}
_TOP_LEVEL = {
    "architectures", "model_type", "dtype", "torch_dtype", "initializer_factor", "logit_scale_init_value",
    "projection_dim", "text_config", "vision_config", "transformers_version", "_commit_hash", "_name_or_path",
    "text_config_dict", "vision_config_dict", "tie_word_embeddings",
}  # fmt: skip
# As a checkpoint's header names them; NumPy has no bfloat16, whose bits are the upper half of a float32.
_DTYPES = {"F32": ("float32", np.float32), "F16": ("float16", np.float16), "BF16": ("bfloat16", np.uint16)}
# What a tower computes with, beside its weights; a change of any of these changes features.
ARCHITECTURE = (
    "model_type", "hidden_act", "layer_norm_eps", "num_attention_heads", "patch_size", "image_size",
    "max_position_embeddings", "eos_token_id", "pad_token_id",
)  # fmt: skip


@dataclass(frozen=True)
class TowerShape:
    """Shape of a tower.

    Attributes
    ----------
    width, layers, heads, mlp_width : int
        Of the transformer.
    activation : str
        Of :data:`ACTIVATIONS`.
    epsilon : float
        Of layer norms.
    tokens : int
        Positions: patches, with CLIP's class token; or of text.
    patch_size, image_size : int
        Of an image tower; 0 elsewhere.
    """

    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: str
    epsilon: float
    tokens: int
    patch_size: int = 0
    image_size: int = 0


class Weights:
    """The tensors of one safetensors file, mapped into memory.

    Parameters
    ----------
    path : Path
        The file.

    Attributes
    ----------
    shapes : dict of str to tuple of int
        By name.
    dtype : str
        Of all tensors: ``"float32"``, ``"float16"`` or ``"bfloat16"``.

    Raises
    ------
    ValueError
        If its tensors are of several dtypes, or of another one.
    """

    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        check_regular(path)
        with safe_open(path, framework="numpy") as file:  # refuses a header whose tensors do not fill the file
            names = set(file.keys())
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
        tensors = {name: header[name] for name in names}
        dtypes = {str(entry["dtype"]) for name, entry in tensors.items() if not name.endswith("position_ids")}
        if len(dtypes) != 1 or not dtypes <= set(_DTYPES):
            raise ValueError(f"tensors of the dtypes {sorted(dtypes)}")
        self.dtype, self._numpy_dtype = _DTYPES[dtypes.pop()]
        self.shapes = {name: tuple(int(n) for n in entry["shape"]) for name, entry in tensors.items()}
        self._places = {name: tuple(int(n) for n in entry["data_offsets"]) for name, entry in tensors.items()}
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length)

    def bits(self, name: str) -> NDArray[Any]:
        """Return a tensor as it is stored, mapped; bfloat16 as uint16."""
        start, end = self._places[name]
        stored: NDArray[Any] = self._bytes[start:end].view(self._numpy_dtype).reshape(self.shapes[name])
        return stored

    def array(self, name: str) -> NDArray[np.float32]:
        """Return a tensor in float32."""
        bits = self.bits(name)
        if bits.dtype == np.uint16:
            wide: NDArray[np.float32] = (bits.astype(np.uint32) << 16).view(np.float32)
            return wide
        return np.asarray(bits, dtype=np.float32)

    def sha256(self, prefixes: tuple[str, ...]) -> str:
        """Return the hash of the tensors whose names begin with a prefix, but for ``position_ids``.

        It is the hash that :func:`cafe.encoders.towers.weights.tower_hashes` gives.
        """
        digest = hashlib.sha256()
        for name in sorted(self.shapes):
            if name.startswith(prefixes) and not name.endswith("position_ids"):
                digest.update(f"{name}\0{self.dtype}\0{self.shapes[name]}\n".encode())
                digest.update(self._bytes[slice(*self._places[name])].data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """A CLIP or SigLIP on disk.

    Attributes
    ----------
    folder : Path
        Of its files.
    revision : str or None
        Commit of the hub's repository; None for a folder.
    kind : str
        ``"clip"`` or ``"siglip"``.
    weights : Weights
        Of both towers.
    vision : TowerShape
        The image tower's.
    dim : int
        Feature width.
    processor : mapping
        The contents of ``preprocessor_config.json``.
    vision_architecture : mapping
        Of the image tower, as the encoder's identity has it.
    text_settings : mapping or None
        The text tower's settings, with what the library adds; None where only the library serves it.
    """

    folder: Path
    revision: str | None
    kind: str
    weights: Weights
    vision: TowerShape
    dim: int
    processor: Mapping[str, Any]
    vision_architecture: Mapping[str, Any]
    text_settings: Mapping[str, Any] | None

    @cached_property
    def image_sha256(self) -> str:
        """Hash of the image side."""
        return self.weights.sha256(("vision_", "visual_"))

    @cached_property
    def text_sha256(self) -> str:
        """Hash of the text side."""
        return self.weights.sha256(("text_",))

    def scale_and_bias(self) -> tuple[float, float]:
        """Return the logit scale, exponentiated, and the logit bias."""
        scale = math.exp(float(self.weights.array("logit_scale").reshape(())))
        bias = float(self.weights.array("logit_bias").reshape(())) if "logit_bias" in self.weights.shapes else 0.0
        return scale, bias


def read_checkpoint(source: str) -> Checkpoint | None:
    """Read a checkpoint in the hub's layout.

    Parameters
    ----------
    source : str
        A folder, or a hub id whose files are in the local hub cache.

    Returns
    -------
    Checkpoint or None
        None where anything is not as this file knows it.
    """
    located = _locate(source)
    if located is None:
        return None
    try:
        return _read(*located)
    except (CafeError, OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
        return None  # the library says what is wrong with it
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "safetensors":  # its exception has no public base class
            raise
        return None


def _locate(source: str) -> tuple[Path, str | None] | None:
    """Return the folder of the files, and the commit; of a hub id the one in the local hub cache."""
    folder = Path(source)
    if folder.is_dir():
        return folder, None
    if os.sep in source.partition("/")[2]:
        return None
    from huggingface_hub import constants

    repository = Path(constants.HF_HUB_CACHE) / f"models--{source.replace('/', '--')}"
    try:
        commit = (repository / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    snapshot = repository / "snapshots" / commit
    return (snapshot, commit) if (snapshot / WEIGHTS_FILE).is_file() else None


def _read(folder: Path, revision: str | None) -> Checkpoint | None:
    if any((folder / name).exists() for name in _OTHER_FILES):
        return None
    config, processor = read_json(folder / CONFIG_FILE), read_json(folder / PROCESSOR_FILE)
    kind = config.get("model_type")
    if kind not in ("clip", "siglip") or not config.keys() <= _TOP_LEVEL:
        return None
    if config.get("vision_config_dict") or config.get("text_config_dict"):
        return None  # old settings that override the others
    defaults = _CLIP_VISION if kind == "clip" else _SIGLIP_VISION
    vision_settings = _settings(config.get("vision_config"), defaults, kind, "vision")
    if vision_settings is None:
        return None
    weights = Weights(folder / WEIGHTS_FILE)
    stated = config.get("dtype", config.get("torch_dtype"))
    if stated not in (None, "auto", weights.dtype):
        return None  # the library would cast to it
    vision = _vision_shape(vision_settings, kind)
    dim = int(config.get("projection_dim", 512)) if kind == "clip" else vision.width
    expected = dict(_vision_tensors(vision, kind, dim))
    names = {name for name in weights.shapes if not name.endswith("position_ids")}
    if any(weights.shapes.get(name) != shape for name, shape in expected.items()):
        return None
    image_side = {name for name in names if name.startswith(("vision_", "visual_"))}
    others = {name for name in names - image_side if not name.startswith("text_")}
    if image_side != set(expected) or others - {"logit_scale", "logit_bias"} or "logit_scale" not in others:
        return None
    text_settings = _settings(config.get("text_config"), _CLIP_TEXT, kind, "text") if kind == "clip" else None
    checkpoint = Checkpoint(
        folder, revision, kind, weights, vision, dim, processor, architecture(vision_settings), text_settings
    )
    scale, bias = checkpoint.scale_and_bias()
    return checkpoint if math.isfinite(scale) and scale > 0 and math.isfinite(bias) else None


def architecture(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a tower computes with, beside its weights, as an encoder's identity has them."""
    return {name: settings[name] for name in ARCHITECTURE if settings.get(name) is not None}


def _settings(given: Any, defaults: Mapping[str, Any], kind: str, side: str) -> dict[str, Any] | None:
    """Return a tower's settings with the library's defaults; None where one is not known here."""
    given = {} if given is None else given
    model_type = f"{kind}_{side}_model"
    if given.get("model_type", model_type) != model_type or given.get("vision_use_head", True) is not True:
        return None
    known = {*defaults, *_TRAINING, *_OF_OTHER_TASKS}
    if any(name not in known and value not in (None, False, 0, 1.0, {}, []) for name, value in given.items()):
        return None
    settings = {**defaults, **{name: given[name] for name in defaults if name in given}}
    whole = (name for name, value in defaults.items() if isinstance(value, int))
    if any(isinstance(settings[n], bool) or not isinstance(settings[n], int) for n in whole):
        return None
    usable = settings["hidden_act"] in ACTIVATIONS and isinstance(settings["layer_norm_eps"], float)
    return {"model_type": model_type, **settings} if usable else None


def _vision_shape(settings: Mapping[str, Any], kind: str) -> TowerShape:
    width, heads = settings["hidden_size"], settings["num_attention_heads"]
    patch, side = settings["patch_size"], settings["image_size"]
    if settings["num_channels"] != 3 or width % heads or not 0 < patch <= side:
        raise ValueError("a shape that no tower has")
    return TowerShape(
        width, settings["num_hidden_layers"], heads, settings["intermediate_size"], settings["hidden_act"],
        settings["layer_norm_eps"], (side // patch) ** 2 + (kind == "clip"), patch, side,
    )  # fmt: skip


def text_shape(settings: Mapping[str, Any]) -> TowerShape:
    """Return the shape of CLIP's text tower. Raises ValueError if no tower has it."""
    width, heads = settings["hidden_size"], settings["num_attention_heads"]
    if width % heads:
        raise ValueError("a shape that no tower has")
    return TowerShape(
        width, settings["num_hidden_layers"], heads, settings["intermediate_size"], settings["hidden_act"],
        settings["layer_norm_eps"], settings["max_position_embeddings"],
    )  # fmt: skip


def _vision_tensors(shape: TowerShape, kind: str, dim: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    w, m = shape.width, shape.mlp_width
    yield "vision_model.embeddings.patch_embedding.weight", (w, 3, shape.patch_size, shape.patch_size)
    yield "vision_model.embeddings.position_embedding.weight", (shape.tokens, w)
    yield from _norm("vision_model.post_layernorm", w)
    yield from _layers("vision_model.encoder.layers", shape)
    if kind == "clip":
        yield "vision_model.embeddings.class_embedding", (w,)
        yield from _norm("vision_model.pre_layrnorm", w)  # so spelled in every checkpoint
        yield "visual_projection.weight", (dim, w)
        return
    yield "vision_model.embeddings.patch_embedding.bias", (w,)
    yield "vision_model.head.probe", (1, 1, w)
    yield "vision_model.head.attention.in_proj_weight", (3 * w, w)
    yield "vision_model.head.attention.in_proj_bias", (3 * w,)
    yield from _linear("vision_model.head.attention.out_proj", w, w)
    yield from _norm("vision_model.head.layernorm", w)
    yield from _linear("vision_model.head.mlp.fc1", w, m)
    yield from _linear("vision_model.head.mlp.fc2", m, w)


def text_tensors(shape: TowerShape, vocabulary: int, dim: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of every tensor of CLIP's text side."""
    yield "text_model.embeddings.token_embedding.weight", (vocabulary, shape.width)
    yield "text_model.embeddings.position_embedding.weight", (shape.tokens, shape.width)
    yield from _layers("text_model.encoder.layers", shape)
    yield from _norm("text_model.final_layer_norm", shape.width)
    yield "text_projection.weight", (dim, shape.width)


def _layers(prefix: str, shape: TowerShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    w, m = shape.width, shape.mlp_width
    for layer in range(shape.layers):
        block = f"{prefix}.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{block}.self_attn.{name}", w, w)
        yield from _norm(f"{block}.layer_norm1", w)
        yield from _norm(f"{block}.layer_norm2", w)
        yield from _linear(f"{block}.mlp.fc1", w, m)
        yield from _linear(f"{block}.mlp.fc2", m, w)


def _linear(name: str, fan_in: int, fan_out: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (fan_out, fan_in)
    yield f"{name}.bias", (fan_out,)


def _norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
