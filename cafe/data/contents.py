"""What lies in a source of images, and what became of it: files left out, nested folders, identical images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

_SHOWN = 3  # names that a sentence has


@dataclass(frozen=True)
class LeftOut:
    """A file that is in no split.

    Attributes
    ----------
    path : str
        Relative to the source, with forward slashes.
    why : str
        What it is, and what would read it; or that it stands in no class folder.
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
    """What lies in a source of images; ``dataset.contents``, and ``contents`` in the answer of ``cafe extract --json``.

    Attributes
    ----------
    images : int
        That are in a split.
    left_out : tuple of LeftOut
        The other files, hidden ones apart.
    nested : mapping of str to str
        For each folder within a class folder that holds images, the class to which these count.
    inside : str
        The only folder of the source, where that holds the class folders; empty elsewhere.
    identical : tuple of tuple of Sample, or None
        Groups of images with the same bytes; None where that is not known before they are read.
    divided : bool
        Whether cafe made the splits, so that identical images are on one side.

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
        """Return it as JSON values, with how many files were left out for each reason."""
        counts: dict[str, int] = defaultdict(int)
        for file in self.left_out:
            counts[file.why] += 1
        return {**asdict(self), "nested": dict(self.nested or {}), "left_out_counts": dict(counts)}

    def sentences(self) -> list[str]:
        """Say in sentences what a user should know; empty if nothing is odd."""
        said = []
        if self.inside:
            said.append(f"the classes are the folders in {self.inside}, the only folder there is")
        if self.left_out:
            said.append(_about_left_out(self.left_out))
        if self.nested:
            said.append(_about_nested(self.nested))
        return said + about_identical(self.identical or (), divided=self.divided)


def groups_of_identical(samples: Iterable[tuple[Any, Sample]]) -> tuple[tuple[Sample, ...], ...]:
    """Group samples of equal keys; those that are alone are left away.

    Parameters
    ----------
    samples : iterable of (hashable, Sample)
        Key of the bytes, and the sample.

    Examples
    --------
    >>> one, two = Sample("a/1.png", "a", "train"), Sample("b/7.png", "b", "train")
    >>> [[sample.sample_id for sample in group] for group in groups_of_identical([("x", one), ("y", two), ("x", two)])]
    [['a/1.png', 'b/7.png']]
    """
    groups: dict[Any, list[Sample]] = defaultdict(list)
    for key, sample in samples:
        groups[key].append(sample)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def about_identical(groups: Sequence[Sequence[Sample]], *, divided: bool) -> list[str]:
    """Say what is odd about identical images: other labels, other splits, many copies.

    Parameters
    ----------
    groups : sequence of sequence of Sample
        Each of images with the same bytes.
    divided : bool
        Whether cafe made the splits.

    Returns
    -------
    list of str
        Sentences.
    """
    said = []
    other_labels = [pair for group in groups for pair in [_pair(group, "class_name")] if pair]
    if other_labels:
        named = "; ".join(
            f"{one.sample_id} ({one.class_name}) and {other.sample_id} ({other.class_name})"
            for one, other in other_labels[:_SHOWN]
        )
        said.append(f"identical images have different labels: {named}{_more(len(other_labels))}")
    if not divided:
        other_splits = [pair for group in groups for pair in [_pair(group, "split")] if pair]
        if other_splits:
            named = "; ".join(
                f"{one.sample_id} ({one.split}) and {other.sample_id} ({other.split})"
                for one, other in other_splits[:_SHOWN]
            )
            said.append(f"identical images stand in different splits: {named}{_more(len(other_splits))}")
    copies = [group for group in groups if _pair(group, "class_name") is None]
    if copies:
        n = sum(len(group) - 1 for group in copies)
        first, second, *_ = copies[0]
        which = "1 image is a copy" if n == 1 else f"{n:,} images are copies"
        kept = ", and copies are kept on one side of the split" if divided else ""
        said.append(f"{which} of another of the same class, such as {first.sample_id} and {second.sample_id}{kept}")
    return said


def _pair(group: Sequence[Sample], attribute: str) -> tuple[Sample, Sample] | None:
    """Return the first sample of a group, and the first that differs from it in an attribute; None if none does."""
    value = getattr(group[0], attribute)
    other = next((sample for sample in group if getattr(sample, attribute) != value), None)
    return None if other is None else (group[0], other)


def _about_left_out(files: Sequence[LeftOut]) -> str:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for file in files:
        by_reason[file.why].append(file.path)
    clauses = []
    for why, paths in by_reason.items():
        count = f"{len(paths):,} " if len(by_reason) > 1 else ""
        clauses.append(f"{count}{why}: {', '.join(paths[:_SHOWN])}{_more(len(paths))}")
    return f"{'1 file was' if len(files) == 1 else f'{len(files):,} files were'} left out: {'; '.join(clauses)}"


def _about_nested(nested: Mapping[str, str]) -> str:
    named = "; ".join(f"{folder} to {name!r}" for folder, name in list(nested.items())[:_SHOWN])
    which = "a nested folder count" if len(nested) == 1 else f"{len(nested):,} nested folders count"
    return (
        f"the images of {which} to the class of the folder above: {named}{_more(len(nested))}; a folder that is to be "
        f"a class of its own has to stand beside the others"
    )


def _more(n: int) -> str:
    return f", and {n - _SHOWN:,} more" if n > _SHOWN else ""
