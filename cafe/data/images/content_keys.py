"""Content keys: equal for identical files, and made without reading most of them."""

from __future__ import annotations

import functools
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

_END = 4096  # bytes compared at each end of a file before the whole file is read


def content_keys(
    root: Path, files: list[tuple[str, int]], read: Callable[[str], bytes | None] | None = None
) -> list[str]:
    """Make the keys that decide the split of images without split folders.

    A file's key is the SHA-256 of its relative path; files with identical bytes share the key of the one whose
    path sorts first. So the split of a file does not change when the folder moves or when other images come,
    and copies get the same split. Only files of equal size can be identical: both ends of these are read, and
    whole files only where the ends agree.

    Parameters
    ----------
    root : Path
        The data set's root; it is not part of the keys.
    files : list of (str, int)
        Path relative to the root with forward slashes, and size in bytes.
    read : callable or None
        Returns the content of an image by its path, None if that cannot be read; needed for images that are not files,
        such as those within an archive. None reads the files.

    Returns
    -------
    list of str
        One hexadecimal key for each file, in the order given.
    """
    first_copy: dict[str, str] = {}
    by_size: dict[int, list[str]] = defaultdict(list)
    for path, size in files:
        by_size[size].append(path)
    for size, group in by_size.items():
        # Empty files and broken links are no images, so they are not copies of each other.
        if size == 0 or len(group) == 1:
            continue
        candidates = [group] if read else _groups_of_equal(group, lambda path: _digest_of_ends(root / path))
        digest = functools.partial(_digest_of_content, read) if read else lambda path: _digest_of_file(root / path)
        for paths in candidates:
            for copies in _groups_of_equal(paths, digest):
                first = min(copies)
                first_copy.update(dict.fromkeys(copies, first))
    return [_hash_text(first_copy.get(path, path)) for path, _ in files]


def _groups_of_equal(paths: Iterable[str], key: Callable[[str], bytes | None]) -> list[list[str]]:
    """Group paths by key, and return groups of at least two; a key of None equals no other key."""
    groups: dict[bytes, list[str]] = defaultdict(list)
    for path in paths:
        value = key(path)
        if value is not None:
            groups[value].append(path)
    return [group for group in groups.values() if len(group) > 1]


def _digest_of_ends(path: Path) -> bytes | None:
    """Return the SHA-256 of both ends of a file, None if it cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(_END)
            file.seek(-min(_END, file.seek(0, os.SEEK_END)), os.SEEK_END)
            return hashlib.sha256(head + file.read()).digest()
    except OSError:
        return None  # reported by name when its pixels are asked for


def _digest_of_file(path: Path) -> bytes | None:
    """Return the SHA-256 of a file, None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None


def _digest_of_content(read: Callable[[str], bytes | None], path: str) -> bytes | None:
    """Return the SHA-256 of the content that ``read`` returns, None if it cannot be read."""
    content = read(path)
    return None if content is None else hashlib.sha256(content).digest()


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
