"""The live text tower of a CLIP that transformers loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cafe.encoders.text_towers.base import Block, CausalParts, TextTower, Tokens

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class TransformersTextTower(TextTower):
    """Text side of a model with ``get_text_features``; see :class:`~cafe.encoders.text_towers.base.TextTower`.

    Parameters
    ----------
    model_id, model, sha256
        As the base class has them.
    tokenizer : object
        Transformers' tokeniser.
    max_tokens : int
        The tower's context.
    """

    def __init__(self, model_id: str, model: torch.nn.Module, sha256: str, tokenizer: Any, max_tokens: int) -> None:
        super().__init__(model_id, model, sha256)
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens

    @property
    def max_tokens(self) -> int:
        """See the base class."""
        return self._max_tokens

    @property
    def leading_tokens(self) -> int:
        """See the base class."""
        first = self._tokenizer("a")["input_ids"][0]
        return int(self._tokenizer.bos_token_id is not None and first == self._tokenizer.bos_token_id)

    @property
    def table(self) -> torch.nn.Module:
        """See the base class."""
        model: Any = self.model
        table: torch.nn.Module = model.text_model.get_input_embeddings()
        return table

    def tokenize(self, prompts: Sequence[str]) -> Tokens:
        """See the base class."""
        model: Any = self.model
        tokens = tokenize(self._tokenizer, str(model.config.model_type), self._max_tokens, prompts)
        return {name: value.to(self.device) for name, value in tokens.items()}

    def length(self, prompt: str) -> int:
        """See the base class; SigLIP's tokens are padded to full length, and have no mask."""
        return len(self._tokenizer(prompt, truncation=True, max_length=self._max_tokens)["input_ids"])

    def features(self, tokens: Tokens) -> Tensor:
        """See the base class."""
        model: Any = self.model
        return pooled(model.get_text_features(**tokens))

    def causal_parts(self) -> CausalParts | None:
        """Return the parts of a CLIP; see the base class. Other kinds of model go whole."""
        from transformers import CLIPModel

        model: Any = self.model
        if type(model) is not CLIPModel:
            return None
        text = model.text_model

        def ends(ids: Tensor) -> Tensor:
            # Old configurations name another end token; the library then pools at the highest id.
            return ids.argmax(1) if text.eos_token_id == 2 else (ids == text.eos_token_id).int().argmax(1)

        def finish(hidden: Tensor) -> Tensor:
            features: Tensor = model.text_projection(text.final_layer_norm(hidden))
            return features

        blocks = [_block(layer) for layer in text.encoder.layers]
        return CausalParts(text.embeddings.position_embedding.weight, blocks, ends, finish)


def _block(layer: Any) -> Block:
    """Take one of CLIP's layers apart."""
    attention = layer.self_attn

    def inputs(x: Tensor) -> list[Tensor]:
        x = layer.layer_norm1(x)
        return [project(x) for project in (attention.q_proj, attention.k_proj, attention.v_proj)]

    return Block(attention.num_heads, inputs, attention.out_proj, lambda x: layer.mlp(layer.layer_norm2(x)))


def tokenize(tokenizer: Any, model_type: str, max_tokens: int, prompts: Sequence[str]) -> Tokens:
    """Tokenise prompts as that kind of model was trained to read them; tensors on the CPU."""
    # SigLIP was trained on prompts padded to full length, and without a mask.
    full_length = model_type.startswith("siglip")
    tokens = tokenizer(
        list(prompts),
        padding="max_length" if full_length else True,
        truncation=True,
        max_length=max_tokens,
        return_tensors="pt",
    )
    return {name: tokens[name] for name in (("input_ids",) if full_length else ("input_ids", "attention_mask"))}


def pooled(output: Any) -> Tensor:
    """Return the projected features (n, d) of ``get_text_features`` or ``get_image_features``."""
    import torch

    # From version 5 the library returns an object whose pooler_output is projected already; to project it again
    # would pass unnoticed wherever the tower is as wide as the projection.
    tensor: Tensor = output if isinstance(output, torch.Tensor) else output.pooler_output
    return tensor
