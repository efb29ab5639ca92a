"""The cache: features on disk, one self-describing HDF5 file per data set and encoder. FORMAT.md has the format."""

from __future__ import annotations

if __name__ != "cafe.cache":
    raise ImportError("this folder is imported as cafe.cache")

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cafe.cache.extract.progress import ExtractionProgress as ExtractionProgress
    from cafe.cache.extract.progress import ExtractionSummary as ExtractionSummary
    from cafe.cache.extract.run import extract as extract
    from cafe.cache.format.provenance import Provenance as Provenance
    from cafe.cache.format.reader import CacheSummary as CacheSummary
    from cafe.cache.format.reader import summarise as summarise
    from cafe.cache.format.verify import VerifyReport as VerifyReport
    from cafe.cache.format.verify import verify_cache as verify_cache
    from cafe.cache.format.writer import write_cache as write_cache
    from cafe.cache.locate import cache_path as cache_path
    from cafe.cache.locate import find_cache as find_cache
    from cafe.cache.locate import list_caches as list_caches
    from cafe.cache.locate import load_features as load_features
    from cafe.files import cache_dir as cache_dir

# Resolved when first used, so that listing caches does not import what extraction needs.
_EXPORTS = {
    "CacheSummary": "cafe.cache.format.reader",
    "ExtractionProgress": "cafe.cache.extract.progress",
    "ExtractionSummary": "cafe.cache.extract.progress",
    "Provenance": "cafe.cache.format.provenance",
    "VerifyReport": "cafe.cache.format.verify",
    "cache_dir": "cafe.files",
    "cache_path": "cafe.cache.locate",
    "extract": "cafe.cache.extract.run",
    "find_cache": "cafe.cache.locate",
    "list_caches": "cafe.cache.locate",
    "load_features": "cafe.cache.locate",
    "summarise": "cafe.cache.format.reader",
    "verify_cache": "cafe.cache.format.verify",
    "write_cache": "cafe.cache.format.writer",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'cafe.cache' has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})


class _Package(ModuleType):
    """Keeps the name ``extract`` for the function, which users know, whatever has been imported before.

    Python would give it to the folder of that name once a module of the folder is imported; those modules are
    imported by their full names, which do not pass through here.
    """

    @property
    def extract(self) -> Any:
        return __getattr__("extract")

    @extract.setter
    def extract(self, folder: ModuleType) -> None:
        pass


sys.modules[__name__].__class__ = _Package
