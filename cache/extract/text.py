"""Runs the prompts of a plan through the text tower."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.cache.extract.encoding import ProgressCallback
from cafe.cache.extract.plan import Plan, batches
from cafe.cache.extract.report import Clocks, ExtractionProgress
from cafe.cache.format.arrays import as_stored
from cafe.prompts import mean_of_prompts, prompts


def encode_text(plan: Plan, clocks: Clocks, tell: ProgressCallback) -> dict[str, Any]:
    """Encode every prompt of a plan, chunk by chunk.

    Returns
    -------
    dict
        The text fields of :class:`~cafe.features.Features`: ``templates`` and ``text_features`` (m, c, d) in the
        stored dtype; for prompts written per class ``prompt_features`` (p, d) and ``prompt_classes`` (p,), and
        their class means as ``text_features`` (1, c, d).
    """
    if plan.prompts is None:
        return {
            "templates": plan.templates,
            "text_features": _templates(plan, clocks, tell),
            "prompt_features": None,
            "prompt_classes": None,
        }
    features = _prompts([text for own in plan.prompts for text in own], plan, clocks, tell)
    classes = np.repeat(np.arange(len(plan.prompts)), [len(own) for own in plan.prompts])
    means = mean_of_prompts(features, classes, len(plan.prompts))
    return {
        "templates": (),
        "text_features": as_stored(means[None], plan.stored_dtype, "text_features"),
        "prompt_features": features,
        "prompt_classes": classes,
    }


def _templates(plan: Plan, clocks: Clocks, tell: ProgressCallback) -> NDArray[Any]:
    """Encode one template at a time with every class name: (m, c, d)."""
    classes = plan.dataset.class_names
    text = np.empty((len(plan.templates), len(classes), plan.encoder.dim), dtype=plan.stored_dtype)
    for index, template in enumerate(plan.templates):
        with clocks.running("encode"):
            encoded = plan.encoder.encode_text(prompts([template], classes))  # (c, d)
        text[index] = as_stored(encoded, plan.stored_dtype, f"text_features of template {template!r}")
        tell(ExtractionProgress("text", "", index + 1, len(plan.templates)))
    return text


def _prompts(texts: list[str], plan: Plan, clocks: Clocks, tell: ProgressCallback) -> NDArray[Any]:
    """Encode p prompts in chunks cut at fixed positions: (p, d)."""
    features = np.empty((len(texts), plan.encoder.dim), dtype=plan.stored_dtype)
    for chunk in batches(len(texts), plan.encoder.batch_size):
        rows = slice(chunk.start, chunk.stop)
        with clocks.running("encode"):
            encoded = plan.encoder.encode_text(texts[rows])
        features[rows] = as_stored(encoded, plan.stored_dtype, f"prompt_features {chunk.start} to {chunk.stop - 1}")
        tell(ExtractionProgress("text", "", chunk.stop, len(texts)))
    return features
