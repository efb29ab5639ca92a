"""What differs between the kinds of CLIP that transformers has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

# Their positions begin after the padding token's own, so that many of the table's rows are never used.
_POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "altclip_text_model")


def scale_and_bias(model: Any) -> tuple[float, float]:
    """Return what logits are multiplied with, and what is added to them.

    Returns
    -------
    scale : float
        ``exp(logit_scale)``, at most the model's own maximum where it has one (AIMv2); or ``1 / temperature`` (ALIGN).
    bias : float
        SigLIP's ``logit_bias``; 0 elsewhere.
    """
    if hasattr(model, "logit_scale"):
        logarithm = model.logit_scale.detach().double()
        if hasattr(model, "max_log_logit_scale"):
            logarithm = logarithm.clamp(max=float(model.max_log_logit_scale))
        scale = float(logarithm.exp())
    else:
        scale = 1.0 / float(model.temperature.detach().double())
    bias = getattr(model, "logit_bias", None)
    return scale, 0.0 if bias is None else float(bias.detach().double())


def context_length(text_config: Any) -> int:
    """Return how many tokens the text tower has positions for."""
    length = int(text_config.max_position_embeddings)
    if text_config.model_type in _POSITIONS_AFTER_PADDING:
        length -= int(text_config.pad_token_id) + 1
    return length


def probe_picture() -> Image.Image:
    """Return a small picture of noise, the same every time; no processor treats it like another by accident."""
    from PIL import Image

    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (53, 37, 3), dtype=np.uint8))
