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
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from cafe.encoders.causal_parts import CausalParts

if TYPE_CHECKING:
    import torch
    from torch import Tensor

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
        Hash of the text side's weights; see :mod:`cafe.encoders.weights`.
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
        own = threading.get_ident()
        handle = self.table.register_forward_hook(
            lambda module, inputs, output: embeddings if threading.get_ident() == own else None
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
