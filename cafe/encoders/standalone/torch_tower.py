"""The towers of CLIP and the image tower of SigLIP in torch: the library's operations in the library's order.

So features are the library's to the last bit. Letters as in ``numpy_tower.py``; l is the length of the prompts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cafe.encoders.standalone.checkpoint import Checkpoint, TowerShape, Weights
from cafe.encoders.stopping import check_stopped


class TorchTower:
    """The transformer that both sides share, with the weights of one side on a device.

    Parameters
    ----------
    weights : Weights
        Of the checkpoint.
    prefixes : tuple of str
        Of the names of the side's tensors.
    shape : TowerShape
        The side's.
    device, dtype : str
        Where and in what it runs.
    """

    def __init__(self, weights: Weights, prefixes: tuple[str, ...], shape: TowerShape, device: str, dtype: str) -> None:
        self._shape = shape
        self._tensors: dict[str, Tensor] = {
            name: _tensor(weights, name).to(device=device, dtype=getattr(torch, dtype))
            for name in weights.shapes
            if name.startswith(prefixes) and not name.endswith("position_ids")
        }

    def _layers(self, prefix: str, x: Tensor, mask: Tensor | None = None, *, causal: bool = False) -> Tensor:
        for layer in range(self._shape.layers):
            check_stopped()
            block = f"{prefix}.{layer}"
            x = x + self._attention(f"{block}.self_attn", self._norm(f"{block}.layer_norm1", x), mask, causal)
            x = x + self._mlp(f"{block}.mlp", self._norm(f"{block}.layer_norm2", x))
        return x

    def _attention(self, block: str, x: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        n, t, w = x.shape
        heads = (n, t, self._shape.heads, w // self._shape.heads)
        q, k, v = (self._linear(f"{block}.{name}_proj", x).view(heads).transpose(1, 2) for name in "qkv")
        attended = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal and mask is None, scale=heads[-1] ** -0.5
        )  # (n, h, t, w / h)
        return self._linear(f"{block}.out_proj", attended.transpose(1, 2).reshape(n, t, w))

    def _mlp(self, block: str, x: Tensor) -> Tensor:
        return self._linear(f"{block}.fc2", _activate(self._shape.activation, self._linear(f"{block}.fc1", x)))

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"]
        return functional.layer_norm(x, (self._shape.width,), weight, bias, self._shape.epsilon)


class TorchImageTower(TorchTower):
    """An image tower; see the module's docstring."""

    def __init__(self, checkpoint: Checkpoint, device: str, dtype: str) -> None:
        super().__init__(checkpoint.weights, ("vision_", "visual_"), checkpoint.vision, device, dtype)
        self._kind = checkpoint.kind

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode rescaled, normalised pixels (n, 3, side, side) in the tower's dtype.

        Returns
        -------
        features : Tensor of shape (n, d)
        unprojected : Tensor of shape (n, w)
            What goes into CLIP's projection; SigLIP's are the features.
        """
        prefix, tensors = "vision_model.embeddings", self._tensors
        bias = tensors.get(f"{prefix}.patch_embedding.bias")
        patches = functional.conv2d(
            pixels, tensors[f"{prefix}.patch_embedding.weight"], bias, stride=self._shape.patch_size
        )
        x = patches.flatten(2).transpose(1, 2)  # (n, patches, w)
        if self._kind == "clip":
            x = torch.cat([tensors[f"{prefix}.class_embedding"].expand(len(x), 1, -1), x], dim=1)
        x = x + tensors[f"{prefix}.position_embedding.weight"][None]  # (n, t, w)
        if self._kind == "clip":
            x = self._norm("vision_model.pre_layrnorm", x)
        x = self._layers("vision_model.encoder.layers", x)
        if self._kind == "siglip":
            pooled = self._pooled(self._norm("vision_model.post_layernorm", x))  # (n, w)
            return pooled, pooled
        pooled = self._norm("vision_model.post_layernorm", x[:, 0, :])  # (n, w)
        return functional.linear(pooled, tensors["visual_projection.weight"]), pooled

    def _pooled(self, x: Tensor) -> Tensor:
        """Let SigLIP's probe attend to all patches: (n, w)."""
        prefix, tensors = "vision_model.head", self._tensors
        probe = tensors[f"{prefix}.probe"].repeat(len(x), 1, 1).transpose(0, 1)  # (1, n, w)
        attended, _ = functional.multi_head_attention_forward(
            probe, x.transpose(0, 1), x.transpose(0, 1), self._shape.width, self._shape.heads,
            tensors[f"{prefix}.attention.in_proj_weight"], tensors[f"{prefix}.attention.in_proj_bias"],
            None, None, False, 0.0,
            tensors[f"{prefix}.attention.out_proj.weight"], tensors[f"{prefix}.attention.out_proj.bias"],
            training=False, need_weights=True,
        )  # fmt: skip
        x = attended.transpose(0, 1)  # (n, 1, w)
        return (x + self._mlp(f"{prefix}.mlp", self._norm(f"{prefix}.layernorm", x)))[:, 0]


class TorchTextTower(TorchTower):
    """CLIP's text tower.

    Parameters
    ----------
    checkpoint : Checkpoint
        Of a CLIP.
    shape : TowerShape
        The text tower's.
    end_token : int
        Whose first place gives the feature; 2, of old configurations, stands for the highest token.
    device, dtype : str
        Where and in what it runs.
    """

    def __init__(self, checkpoint: Checkpoint, shape: TowerShape, end_token: int, device: str, dtype: str) -> None:
        super().__init__(checkpoint.weights, ("text_",), shape, device, dtype)
        self._end_token = end_token

    def __call__(self, ids: Tensor, is_token: Tensor) -> Tensor:
        """Encode prompts.

        Parameters
        ----------
        ids : Tensor of shape (n, l), int64
            Tokens, padded behind the end.
        is_token : Tensor of shape (n, l), bool
            False for padding.

        Returns
        -------
        Tensor of shape (n, d)
        """
        prefix, tensors = "text_model.embeddings", self._tensors
        length = ids.shape[1]
        x = functional.embedding(ids, tensors[f"{prefix}.token_embedding.weight"])
        x = x + tensors[f"{prefix}.position_embedding.weight"][:length]  # (n, l, w)
        mask = None
        if not bool(is_token.all()):
            causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
            mask = causal[None, None] & is_token[:, None, None, :]  # (n, 1, l, l)
        x = self._layers("text_model.encoder.layers", x, mask, causal=True)
        x = self._norm("text_model.final_layer_norm", x)
        ends = ids.argmax(1) if self._end_token == 2 else (ids == self._end_token).int().argmax(1)  # (n,)
        pooled = x[torch.arange(len(x), device=x.device), ends]  # (n, w)
        return functional.linear(pooled, tensors["text_projection.weight"])


def _tensor(weights: Weights, name: str) -> Tensor:
    bits: Any = weights.bits(name)
    # Copied, so that no later change of the file changes a weight.
    return torch.from_numpy(bits.copy()).view(getattr(torch, weights.dtype))


def _activate(name: str, x: Tensor) -> Tensor:
    if name == "quick_gelu":
        return x * torch.sigmoid(1.702 * x)
    return functional.gelu(x, approximate="tanh" if name == "gelu_pytorch_tanh" else "none")
