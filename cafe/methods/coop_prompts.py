"""Prompts with learned context: where the context stands, and class features from it.

Letters: c classes, L tokens, w width of token embeddings, M context vectors, d feature width, g configurations.

    "end"      [start] v_1 ... v_M  NAME . [end]
    "middle"   [start] v_1 ... v_{M/2}  NAME  v_{M/2+1} ... v_M . [end]

A prompt is tokenised with M placeholder words in the context's place; their embeddings are then replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cafe.encoders.text_tower import TextTower, Tokens
from cafe.errors import InputError

PLACEHOLDER = "x"
CLASS_TOKENS = ("end", "middle")


@dataclass(frozen=True)
class ContextPrompts:
    """The prompts of one set of class names, tokenised once.

    Attributes
    ----------
    tower : TextTower
        Frozen.
    tokens : dict of str to Tensor of shape (c, L)
        With placeholders in the context's place.
    embeddings : Tensor of shape (c, L, w)
        The table's embeddings of those tokens.
    n_context : int
        M.
    order : Tensor of shape (c, L), int64, or None
        Which position of the end form comes where; None leaves it as it is.
    """

    tower: TextTower
    tokens: Tokens
    embeddings: Tensor
    n_context: int
    order: Tensor | None

    @property
    def n_classes(self) -> int:
        """Number of prompts c."""
        return len(self.embeddings)

    @property
    def bytes_per_prompt(self) -> int:
        """Estimate of the activations that autograd keeps for one prompt.

        A transformer block of width w has about 12 w^2 weights and keeps about 20 w numbers per token: the
        inputs of its products, its norms, and its attention. So numbers per token are 20/12 of weights / w.
        """
        return int(2 * self.embeddings.element_size() * self.embeddings.shape[1] * self.weights / self.tower.width)

    @property
    def weights(self) -> int:
        """Weights of the text side that take part in products."""
        named = self.tower.model.named_parameters()
        return sum(p.numel() for name, p in named if name.startswith(("text", "transformer")) and "embed" not in name)

    def prompts(self, contexts: Tensor, start: int, stop: int) -> Tensor:
        """Put contexts (g, M, w) or (g, c, M, w) into the prompts of classes start to stop: (g, stop - start, L, w)."""
        lead, m = self.tower.leading_tokens, self.n_context
        own = self.embeddings[start:stop]  # (k, L, w)
        shape = (len(contexts), *own.shape)
        common = contexts.ndim == 3
        contexts = contexts[:, None].expand(-1, stop - start, -1, -1) if common else contexts[:, start:stop]
        before, after = own[:, :lead].expand(shape[0], -1, -1, -1), own[:, lead + m :].expand(shape[0], -1, -1, -1)
        filled = torch.cat([before, contexts, after], dim=2)
        if self.order is None:
            return filled
        return filled.gather(2, self.order[start:stop, :, None].expand(shape))

    def features(self, contexts: Tensor, start: int, stop: int) -> Tensor:
        """Encode the prompts of classes start to stop: (g, stop - start, d), not normalised."""
        g, k = len(contexts), stop - start
        embeddings = self.prompts(contexts, start, stop).flatten(0, 1)  # (g k, L, w)
        tokens = {name: value[start:stop].repeat(g, 1) for name, value in self.tokens.items()}
        return self.tower.forward(tokens, embeddings).view(g, k, -1)

    def all_features(self, contexts: Tensor, chunk: int, recompute: bool) -> Tensor:
        """Encode the prompts of all classes, some at a time: (g, c, d).

        Parameters
        ----------
        contexts : Tensor of shape (g, M, w) or (g, c, M, w)
            Learned vectors.
        chunk : int
            Classes at a time.
        recompute : bool
            Keep nothing of a chunk for the backward pass, and encode it again there (gradient checkpointing):
            memory is then that of one chunk, for one more forward pass.
        """
        parts = []
        for start in range(0, self.n_classes, chunk):
            stop = min(start + chunk, self.n_classes)
            if recompute:
                parts.append(checkpoint(self.features, contexts, start, stop, use_reentrant=False))
            else:
                parts.append(self.features(contexts, start, stop))
        return torch.cat(parts, dim=1)


def make_prompts(tower: TextTower, class_names: Sequence[str], n_context: int, class_token: str) -> ContextPrompts:
    """Tokenise the prompts of these classes.

    Raises
    ------
    InputError
        If a prompt is longer than the tower's context.
    """
    filler = " ".join([PLACEHOLDER] * n_context)
    names = [name.replace("_", " ").strip() for name in class_names]
    tokens = tower.tokenize([f"{filler} {name}." for name in names])
    # What ends a prompt is as long as what a tower adds to the shortest text.
    added = _length(tower, PLACEHOLDER) - 1
    lengths = [_length(tower, name) - added for name in names]
    longest = max(range(len(names)), key=lambda i: lengths[i])
    if (needed := added + n_context + lengths[longest] + 1) > tower.max_tokens:
        raise InputError(
            f"n_context {n_context} and the class name {names[longest]!r} make a prompt of {needed} tokens, but the "
            f"text tower {tower.id} reads {tower.max_tokens}; use a smaller n_context or a shorter name"
        )
    order = None
    if class_token == "middle":
        order = _middle(tokens["input_ids"], tower.leading_tokens, n_context, lengths)
    return ContextPrompts(tower, tokens, tower.embed(tokens), n_context, order)


def words_as_context(tower: TextTower, words: str) -> Tensor:
    """Return the table's embeddings of some words, (M, w), to start a context from.

    Raises
    ------
    InputError
        If there are no words.
    """
    tokens = tower.tokenize([words])
    m = _length(tower, words) - (_length(tower, PLACEHOLDER) - 1)
    if m < 1:
        raise InputError(f"context_init of coop must be words such as 'a photo of a', but is {words!r}")
    return tower.embed(tokens)[0, tower.leading_tokens : tower.leading_tokens + m]


def _length(tower: TextTower, text: str) -> int:
    """Tokens of one text, with those that the tower adds, without padding."""
    tokens = tower.tokenize([text])
    mask = tokens.get("attention_mask")
    return int(tokens["input_ids"].shape[1] if mask is None else mask.sum())


def _middle(ids: Tensor, lead: int, m: int, lengths: Sequence[int]) -> Tensor:
    """Return the order (c, L) that moves each name in front of the second half of the context."""
    half = m // 2
    order = torch.arange(ids.shape[1]).repeat(len(lengths), 1)
    for row, length in zip(order, lengths, strict=True):
        name = torch.arange(lead + m, lead + m + length)
        rest = torch.arange(lead + half, lead + m)
        row[lead + half : lead + m + length] = torch.cat([name, rest])
    return order.to(ids.device)
