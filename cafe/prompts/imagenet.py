"""The templates that CLIP's authors published for ImageNet.

Source: the notebook "Prompt Engineering for ImageNet" of Radford et al. 2021, "Learning transferable visual
models from natural language supervision".
"""

from __future__ import annotations

from pathlib import Path


def _published(name: str) -> tuple[str, ...]:
    """Return the templates of a file of ``templates/``, which has one on each line."""
    return tuple((Path(__file__).parent / "templates" / f"{name}.txt").read_text(encoding="utf-8").splitlines())


# The 7 were chosen by forward selection over the 80; Tip-Adapter uses them on ImageNet.
IMAGENET_7_TEMPLATES, IMAGENET_80_TEMPLATES = _published("imagenet-7"), _published("imagenet-80")
