"""cafe: cached-feature fast training of few-shot classifiers on a frozen CLIP.

A frozen CLIP sees every image and prompt once; its features go to one HDF5 file; every method then
fits in seconds from cached tensors. ``import cafe`` is light: exports are resolved when first used.

Examples
--------
>>> import cafe
>>> cafe.CLIPAdapter(alpha=0.2).get_params()["alpha"]
0.2
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cafe.version import __version__ as __version__

if TYPE_CHECKING:
    # For type checkers. A method that is not named here is exported all the same; they then take it for Any.
    from cafe.cache.locate import load_features as load_features
    from cafe.classifier.classifier import Classifier as Classifier
    from cafe.classifier.extracting import prepare as prepare
    from cafe.classifier.image_features import ImageFeatures as ImageFeatures
    from cafe.errors import CafeError as CafeError
    from cafe.features import Features as Features
    from cafe.methods import fit_many as fit_many
    from cafe.methods.ape import APE as APE
    from cafe.methods.ape_t import APET as APET
    from cafe.methods.auto import Auto as Auto
    from cafe.methods.clap import CLAP as CLAP
    from cafe.methods.clip_adapter import CLIPAdapter as CLIPAdapter
    from cafe.methods.coop import CoOp as CoOp
    from cafe.methods.cross_modal_adapter import CrossModalAdapter as CrossModalAdapter
    from cafe.methods.cross_modal_linear_probe import CrossModalLinearProbe as CrossModalLinearProbe
    from cafe.methods.gda import GDA as GDA
    from cafe.methods.linear_probe import LinearProbe as LinearProbe
    from cafe.methods.lp_plus_plus import LPPlusPlus as LPPlusPlus
    from cafe.methods.prolip import ProLIP as ProLIP
    from cafe.methods.task_res import TaskRes as TaskRes
    from cafe.methods.tip_adapter import TipAdapter as TipAdapter
    from cafe.methods.tip_adapter_f import TipAdapterF as TipAdapterF
    from cafe.methods.trans_clip import TransCLIP as TransCLIP
    from cafe.methods.zero_shot import ZeroShot as ZeroShot
    from cafe.methods.zs_lp import ZeroShotLinearProbe as ZeroShotLinearProbe
    from cafe.protocol.draws import draw_few_shot as draw_few_shot
    from cafe.runs import load as load


# Exported functions and classes that are not methods; every class of cafe/methods is exported by itself.
# `load_features`, `prepare`, `Classifier` and `ImageFeatures` live on the floors above and are only named here, never
# imported by the core.
_EXPORTS = {
    "CafeError": "cafe.errors",
    "Classifier": "cafe.classifier.classifier",
    "Features": "cafe.features",
    "ImageFeatures": "cafe.classifier.image_features",
    "draw_few_shot": "cafe.protocol.draws",
    "fit_many": "cafe.methods",
    "load": "cafe.runs",
    "load_features": "cafe.cache.locate",
    "prepare": "cafe.classifier.extracting",
}


def _exports() -> dict[str, str]:
    from cafe.registry import entries

    methods = {entry.class_name: entry.module for entry in entries("methods", "METHOD").values()}
    return {**methods, **_EXPORTS}


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    module = _exports().get(name)
    if module is None:
        raise AttributeError(f"module 'cafe' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*_exports(), "__version__", "__doc__", "__name__", "__path__", "__file__"})
