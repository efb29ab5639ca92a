"""Reads the part of HDF5 that a cache may use, without the HDF5 library, which hangs or crashes on some damaged files.

A cache may come from a stranger, and one flipped bit can send the library into a loop that nothing but SIGKILL ends
(its global heap has no checksum). This reader trusts nothing that a file says about itself: every address and length
is compared with the file's size, every checksum with its bytes, no structure is read twice, and all structures
together are read only up to :data:`METADATA_LIMIT`. So time and memory are bounded whatever the file holds. Features
that a cache may not have (chunks, filters, external files, virtual arrays, soft and external links) are never
followed; each is reported under the name of its array.

Source: HDF5 File Format Specification, version 3.0 (superblocks 0 to 3, object headers 1 and 2, old and new groups).
"""

from cafe.cache.format.hdf5.file import StoredFile
from cafe.cache.format.hdf5.structures import METADATA_LIMIT, SIGNATURE, DamagedFileError, TruncatedFileError, checksum
from cafe.cache.format.hdf5.values import Attributes, StoredArray

__all__ = [
    "METADATA_LIMIT",
    "SIGNATURE",
    "Attributes",
    "DamagedFileError",
    "StoredArray",
    "StoredFile",
    "TruncatedFileError",
    "checksum",
]
