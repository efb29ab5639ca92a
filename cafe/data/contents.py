"""The contents of a source of images: files left out, nested folders, identical images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

_SHOWN = 3  # names that a sentence lists


@dataclass(frozen=True)
class LeftOut:
    """A file of the source that is in no split.

    Attributes
    ----------
    path : str
        Relative to the source, with forward slashes.
    why : str
        The reason: the kind of the file and what would read it, or that it lies in no class folder.
    """

    path: str
    why: str


@dataclass(frozen=True)
class Sample:
    """One of several identical images.

    Attributes
    ----------
    sample_id, class_name, split : str
        As in the data set.
    """

    sample_id: str
    class_name: str
    split: str


@dataclass(frozen=True)
class Contents:
    """The contents of a source of images: ``dataset.contents``, and ``contents`` in ``cafe extract --json``.

    Attributes
    ----------
    images : int
        Number of images in the splits.
    left_out : tuple of LeftOut
        The other files, hidden ones apart.
    nested : mapping of str to str
        For each folder within a class folder that holds images, the class to which these count.
    inside : str
        The only folder of the source, if that holds the class folders; else empty.
    identical : tuple of tuple of Sample, or None
        Groups of images with the same bytes; None if the images have to be read to find them.
    divided : bool
        Whether cafe divided the images into splits itself, which keeps identical images in one split.

    Examples
    --------
    >>> contents = Contents(2, (LeftOut("a/notes.txt", "no image by its name"),))
    >>> contents.sentences()
    ['1 file was left out: no image by its name: a/notes.txt']
    """

    images: int
    left_out: tuple[LeftOut, ...] = ()
    nested: Mapping[str, str] | None = None
    inside: str = ""
    identical: tuple[tuple[Sample, ...], ...] | None = None
    divided: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the contents as JSON values, with the number of files left out for each reason."""
        counts: dict[str, int] = defaultdict(int)
        for file in self.left_out:
            counts[file.why] += 1
        return {**asdict(self), "nested": dict(self.nested or {}), "left_out_counts": dict(counts)}

    def sentences(self) -> list[str]:
        """Return one sentence for everything that a user should know; empty if nothing is unusual."""
        sentences = []
        if self.inside:
            sentences.append(f"the classes are the folders in {self.inside}, the only folder there is")
        if self.left_out:
            sentences.append(_left_out_sentence(self.left_out))
        if self.nested:
            sentences.append(_nested_sentence(self.nested))
        return sentences + describe_identical(self.identical or (), divided=self.divided)


def groups_of_identical(samples: Iterable[tuple[Any, Sample]]) -> tuple[tuple[Sample, ...], ...]:
    """Group samples by key; groups of a single sample are left out.

    Parameters
    ----------
    samples : iterable of (hashable, Sample)
        Key of the bytes, and the sample.

    Examples
    --------
    >>> cat, dog = Sample("a/1.png", "a", "train"), Sample("b/7.png", "b", "train")
    >>> [[sample.sample_id for sample in group] for group in groups_of_identical([("x", cat), ("y", dog), ("x", dog)])]
    [['a/1.png', 'b/7.png']]
    """
    groups: dict[Any, list[Sample]] = defaultdict(list)
    for key, sample in samples:
        groups[key].append(sample)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def describe_identical(groups: Sequence[Sequence[Sample]], *, divided: bool) -> list[str]:
    """Describe identical images: groups of different labels, groups in different splits, and mere copies.

    Parameters
    ----------
    groups : sequence of sequence of Sample
        The samples of each group have the same bytes.
    divided : bool
        Whether cafe divided the images into splits itself, which keeps copies in one split.

    Returns
    -------
    list of str
        One sentence for each of the three that occurs.
    """
    sentences = []
    differences = [
        ("class_name", "have different labels"),
        *([] if divided else [("split", "are in different splits")]),
    ]
    for attribute, how in differences:
        pairs = [pair for group in groups for pair in [_first_difference(group, attribute)] if pair]
        if pairs:
            named = "; ".join(
                " and ".join(f"{sample.sample_id} ({getattr(sample, attribute)})" for sample in pair)
                for pair in pairs[:_SHOWN]
            )
            sentences.append(f"identical images {how}: {named}{_and_more(len(pairs))}")
    copies = [group for group in groups if _first_difference(group, "class_name") is None]
    if copies:
        n = sum(len(group) - 1 for group in copies)
        first, second, *_ = copies[0]
        which = "1 image is a copy" if n == 1 else f"{n:,} images are copies"
        kept = ", and copies are kept on one side of the split" if divided else ""
        sentences.append(
            f"{which} of another of the same class, such as {first.sample_id} and {second.sample_id}{kept}"
        )
    return sentences


def _first_difference(group: Sequence[Sample], attribute: str) -> tuple[Sample, Sample] | None:
    """Return the first sample of a group and the first that differs from it in an attribute; None if all are equal."""
    value = getattr(group[0], attribute)
    other = next((sample for sample in group if getattr(sample, attribute) != value), None)
    return None if other is None else (group[0], other)


def _left_out_sentence(files: Sequence[LeftOut]) -> str:
    """Say how many files were left out, and why."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for file in files:
        by_reason[file.why].append(file.path)
    clauses = []
    for why, paths in by_reason.items():
        count = f"{len(paths):,} " if len(by_reason) > 1 else ""
        clauses.append(f"{count}{why}: {', '.join(paths[:_SHOWN])}{_and_more(len(paths))}")
    return f"{'1 file was' if len(files) == 1 else f'{len(files):,} files were'} left out: {'; '.join(clauses)}"


def _nested_sentence(nested: Mapping[str, str]) -> str:
    """Say to which classes the images of nested folders count."""
    named = "; ".join(f"{folder} to {name!r}" for folder, name in list(nested.items())[:_SHOWN])
    which = "a nested folder count" if len(nested) == 1 else f"{len(nested):,} nested folders count"
    return (
        f"the images of {which} to the class of the folder above: {named}{_and_more(len(nested))}; a folder that is to "
        f"be a class of its own has to lie beside the others"
    )


def _and_more(n: int) -> str:
    """Return how many are not shown, empty if none."""
    return f", and {n - _SHOWN:,} more" if n > _SHOWN else ""
