"""The live text tower of a CLIP that open_clip loaded.

    h      = transformer( E + P_{1..L}, under the causal mask )       E: token embeddings, P: positions
    text_i = LayerNorm(h)[i, e_i] @ projection                        e_i: where prompt i ends

The library encodes every prompt at its full context. Under a causal mask nothing behind the end token reaches it, so
prompts are cut here behind the longest one's end: the same features from about 22 tokens of 77.

Letters as in base.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cafe.encoders.text_towers.base import Block, CausalParts, TextTower, Tokens
from cafe.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_POOLINGS = ("argmax", "eos")  # at the highest id, which is the end token's; at a given id


class OpenCLIPTextTower(TextTower):
    """Text side of open_clip's ``CLIP`` and ``CustomTextCLIP``; see :class:`~cafe.encoders.text_towers.base.TextTower`.

    Parameters
    ----------
    model_id, model, sha256
        As the base class has them.
    tokenizer : callable
        open_clip's: texts to token ids (n, context).

    Raises
    ------
    InputError
        If the text side is not a causal transformer of open_clip's own that pools at the end token: towers of
        Hugging Face, SigLIP's (which see every token, padding too) and CoCa's (a class token behind the prompt).

    Examples
    --------
    >>> from cafe.encoders import open_encoder
    >>> tower = open_encoder("open_clip:RN50/openai").text_tower()  # doctest: +SKIP
    >>> tower.width, tower.max_tokens  # doctest: +SKIP
    (512, 77)
    """

    def __init__(self, model_id: str, model: torch.nn.Module, sha256: str, tokenizer: Any) -> None:
        super().__init__(model_id, model, sha256)
        self._tokenizer = tokenizer
        if (reason := _obstacle(model)) is not None:
            raise InputError(
                f"encoder {model_id!r} gives no live text tower, which methods that learn prompts need: {reason}; "
                "possible with open_clip is a causal text transformer of its own that pools at the end token, as "
                "open_clip:RN50/openai and open_clip:ViT-B-32/laion2b_s34b_b79k have it"
            )

    @property
    def max_tokens(self) -> int:
        """See the base class."""
        return int(self._text.positional_embedding.shape[0])

    @property
    def leading_tokens(self) -> int:
        """See the base class."""
        # open_clip's tokenisers have no common way to tell their start token; what two words share is one.
        first, second = self._tokenizer(["a", "b"])[:, 0].tolist()
        return int(first == second)

    @property
    def table(self) -> torch.nn.Module:
        """See the base class."""
        table: torch.nn.Module = self._text.token_embedding
        return table

    def tokenize(self, prompts: Sequence[str]) -> Tokens:
        """Tokenise n prompts, cut behind the longest one's end token; see the base class.

        Raises
        ------
        InputError
            If the tokeniser ends a prompt without the token at which the tower pools.
        """
        ids: Tensor = self._tokenizer(list(prompts)).to(self.device)
        return {"input_ids": ids[:, : int(self._ends(ids).max()) + 1]}

    def features(self, tokens: Tokens) -> Tensor:
        """Encode tokens to features (n, d); formula in the module's docstring."""
        import torch

        text, ids = self._text, tokens["input_ids"]
        length = ids.shape[1]
        hidden = self.table(ids) + text.positional_embedding[:length]
        hidden = text.ln_final(text.transformer(hidden, attn_mask=text.attn_mask[:length, :length]))
        return self._projected(hidden[torch.arange(len(ids), device=hidden.device), self._ends(ids)])

    def causal_parts(self) -> CausalParts | None:
        """Return the parts of the library's plain transformer; see the base class. Others go whole."""
        from open_clip.transformer import ResidualAttentionBlock

        text = self._text
        layers = list(text.transformer.resblocks)
        if any(type(layer) is not ResidualAttentionBlock for layer in layers):
            return None
        blocks = [_block(layer) for layer in layers]
        return CausalParts(
            text.positional_embedding, blocks, self._ends, lambda hidden: self._projected(text.ln_final(hidden))
        )

    def _projected(self, pooled: Tensor) -> Tensor:
        import torch

        projection = self._text.text_projection
        if projection is None:
            return pooled
        projected: Tensor = projection(pooled) if isinstance(projection, torch.nn.Module) else pooled @ projection
        return projected

    @property
    def _text(self) -> Any:
        """Return the module that holds the text side: the model itself in ``CLIP``."""
        return _text_side(self.model)

    def _ends(self, ids: Tensor) -> Tensor:
        """Return where each prompt ends, (n,)."""
        if _pooling(self._text) == "argmax":
            return ids.argmax(dim=1)
        is_end = ids == _end_id(self._text)
        if not bool(is_end.any(dim=1).all()):
            raise InputError(
                f"the tokeniser of encoder {self.id!r} ends a prompt without token {_end_id(self._text)}, at which its "
                "text tower pools; eos_id and the tokeniser in open_clip_config.json must belong together"
            )
        return is_end.int().argmax(dim=1)


def _block(layer: Any) -> Block:
    """Take one of the library's blocks apart; its attention is PyTorch's own."""
    from torch.nn.functional import linear

    attention = layer.attn

    def inputs(x: Tensor) -> Sequence[Tensor]:
        return linear(layer.ln_1(x), attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)

    return Block(
        attention.num_heads,
        inputs,
        lambda x: layer.ls_1(attention.out_proj(x)),
        lambda x: layer.ls_2(layer.mlp(layer.ln_2(x))),
    )


def _text_side(model: Any) -> Any:
    return getattr(model, "text", model)


# CLIP prefixes with "text_" what a TextTransformer of its own module calls by its plain name.
def _pooling(text: Any) -> str:
    return str(getattr(text, "text_pool_type", None) or text.pool_type)


def _end_id(text: Any) -> int:
    return int(text.text_eos_id if hasattr(text, "text_eos_id") else text.eos_id)


def _obstacle(model: torch.nn.Module) -> str | None:
    """Say why a model's text side cannot be driven from token embeddings; None if it can."""
    from open_clip.model import CLIP, CustomTextCLIP
    from open_clip.transformer import TextTransformer

    text = _text_side(model)
    if not isinstance(model, (CLIP, CustomTextCLIP)):
        return f"its model is a {type(model).__name__}"
    if isinstance(model, CustomTextCLIP) and not isinstance(text, TextTransformer):
        return f"its text side is a {type(text).__name__}"
    if getattr(text, "cls_emb", None) is not None:
        return "its text side puts a class token behind the prompt"
    if text.attn_mask is None:
        return "its text side has no causal mask"
    if _pooling(text) not in _POOLINGS:
        return f"its text side pools by {_pooling(text)!r}"
    return None
