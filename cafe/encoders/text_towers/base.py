"""A live text tower: token embeddings in, features out, with gradients; what prompt learning needs.

An encoder's :meth:`~cafe.encoders.base.Encoder.text_tower` gives one. A library implements three functions:
its tokeniser, its table of token embeddings, and its way from token ids to features. The embeddings that are
to be used in place of the table's are put in by a hook on the table, so that positions, masks and the choice
of the end token stay the library's own.

Letters: n prompts, L tokens of the longest, w width of token embeddings, d feature width.
"""

from __future__ import annotations

import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Map = Callable[[Tensor], Tensor]

# Causal towers in parts, so that what prompts begin with alike is encoded once.
#
# Under a causal mask a token sees the tokens before it and none behind. Prompts that share their first P tokens
# share those tokens' hidden states in every block, and each prompt's rest needs of them only keys K and values V:
#
#     prefix   z <- block( z ), attention among its own tokens             once for k prompts
#     rest     o_t = softmax( [ q_t . K_z | q_t . k_{s <= t} ] / sqrt(e) ) [ V_z ; v_{s <= t} ]
#
# The same features as from whole prompts, up to rounding. CoOp's prompts share 17 tokens of about 22.
#
# Letters: g configurations, k prompts, P tokens of the prefix, S of the rest, w width, h heads, e = w / h.


@dataclass(frozen=True)
class Block:
    """One transformer block, x + attention(norm(x)) and then x + mlp(norm(x)), in its parts.

    Attributes
    ----------
    heads : int
        h.
    inputs : callable
        x (..., w) to queries, keys and values, each (..., w), its norm included.
    output : callable
        What the heads gave, (..., w), to what is added to x.
    mlp : callable
        x (..., w) to what is added to it, its norm included.
    """

    heads: int
    inputs: Callable[[Tensor], Sequence[Tensor]]
    output: Map
    mlp: Map


@dataclass(frozen=True)
class CausalParts:
    """What a causal tower does with token embeddings.

    Attributes
    ----------
    positions : Tensor of shape (longest prompt, w)
        Added to the embeddings.
    blocks : sequence of Block
        In their order.
    ends : callable
        Token ids (k, S) to the position (k,) at which each prompt is pooled.
    finish : callable
        Pooled hidden states (..., w) to features (..., d).
    """

    positions: Tensor
    blocks: Sequence[Block]
    ends: Map
    finish: Map


Tokens = dict[str, "Tensor"]  # "input_ids" (n, L), int64, and what else the tower takes with them


class TextTower(ABC):
    """A frozen text tower.

    Parameters
    ----------
    model_id : str
        What opened it.
    model : torch.nn.Module
        In evaluation mode, without gradients in its weights.
    sha256 : str
        Hash of the text side's weights; see :mod:`cafe.encoders.towers.weights`.
    """

    def __init__(self, model_id: str, model: torch.nn.Module, sha256: str) -> None:
        self.id = model_id
        self.model = model
        self.sha256 = sha256

    @abstractmethod
    def tokenize(self, prompts: Sequence[str]) -> Tokens:
        """Tokenise n prompts, padded to the longest; on the tower's device. A prompt is cut at its context."""

    @property
    @abstractmethod
    def max_tokens(self) -> int:
        """Longest prompt that is not cut, with its start and end tokens."""

    @property
    @abstractmethod
    def leading_tokens(self) -> int:
        """Tokens that come before the first word: 1 for CLIP's start token."""

    @property
    @abstractmethod
    def table(self) -> torch.nn.Module:
        """The module that turns token ids (n, L) into embeddings (n, L, w)."""

    @abstractmethod
    def features(self, tokens: Tokens) -> Tensor:
        """Encode tokens to features (n, d), not normalised."""

    def causal_parts(self) -> CausalParts | None:
        """Return the tower in parts, where it is causal and known; None where prompts go through it whole."""
        return None

    def length(self, prompt: str) -> int:
        """Tokens of one prompt, with those that the tower adds and without padding; at most its context.

        A tower whose tokens come without a mask, and padded all the same, overrides it.
        """
        tokens = self.tokenize([prompt])
        mask = tokens.get("attention_mask")
        return int(tokens["input_ids"].shape[1] if mask is None else mask.sum())

    # ------------------------------------------------------------------ what prompt learning calls

    @property
    def device(self) -> str:
        """Where the weights are."""
        return str(next(self.model.parameters()).device)

    @property
    def dtype(self) -> torch.dtype:
        """In what the tower computes."""
        return next(self.table.parameters()).dtype

    @property
    def width(self) -> int:
        """Width w of token embeddings."""
        return int(next(self.table.parameters()).shape[1])

    @property
    def dim(self) -> int:
        """Feature width d."""
        return int(self.encode(["a"]).shape[1])

    def embed(self, tokens: Tokens) -> Tensor:
        """Return the table's own embeddings of the tokens, (n, L, w), without gradient."""
        import torch

        with torch.no_grad():
            embeddings: Tensor = self.table(tokens["input_ids"])
        return embeddings

    def forward(self, tokens: Tokens, embeddings: Tensor) -> Tensor:
        """Encode prompts whose token embeddings are given.

        Parameters
        ----------
        tokens : dict of str to Tensor
            As :meth:`tokenize` gave them; the ids still say where a prompt ends.
        embeddings : Tensor of shape (n, L, w)
            Used in place of the table's; positions are added by the tower.

        Returns
        -------
        Tensor of shape (n, d)
            Not normalised; gradients go through to ``embeddings``.
        """
        # Fits run side by side in threads and share the tower: a hook answers its own thread alone.
        thread = threading.get_ident()
        handle = self.table.register_forward_hook(
            lambda module, inputs, output: embeddings if threading.get_ident() == thread else None
        )
        try:
            return self.features(tokens)
        finally:
            handle.remove()

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Encode n prompts to features (n, d), without gradient, 64 at a time."""
        import torch

        with torch.no_grad():
            parts = [self.features(self.tokenize(prompts[i : i + 64])) for i in range(0, len(prompts), 64)]
        return torch.cat(parts)

    def placed(self, device: str, dtype: torch.dtype) -> Self:
        """Return this tower on that device and in that dtype; a copy, where it is elsewhere."""
        import torch

        if torch.device(self.device) == torch.device(device) and self.dtype == dtype:
            return self
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model).to(device=device, dtype=dtype)
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Frozen, so copies of an estimator (scikit-learn's clone) share it.
        return self


def encode_behind(parts: CausalParts, ids: Tensor, prefix: Tensor, suffix: Tensor) -> Tensor:
    """Encode prompts that share a prefix, which is encoded once.

    Parameters
    ----------
    parts : CausalParts
        The tower.
    ids : Tensor of shape (k, S), int64
        Token ids of the suffixes, each with its end token.
    prefix : Tensor of shape (g, P, w)
        Token embeddings of the prefix of each configuration's prompts; P is at least 1.
    suffix : Tensor of shape (g, k, S, w)
        Token embeddings of what follows it in each prompt.

    Returns
    -------
    Tensor of shape (g, k, d)
        Not normalised; gradients reach prefix and suffix.
    """
    import torch

    p, s = prefix.shape[1], suffix.shape[2]
    z, x = prefix + parts.positions[:p], suffix + parts.positions[p : p + s]
    for block in parts.blocks:
        qz, kz, vz = (_heads(projected, block.heads) for projected in block.inputs(z))
        q, k, v = (_heads(projected, block.heads) for projected in block.inputs(x))
        seen = torch.nn.functional.scaled_dot_product_attention(qz, kz, vz, is_causal=True)
        z = z + block.output(_joined(seen))
        z = z + block.mlp(z)
        x = x + block.output(_joined(_attention_behind(q, k, v, kz, vz)))
        x = x + block.mlp(x)
    ends = parts.ends(ids)
    return parts.finish(x[:, torch.arange(len(ends), device=x.device), ends])


def _heads(x: Tensor, heads: int) -> Tensor:
    """Split the width: (g, ..., t, w) to (g, h, ..., t, e)."""
    return x.view(*x.shape[:-1], heads, -1).movedim(-2, 1)


def _joined(x: Tensor) -> Tensor:
    """Undo :func:`_heads`."""
    return x.movedim(1, -2).flatten(-2)


def _attention_behind(q: Tensor, k: Tensor, v: Tensor, kz: Tensor, vz: Tensor) -> Tensor:
    """Attend from q, k, v (g, h, k, S, e) to themselves, causally, and to a prefix kz, vz (g, h, P, e)."""
    import torch

    shape, p = q.shape, kz.shape[2]
    s, e = shape[3:]
    flat = (q * e**-0.5).flatten(2, 3)  # (g, h, k S, e): the prefix is one product for all prompts
    before = (flat @ kz.transpose(-1, -2)).view(*shape[:3], s, p)
    scores = flat.view(shape) @ k.transpose(-1, -2)
    hidden = torch.ones(s, s, dtype=torch.bool, device=q.device).triu(1)
    weights = torch.cat([before, scores.masked_fill(hidden, float("-inf"))], dim=-1).softmax(-1)
    from_prefix: Tensor = (weights[..., :p].flatten(2, 3) @ vz).view(shape)
    return from_prefix + weights[..., p:] @ v
