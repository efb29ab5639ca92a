"""The image towers of CLIP and SigLIP in NumPy, for a few images: torch takes longer to import than these to encode.

Letters: n images, t tokens, w width, h heads, d feature width. Of a layer, x being (n, t, w)::

    x = x + attention(norm(x)),    x = x + fc2(activation(fc1(norm(x))))

CLIP begins with its class token, and ends with that token's norm and the projection; SigLIP ends with one query, the
probe, that attends to all patches (arXiv 2103.00020, 2303.15343; the weights' names are those of transformers).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cafe.encoders.standalone.checkpoint import Checkpoint

Floats = NDArray[np.float32]


class NumpyImageTower:
    """An image tower.

    Parameters
    ----------
    checkpoint : Checkpoint
        Whose weights are mapped, and read as they are used.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._weights, self._shape, self._kind = checkpoint.weights, checkpoint.vision, checkpoint.kind

    def __call__(self, pixels: Floats) -> tuple[Floats, Floats]:
        """Encode rescaled, normalised pixels.

        Parameters
        ----------
        pixels : ndarray of shape (n, 3, side, side), float32
            Of the tower's image size.

        Returns
        -------
        features : ndarray of shape (n, d), float32
        unprojected : ndarray of shape (n, w), float32
            What goes into CLIP's projection; SigLIP's are the features.
        """
        x = self._embedded(pixels)  # (n, t, w)
        if self._kind == "clip":
            x = self._norm("vision_model.pre_layrnorm", x)
        for layer in range(self._shape.layers):
            prefix = f"vision_model.encoder.layers.{layer}"
            x = x + self._attention(prefix, self._norm(f"{prefix}.layer_norm1", x))
            x = x + self._mlp(f"{prefix}.mlp", self._norm(f"{prefix}.layer_norm2", x))
        if self._kind == "siglip":
            pooled = self._pooled(self._norm("vision_model.post_layernorm", x))  # (n, w)
            return pooled, pooled
        pooled = self._norm("vision_model.post_layernorm", x[:, 0])  # (n, w)
        return pooled @ self._weights.array("visual_projection.weight").T, pooled

    def _embedded(self, pixels: Floats) -> Floats:
        """Cut pixels into patches, and project these: (n, t, w)."""
        patch, n = self._shape.patch_size, len(pixels)
        grid = self._shape.image_size // patch
        cut = pixels[:, :, : grid * patch, : grid * patch].reshape(n, 3, grid, patch, grid, patch)
        patches = cut.transpose(0, 2, 4, 1, 3, 5).reshape(n, grid * grid, 3 * patch * patch)
        kernel = self._weights.array("vision_model.embeddings.patch_embedding.weight").reshape(self._shape.width, -1)
        x: Floats = patches @ kernel.T  # (n, patches, w)
        if self._kind == "siglip":
            x = x + self._weights.array("vision_model.embeddings.patch_embedding.bias")
        else:
            first = self._weights.array("vision_model.embeddings.class_embedding")
            x = np.concatenate([np.broadcast_to(first, (n, 1, len(first))), x], axis=1)
        return x + self._weights.array("vision_model.embeddings.position_embedding.weight")

    def _attention(self, block: str, x: Floats) -> Floats:
        q, k, v = (self._linear(f"{block}.self_attn.{name}_proj", x) for name in "qkv")
        return self._linear(f"{block}.self_attn.out_proj", self._attend(q, k, v))

    def _attend(self, q: Floats, k: Floats, v: Floats) -> Floats:
        """Let queries (n, s, w) attend to keys and values (n, t, w), in heads: (n, s, w)."""
        n, _, w = q.shape
        heads = self._shape.heads
        q, k, v = (a.reshape(n, -1, heads, w // heads).transpose(0, 2, 1, 3) for a in (q, k, v))  # (n, h, ., w / h)
        scores: Floats = (q @ k.transpose(0, 1, 3, 2)) * np.float32((w // heads) ** -0.5)  # (n, h, s, t)
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        attended: Floats = (scores @ v).transpose(0, 2, 1, 3).reshape(n, -1, w)
        return attended

    def _pooled(self, x: Floats) -> Floats:
        """Let SigLIP's probe attend to all patches: (n, w)."""
        n, _, w = x.shape
        prefix = "vision_model.head"
        weight = self._weights.array(f"{prefix}.attention.in_proj_weight")
        bias = self._weights.array(f"{prefix}.attention.in_proj_bias")
        probe = np.broadcast_to(self._weights.array(f"{prefix}.probe"), (n, 1, w))
        q, k, v = (
            of @ weight[part : part + w].T + bias[part : part + w]
            for of, part in ((probe, 0), (x, w), (x, 2 * w))
        )  # fmt: skip
        x = self._linear(f"{prefix}.attention.out_proj", self._attend(q, k, v))  # (n, 1, w)
        return (x + self._mlp(f"{prefix}.mlp", self._norm(f"{prefix}.layernorm", x)))[:, 0]

    def _mlp(self, block: str, x: Floats) -> Floats:
        return self._linear(f"{block}.fc2", activate(self._shape.activation, self._linear(f"{block}.fc1", x)))

    def _linear(self, name: str, x: Floats) -> Floats:
        rows: Floats = x.reshape(-1, x.shape[-1]) @ self._weights.array(f"{name}.weight").T
        rows += self._weights.array(f"{name}.bias")
        return rows.reshape(*x.shape[:-1], -1)

    def _norm(self, name: str, x: Floats) -> Floats:
        centred: Floats = x - x.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        centred /= np.sqrt(variance + np.float32(self._shape.epsilon))
        centred *= self._weights.array(f"{name}.weight")
        centred += self._weights.array(f"{name}.bias")
        return centred


def activate(name: str, x: Floats) -> Floats:
    """Apply an activation of :data:`cafe.encoders.standalone.checkpoint.ACTIVATIONS`.

    Examples
    --------
    >>> activate("quick_gelu", np.array([0.0, 1.0], dtype=np.float32)).astype(float).round(4).tolist()
    [0.0, 0.8458]
    """
    if name == "quick_gelu":  # x / (1 + exp(-1.702 x)); beyond the range of exp the quotient is 0, as it should be
        with np.errstate(over="ignore"):
            divisor = np.exp(x * np.float32(-1.702))
        divisor += 1
        quick: Floats = np.divide(x, divisor, out=divisor)
        return quick
    if name == "gelu_pytorch_tanh":
        inner = x * x * x
        inner *= np.float32(0.044715)
        inner += x
        inner *= np.float32(np.sqrt(2 / np.pi))
        np.tanh(inner, out=inner)
        inner += 1
        inner *= x
        inner *= np.float32(0.5)
        return inner
    from scipy.special import erf

    exact: Floats = x * np.float32(0.5) * (1 + erf(x * np.float32(np.sqrt(0.5))))
    return exact
