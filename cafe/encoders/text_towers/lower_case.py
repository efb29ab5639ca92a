"""SigLIP 2 reads lower-cased prompts; which checkpoints are of it, and how their tokenizers are made to do so.

SigLIP 2 was trained on lower-cased text (arXiv 2502.14786, section 2.1). transformers lower-cases for the model type
``siglip2`` alone, which the NaFlex checkpoints have; those of fixed resolution say ``siglip``, as SigLIP 1 does. They
are told apart by their tokenizer: SigLIP 2 has Gemma's, SigLIP 1 one of its own, which lower-cases by itself.
"""

from __future__ import annotations

from typing import Any

from cafe.encoders.towers.checkpoints import file_of
from cafe.errors import InputError
from cafe.foreign import read_json

_TOKENIZERS = ("Gemma", "Siglip2")  # beginnings of what tokenizer_class says
_OTHER_FILES = {
    "processor_config.json": "processor_class",
    "preprocessor_config.json": "processor_class",
    "tokenizer_config.json": "processor_class",
}
_TURN = "<start_of_turn>"  # of Gemma's vocabulary, and of no tokenizer of SigLIP 1


def is_siglip_2(source: str, model_type: str, pin: dict[str, str]) -> bool:
    """Return whether a checkpoint is a SigLIP 2, by the files of its tokenizer and processor.

    Parameters
    ----------
    source : str
        Folder or hub id.
    model_type : str
        As its configuration says.
    pin : dict
        ``{"revision": commit}``, or empty for a folder.
    """
    if not model_type.startswith("siglip"):
        return False
    if model_type == "siglip2":
        return True
    if str(_entry(source, "tokenizer_config.json", "tokenizer_class", pin)).startswith(_TOKENIZERS):
        return True
    if any(str(_entry(source, name, key, pin)).startswith("Siglip2") for name, key in _OTHER_FILES.items()):
        return True
    model = _entry(source, "tokenizer.json", "model", pin)
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    return isinstance(vocabulary, dict) and _TURN in vocabulary


def _entry(source: str, name: str, key: str, pin: dict[str, str]) -> Any:
    """Return an entry of a checkpoint's JSON file; None where the file or the entry is missing."""
    path = file_of(source, name, pin)
    content = None if path is None else read_json(path)
    return content.get(key) if isinstance(content, dict) else None


def lower_case(source: str, tokenizer: Any) -> None:
    """Make a tokenizer lower-case prompts, in place, as transformers does for ``siglip2``, unless it does so already.

    Raises
    ------
    InputError
        If the tokenizer is not one of the library ``tokenizers``, and so cannot be changed.
    """
    from tokenizers import normalizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InputError(
            f"{source} is a SigLIP 2, which reads lower-cased prompts, but its tokenizer "
            f"({type(tokenizer).__name__}) cannot be made to lower-case; a tokenizer.json is needed"
        )
    before = backend.normalizer
    if before is None:
        backend.normalizer = normalizers.Lowercase()
    elif before.normalize_str("A") == "A":
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), before])
