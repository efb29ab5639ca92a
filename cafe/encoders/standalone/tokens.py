"""CLIP's tokenizer from its file, by the library ``tokenizers`` alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.encoders.towers.torch_encoder import PROBES
from cafe.foreign import read_json

# As CLIP's published tokenizer cuts text; transformers builds it so, whatever a file says beside words and merges.
_PIECES = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_START, _END = "<|startoftext|>", "<|endoftext|>"
_CLASSES = ("CLIPTokenizer", "CLIPTokenizerFast")


class ClipTokenizer:
    """Cuts prompts into CLIP's tokens.

    Parameters
    ----------
    folder : Path
        The folder of ``tokenizer.json`` and ``tokenizer_config.json``.
    context : int
        Positions of the text tower.

    Attributes
    ----------
    max_tokens : int
        Number of tokens at which prompts are cut.
    size : int
        Number of words in the vocabulary.
    end : int
        The token of the end, which also pads.

    Raises
    ------
    ValueError, KeyError, TypeError, InputError
        If the files are not those of CLIP's tokenizer, or add tokens to it.
    """

    def __init__(self, folder: Path, context: int) -> None:
        from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

        config, document = read_json(folder / "tokenizer_config.json"), read_json(folder / "tokenizer.json")
        model, added = document["model"], {token["content"] for token in document["added_tokens"]}
        special = {name: _content(config.get(f"{name}_token", _END)) for name in ("eos", "unk", "pad")}
        special["bos"] = _content(config.get("bos_token", _START))
        if config.get("tokenizer_class") not in _CLASSES or set(special.values()) != {_START, _END}:
            raise ValueError("another tokenizer")
        if special["bos"] != _START or added != {_START, _END} or not {_START, _END} <= model["vocab"].keys():
            raise ValueError("other special tokens")
        if config.get("added_tokens_decoder", {}).keys() - {str(model["vocab"][token]) for token in added}:
            raise ValueError("added tokens")
        merges: Any = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
        bpe = models.BPE(
            vocab=model["vocab"], merges=merges, continuing_subword_prefix="", end_of_word_suffix="</w>",
            fuse_unk=False, unk_token=_END,
        )  # fmt: skip
        tokenizer = Tokenizer(bpe)
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_PIECES), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        self._words: dict[str, int] = model["vocab"]
        self.end = self._words[_END]
        # One roberta-like template: start, text, end.
        tokenizer.post_processor = processors.RobertaProcessing(
            (_END, self.end), (_START, self._words[_START]), False, False
        )
        tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in (_START, _END)])
        self.size = len(self._words)
        self.max_tokens = min(context, int(config.get("model_max_length", context)))
        tokenizer.enable_truncation(self.max_tokens)
        self._tokenizer = tokenizer

    def __call__(self, prompts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return prompts as tokens (n, l), padded behind the end, and a mask (n, l) that is False for the padding."""
        encoded = [encoding.ids for encoding in self._tokenizer.encode_batch(list(prompts))]
        lengths = np.array([len(ids) for ids in encoded])
        tokens = np.full((len(encoded), lengths.max()), self.end, dtype=np.int64)
        is_token = np.arange(tokens.shape[1]) < lengths[:, None]
        tokens[is_token] = np.concatenate(encoded)
        return tokens, is_token

    def sha256(self) -> str:
        """Return the hash that :meth:`cafe.encoders.transformers.TransformersCLIP.identity` has for this tokenizer."""
        probes = [self._tokenizer.encode(text).ids for text in PROBES]
        content = [sorted(self._words.items()), probes, self.max_tokens, self.end]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _content(token: Any) -> str:
    """Return the text of a special token, which a file gives as text or as a mapping with ``content``."""
    return str(token["content"] if isinstance(token, dict) else token)
