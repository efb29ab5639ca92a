"""Prompts with learned context: where the context stands, and class features from it.

Letters: c classes, L tokens, w width of token embeddings, M context vectors, d feature width, g configurations.

    "end"      [start] v_1 ... v_M  NAME . [end]
    "middle"   [start] v_1 ... v_{M/2}  NAME  v_{M/2+1} ... v_M . [end]

A prompt is tokenised with M placeholder words in the context's place; their embeddings are then replaced.

A causal tower spares most of the work, exactly: nothing behind a prompt's end token reaches it, so prompts are cut
there and encoded in parts of like length; and what stands before the first name is the same in all of them where
the context is common, so it is encoded once (cafe/encoders/text_towers/base.py). Of a prompt of 77 tokens, five remain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cafe.encoders.text_towers.base import CausalParts, TextTower, Tokens, encode_behind
from cafe.errors import InputError

PLACEHOLDER = "x"
CLASS_TOKENS = ("end", "middle")
# Padding tokens that are worth a part of their own: about what a part's prefix and its small operations cost.
PART_TOKENS = 128


@dataclass(frozen=True)
class Part:
    """Prompts that are encoded together.

    Attributes
    ----------
    classes : Tensor of shape (k,), int64
        Class rows.
    length : int
        Tokens that each is cut to: those of the longest.
    tokens : int
        Tokens that the tower encodes for them; what they share is counted once.
    """

    classes: Tensor
    length: int
    tokens: int


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
        Positions of the ``"end"`` form, in the order of the ``"middle"`` form; None for the ``"end"`` form.
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
    def bytes_per_token(self) -> int:
        """Estimate of the activations that autograd keeps for one token.

        A transformer block of width w has about 12 w^2 weights and keeps about 20 w numbers per token: the
        inputs of its products, its norms, and its attention. So numbers per token are 20/12 of weights / w.
        """
        return int(2 * self.embeddings.element_size() * self.weights / self.tower.width)

    @property
    def weights(self) -> int:
        """Weights of the text side that take part in products."""
        named = self.tower.model.named_parameters()
        return sum(p.numel() for name, p in named if name.startswith(("text", "transformer")) and "embed" not in name)

    @cached_property
    def causal(self) -> CausalParts | None:
        """The parts of a causal tower; None for a tower that can only be run as a whole."""
        return self.tower.causal_parts()

    @cached_property
    def lengths(self) -> list[int]:
        """Number of tokens that the features of each prompt depend on: all, or up to its end in a causal tower."""
        ids = self.tokens["input_ids"]
        if self.causal is None:
            return [ids.shape[1]] * len(ids)
        lengths: list[int] = (self.causal.ends(ids) + 1).tolist()  # read from a device at once
        return lengths

    def shared(self, common: bool) -> int:
        """Return the length of the prefix that all prompts share; 0 if the tower or the context allows none."""
        if self.causal is None or not common:
            return 0
        return self.tower.leading_tokens + (self.n_context if self.order is None else self.n_context // 2)

    def parts(self, common: bool, most_classes: int, most_tokens: float) -> list[Part]:
        """Divide the classes into parts that are encoded together; see :func:`cut_into_parts`."""
        return cut_into_parts(self.lengths, self.shared(common), most_classes, most_tokens, self.embeddings.device)

    def prompts(self, contexts: Tensor, classes: Tensor) -> Tensor:
        """Return token embeddings of the prompts of k classes with contexts (g, M, w) or (g, c, M, w): (g, k, L, w)."""
        lead, m = self.tower.leading_tokens, self.n_context
        own = self.embeddings[classes]  # (k, L, w)
        shape = (len(contexts), *own.shape)
        common = contexts.ndim == 3
        contexts = contexts[:, None].expand(-1, len(classes), -1, -1) if common else contexts[:, classes]
        before, after = own[:, :lead].expand(shape[0], -1, -1, -1), own[:, lead + m :].expand(shape[0], -1, -1, -1)
        filled = torch.cat([before, contexts, after], dim=2)
        if self.order is None:
            return filled
        return filled.gather(2, self.order[classes, :, None].expand(shape))

    def features(self, contexts: Tensor, part: Part) -> Tensor:
        """Encode the prompts of a part: (g, k, d), not normalised."""
        g, classes, length = len(contexts), part.classes, part.length
        ids = {name: value[classes, :length] for name, value in self.tokens.items()}
        shared = self.shared(contexts.ndim == 3)
        if self.causal is None or shared == 0:
            embeddings = self.prompts(contexts, classes)[:, :, :length].flatten(0, 1)  # (g k, length, w)
            # A causal tower needs no mask, and the library would read one from the device.
            needed = ids if self.causal is None else {"input_ids": ids["input_ids"]}
            tokens = {name: value.repeat(g, 1) for name, value in needed.items()}
            return self.tower.forward(tokens, embeddings).view(g, len(classes), -1)
        prefix = self.prompts(contexts, classes[:1])[:, 0, :shared]
        if self.order is None:  # no context stands behind the prefix
            suffix = self.embeddings[classes, shared:length].expand(g, -1, -1, -1)
        else:
            suffix = self.prompts(contexts, classes)[:, :, shared:length]
        return encode_behind(self.causal, ids["input_ids"][:, shared:], prefix, suffix)

    def all_features(self, contexts: Tensor, parts: Sequence[Part], recompute: bool) -> Tensor:
        """Encode the prompts of all classes, part by part: (g, c, d).

        Parameters
        ----------
        contexts : Tensor of shape (g, M, w) or (g, c, M, w)
            Learned vectors.
        parts : sequence of Part
            As :meth:`parts` cuts them.
        recompute : bool
            Keep nothing of a part for the backward pass, and encode it again there (gradient checkpointing):
            memory is then that of one part, for one more forward pass.
        """
        if recompute:
            encoded = [checkpoint(self.features, contexts, part, use_reentrant=False) for part in parts]
        else:
            encoded = [self.features(contexts, part) for part in parts]
        place = torch.cat([part.classes for part in parts]).argsort()
        return torch.cat(encoded, dim=1)[:, place]


def make_prompts(tower: TextTower, class_names: Sequence[str], n_context: int, class_token: str) -> ContextPrompts:
    """Tokenise the prompts of these classes.

    Raises
    ------
    InputError
        If a prompt is longer than the tower's context, or the tokeniser does not keep a place for each vector.
    """
    filler = " ".join([PLACEHOLDER] * n_context)
    names = [name.replace("_", " ").strip() for name in class_names]
    tokens = tower.tokenize([f"{filler} {name}." for name in names])
    # What ends a prompt is as long as what a tower adds to the shortest text.
    added = tower.length(PLACEHOLDER) - 1
    lengths = [tower.length(name) - added for name in names]
    longest = max(range(len(names)), key=lambda i: lengths[i])
    if (needed := added + n_context + lengths[longest] + 1) > tower.max_tokens:
        raise InputError(
            f"n_context {n_context} and the class name {names[longest]!r} make a prompt of {needed} tokens, but the "
            f"text tower {tower.id} reads {tower.max_tokens}; use a smaller n_context or a shorter name"
        )
    if (places := tower.length(filler) - added) != n_context:
        raise InputError(
            f"the tokeniser of {tower.id} reads {n_context} placeholder words {PLACEHOLDER!r} as {places} tokens, so "
            "that learned vectors have no place of their own in a prompt; coop cannot be trained through this tower"
        )
    order = None
    if class_token == "middle":
        order = _middle_order(tokens["input_ids"], tower.leading_tokens, n_context, lengths)
    return ContextPrompts(tower, tokens, tower.embed(tokens), n_context, order)


def words_as_context(tower: TextTower, words: str) -> Tensor:
    """Return the token embeddings of some words, (M, w), as the start of a context.

    Raises
    ------
    InputError
        If there are no words.
    """
    tokens = tower.tokenize([words])
    m = tower.length(words) - (tower.length(PLACEHOLDER) - 1)
    if m < 1:
        raise InputError(f"context_init of coop must be words such as 'a photo of a', but is {words!r}")
    return tower.embed(tokens)[0, tower.leading_tokens : tower.leading_tokens + m]


def _middle_order(ids: Tensor, lead: int, m: int, lengths: Sequence[int]) -> Tensor:
    """Return the token order (c, L) of prompts with the class name in the middle of the context."""
    half = m // 2
    order = torch.arange(ids.shape[1]).repeat(len(lengths), 1)
    for row, length in zip(order, lengths, strict=True):
        name = torch.arange(lead + m, lead + m + length)
        second_half = torch.arange(lead + half, lead + m)
        row[lead + half : lead + m + length] = torch.cat([name, second_half])
    return order.to(ids.device)


def cut_into_parts(
    lengths: Sequence[int], shared: int, most_classes: int, most_tokens: float, device: torch.device | str = "cpu"
) -> list[Part]:
    """Divide classes into parts with prompts of similar length, the longest first.

    Parameters
    ----------
    lengths : sequence of int
        Tokens of each class's prompt.
    shared : int
        Tokens that all prompts begin with and that a part encodes once.
    most_classes, most_tokens : int, float
        Limits of a part; a part of one class may have more tokens.
    device : torch.device or str, default="cpu"
        Where the parts' indices live.

    Examples
    --------
    >>> [(part.classes.tolist(), part.tokens) for part in cut_into_parts([5, 7, 6], 2, 2, 100)]
    [([1, 2], 12), ([0], 5)]
    """
    parts: list[list[int]] = []
    padding = 0
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if parts:
            longest, more = lengths[parts[-1][0]], len(parts[-1]) + 1
            padding += longest - lengths[row]
            if more <= most_classes and shared + more * (longest - shared) <= most_tokens and padding <= PART_TOKENS:
                parts[-1].append(row)
                continue
        parts.append([row])
        padding = 0
    return [
        Part(torch.tensor(members, device=device), length, shared + len(members) * (length - shared))
        for members in parts
        for length in [lengths[members[0]]]
    ]
