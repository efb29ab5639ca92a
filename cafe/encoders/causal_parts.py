"""Causal text towers in parts, so that what prompts begin with alike is encoded once.

Under a causal mask a token sees what stands before it and nothing behind. Prompts that share their first P tokens
share those tokens' hidden states in every block, and each prompt's rest needs of them only keys K and values V:

    prefix   z <- block( z ), attention among its own tokens             once for k prompts
    rest     o_t = softmax( [ q_t . K_z | q_t . k_{s <= t} ] / sqrt(e) ) [ V_z ; v_{s <= t} ]

The same features as from whole prompts, up to rounding. CoOp's prompts share 17 tokens of about 22.

Letters: g configurations, k prompts, P tokens of the prefix, S of the rest, w width, h heads, e = w / h.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    Map = Callable[[Tensor], Tensor]


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


def encode_behind(parts: CausalParts, ids: Tensor, prefix: Tensor, rest: Tensor) -> Tensor:
    """Encode prompts that begin alike.

    Parameters
    ----------
    parts : CausalParts
        The tower.
    ids : Tensor of shape (k, S), int64
        Token ids of the rests, each with its end token.
    prefix : Tensor of shape (g, P, w)
        Token embeddings of what all prompts of a configuration begin with; P is at least 1.
    rest : Tensor of shape (g, k, S, w)
        Token embeddings behind it.

    Returns
    -------
    Tensor of shape (g, k, d)
        Not normalised; gradients go through to both.
    """
    import torch

    p, s = prefix.shape[1], rest.shape[2]
    z, x = prefix + parts.positions[:p], rest + parts.positions[p : p + s]
    for block in parts.blocks:
        qz, kz, vz = (_heads(one, block.heads) for one in block.inputs(z))
        q, k, v = (_heads(one, block.heads) for one in block.inputs(x))
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
    own = flat.view(shape) @ k.transpose(-1, -2)
    hidden = torch.ones(s, s, dtype=torch.bool, device=q.device).triu(1)
    weights = torch.cat([before, own.masked_fill(hidden, float("-inf"))], dim=-1).softmax(-1)
    from_prefix: Tensor = (weights[..., :p].flatten(2, 3) @ vz).view(shape)
    return from_prefix + weights[..., p:] @ v
