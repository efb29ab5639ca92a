"""CLIPs of open_clip: the paper's own ResNets, LAION's models, SigLIP, and any folder that open_clip saved."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cafe.encoders.base import KnownModel, read_known_models
from cafe.encoders.examples import save_tiny_open_clip
from cafe.encoders.text_towers.base import TextTower
from cafe.encoders.text_towers.open_clip import OpenCLIPTextTower
from cafe.encoders.towers.checkpoints import commit_of
from cafe.encoders.towers.library_encoder import LibraryEncoder
from cafe.encoders.towers.processors import probe_picture
from cafe.encoders.towers.refusals import (
    check_sides,
    check_widths,
    never_asking,
    refuse_code,
    why_refused,
)
from cafe.encoders.towers.torch_encoder import PROBES, to_numpy
from cafe.encoders.towers.weights import tower_hashes
from cafe.errors import InputError, MissingDependencyError, unknown_name
from cafe.foreign import read_json

if TYPE_CHECKING:
    import torch
    from PIL import Image

ENCODER = "open_clip"
_SCHEMAS = ("local-dir:", "hf-hub:")


class OpenCLIP(LibraryEncoder):
    """A CLIP of open_clip: open_clip:RN50/openai, open_clip:hf-hub:owner/name, open_clip:local-dir:PATH.

    Notes
    -----
    Preprocessing, tokenizer and activation (QuickGELU or not) are those that belong to the weights: of the tag, or of
    ``open_clip_config.json``.
    """

    known_models: ClassVar[Mapping[str, KnownModel]] = read_known_models(ENCODER)

    def __init__(self, model_id: str, checkpoint: OpenCLIPCheckpoint, device: str, dtype: str) -> None:
        """Take a loaded checkpoint and move it to the device, in that dtype; see :meth:`open`."""
        self.id = model_id
        self.device, self.dtype = device, dtype
        model = checkpoint.model
        self.cropper: OpenCLIPCropper = OpenCLIPCropper(model.visual.preprocess_cfg)
        self._revision = checkpoint.revision
        self._tokenizer = checkpoint.tokenizer
        self._model_config = checkpoint.config
        self._image_sha256, self._text_sha256 = tower_hashes(_sided(model.state_dict()))
        self._reparameterised = _reparameterise(model)
        self._place(model, self.cropper.rescale_and_normalise())
        self.logit_scale = float(model.logit_scale.detach().float().exp())
        bias = getattr(model, "logit_bias", None)
        self.logit_bias = 0.0 if bias is None else float(bias.detach().float())
        self.dim = self._checked_width()

    @classmethod
    def _load(cls, source: str) -> OpenCLIPCheckpoint:
        return load_open_clip(source)

    @classmethod
    def _image_shapes(cls, checkpoint: OpenCLIPCheckpoint) -> Iterable[tuple[int, ...]]:
        return (weights.shape for weights in checkpoint.model.visual.parameters())

    @classmethod
    def _id_of(cls, source: str) -> str:
        return f"{ENCODER}:{source}"

    @classmethod
    def write_example(cls, folder: Path) -> str:
        """Write a tiny CLIP as open_clip saves one; see the base class."""
        import_open_clip()
        save_tiny_open_clip(folder)
        return f"{ENCODER}:local-dir:{folder}"

    def _checked_width(self) -> int:
        """Encode one picture and one prompt, and compare the widths."""
        import torch

        with torch.inference_mode():
            image = self._encode_crops(self.cropper(probe_picture())[None])
            text = self._text_features(["a photo."])
        check_widths(self.id, image.shape, text.shape)
        return int(text.shape[1])

    def _image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self._model.encode_image(pixels)
        return features

    def projection(self) -> NDArray[np.float32] | None:
        """Return the vision transformer's ``proj`` (w, d); None for ResNets and towers of timm."""
        import torch

        matrix = getattr(self._model.visual, "proj", None)
        return to_numpy(matrix.detach()) if isinstance(matrix, torch.Tensor) else None

    def _encode_unprojected(self, crops: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
        visual = self._model.visual
        matrix, visual.proj = visual.proj, None  # the tower then ends before it
        try:
            before = self._encode_crops(crops)
        finally:
            visual.proj = matrix
        return before @ matrix, before

    def _text_features(self, prompts: Sequence[str]) -> torch.Tensor:
        features: torch.Tensor = self._model.encode_text(self._tokenizer(list(prompts)).to(self.device))
        return features

    def text_tower(self) -> TextTower:
        """Return the live text tower; it shares this encoder's weights.

        Raises
        ------
        InputError
            If the text side is not a causal transformer of open_clip's own that pools at the end token.
        """
        return OpenCLIPTextTower(self.id, self._model, self._text_sha256, self._tokenizer)

    def identity(self) -> dict[str, Any]:
        """Return what changes a feature (``image``, ``text``) and what is only recorded; all of it JSON."""
        import open_clip
        import PIL
        import torch
        import torchvision

        shared = {key: self._model_config.get(key) for key in ("embed_dim", "quick_gelu")}
        fused = {"reparameterised": True} if self._reparameterised else {}
        return {
            "image": self._image_part({**shared, **self._model_config["vision_cfg"], **fused}),
            "text": {
                "weights_sha256": self._text_sha256,
                "architecture": {**shared, **self._model_config["text_cfg"]},
                "tokenizer_sha256": self._tokenizer_sha256(),
                "dtype": self.dtype,
            },
            "recorded": self._recorded_part(
                ENCODER, {"torch": torch, "open_clip": open_clip, "torchvision": torchvision, "pillow": PIL}
            ),
        }

    def _tokenizer_sha256(self) -> str:
        # What it does to text: open_clip's tokenizers have no common way to tell their vocabulary.
        tokens = self._tokenizer([*PROBES, *map(chr, range(33, 0x250))])
        return hashlib.sha256(json.dumps(tokens.tolist()).encode()).hexdigest()


def _reparameterise(model: Any) -> bool:
    """Fuse the branches of an image tower that was trained with several (MobileCLIP's FastViT); say whether it has any.

    Each block of such a tower sums convolutions with a batch norm each, which in inference are one convolution: the
    same features up to rounding, in less time. It is done in the float32 of the checkpoint.
    """
    trunk = getattr(model.visual, "trunk", None)
    if trunk is None or not any(hasattr(module, "reparameterize") for module in trunk.modules()):
        return False
    import timm.utils

    library: Any = timm.utils  # it does not say what it exports
    library.reparameterize_model(trunk, inplace=True)
    return True


def _sided(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Mark every tensor with its side: open_clip's text tensors have no prefix of their own in older models."""
    return {
        name
        if name in ("logit_scale", "logit_bias")
        else f"{'vision' if name.startswith('visual.') else 'text'}_{name}": tensor
        for name, tensor in state.items()
    }


@dataclass(frozen=True)
class OpenCLIPCheckpoint:
    """The parts of a checkpoint as open_clip loads them.

    Attributes
    ----------
    model : torch.nn.Module
        In float32, on the CPU, in evaluation mode.
    tokenizer : callable
        Texts to token ids (n, context).
    config : dict
        The model's configuration, with the QuickGELU that its weights were trained with.
    revision : str or None
        Commit of the hub's repository; None for a folder.
    """

    model: Any
    tokenizer: Any
    config: dict[str, Any]
    revision: str | None


def load_open_clip(source: str) -> OpenCLIPCheckpoint:
    """Load model and tokenizer.

    Parameters
    ----------
    source : str
        ``"RN50/openai"``, a model and a tag of open_clip's list; ``"hf-hub:owner/name"``; or ``"local-dir:PATH"``, a
        folder with ``open_clip_config.json`` and the weights.

    Returns
    -------
    OpenCLIPCheckpoint

    Raises
    ------
    InputError
        If it is not there, is not complete, or names no weights.
    MissingDependencyError
        If open_clip is not installed.
    """
    library = import_open_clip()
    if source.startswith(_SCHEMAS):
        name, tag, fixed = source, None, {}
        config, revision = _schema_config(library, source)
    else:
        name, tag = _name_and_tag(library, source)
        # The tag knows with which activation its weights were trained; the model's name is not asked.
        listed = library.get_pretrained_cfg(name, tag)
        fixed = {"quick_gelu": bool(listed.get("quick_gelu", False))}
        config = {**library.get_model_config(name), **fixed}
        revision = commit_of(_quietly(lambda: library.download_pretrained(listed), source))
    model = _quietly(lambda: library.create_model(name, pretrained=tag, require_pretrained=True, **fixed), source)
    tokenizer = _quietly(lambda: library.get_tokenizer(name), source)
    return OpenCLIPCheckpoint(model.eval().requires_grad_(False), tokenizer, config, revision)


def import_open_clip() -> Any:
    """Import the library, or say how to get it.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    InputError
        If it is, but does not work with the torch that is installed.
    """
    try:
        import open_clip
    except ModuleNotFoundError as error:
        raise MissingDependencyError("open_clip_torch", "open-clip", "a model of open_clip") from error
    # A torchvision that was built for another torch fails with whatever type the first missing symbol suggests.
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise InputError(
            f"open_clip is installed but cannot be imported ({why_refused(error)}); "
            f"install a torchvision that belongs to the installed torch"
        ) from error
    return open_clip


def _name_and_tag(library: Any, source: str) -> tuple[str, str]:
    name, _, tag = source.rpartition("/")
    name = name.replace("/", "-")  # ViT-B/32, as the paper writes it
    if not name and tag in library.list_models():
        name, tag = tag, ""
    if name not in library.list_models():
        raise InputError(
            f"{unknown_name('model of open_clip', name or tag, library.list_models())}; it is given as MODEL/TAG, "
            f"such as open_clip:RN50/openai, or as open_clip:local-dir:PATH or open_clip:hf-hub:owner/name"
        )
    if not library.get_pretrained_cfg(name, tag):
        raise unknown_name(f"tag of open_clip:{name}", tag, library.list_pretrained_tags_by_model(name))
    return name, tag


def _schema_config(library: Any, source: str) -> tuple[dict[str, Any], str | None]:
    """Return the checked model configuration of ``local-dir:PATH`` or ``hf-hub:OWNER/NAME``, and the hub's revision.

    Raises
    ------
    InputError
        If there is no ``open_clip_config.json``, or it is no configuration that can be opened safely.
    """
    schema, _, name = source.partition(":")
    if schema == "local-dir":
        path, revision = Path(name) / "open_clip_config.json", None
        if not path.is_file():
            raise InputError(f"{name} is no folder of open_clip: it has no open_clip_config.json")
    else:
        from huggingface_hub import hf_hub_download

        path = Path(_quietly(lambda: hf_hub_download(name, "open_clip_config.json"), source))
        revision = commit_of(str(path))
    try:
        config: dict[str, Any] = read_json(path)["model_cfg"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is no configuration of open_clip: {why_refused(error)}") from error
    refuse_code(source, config)
    vision = config.get("vision_cfg") if isinstance(config, dict) else None
    if not isinstance(vision, dict):
        raise InputError(f"{path} is no configuration of open_clip: it has no vision_cfg")
    check_sides(source, "vision_cfg image_size", vision.get("image_size", 224))
    return config, revision


def _quietly(load: Any, source: str) -> Any:
    with _silence(), never_asking():
        try:
            return load()
        # Foreign files make the library raise nearly anything; the cause stays attached.
        except Exception as error:
            raise InputError(f"open_clip cannot load {source}: {why_refused(error)}") from error


@contextmanager
def _silence() -> Iterator[None]:
    """Silence the library's log, which goes to the root logger, and its warnings; what matters is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


class OpenCLIPCropper:
    """Resizes and crops with open_clip's transforms; picklable, and without the model.

    Parameters
    ----------
    config : dict
        The ``preprocess_cfg`` of a loaded model: size, interpolation, resize_mode, fill_color, mean, std.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2
        from torchvision.transforms import ToTensor

        self.config = dict(config)
        steps = image_transform_v2(PreprocessCfg(**config), is_train=False).transforms
        # What follows ToTensor works on floats, and is done on the device.
        self._steps = steps[: next(i for i, step in enumerate(steps) if isinstance(step, ToTensor))]

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize and crop one RGB image: (height, width, 3), uint8."""
        for step in self._steps:
            image = step(image)
        pixels = np.array(image)
        if pixels.dtype != np.uint8 or pixels.ndim != 3:
            raise TypeError(f"open_clip's transforms returned {pixels.dtype} {pixels.shape} where bytes were expected")
        return pixels

    def rescale_and_normalise(self) -> tuple[float, list[float], list[float]]:
        """Return (factor, mean, std): a feature sees ``(pixels * factor - mean) / std``, per channel."""
        mean, std = (np.broadcast_to(self.config[key], 3).astype(float).tolist() for key in ("mean", "std"))
        return 1 / 255, mean, std

    def specification(self) -> dict[str, Any]:
        """Return everything that changes a pixel, as JSON."""
        size = self.config["size"]
        factor, mean, std = self.rescale_and_normalise()
        return {
            "processor": "open_clip",
            "backend": "pil",
            "size": list(size) if isinstance(size, tuple | list) else [size, size],
            "resample": self.config["interpolation"],
            "resize_mode": self.config["resize_mode"],
            "fill_color": self.config["fill_color"],
            "rescale_factor": factor,
            "image_mean": mean,
            "image_std": std,
        }
