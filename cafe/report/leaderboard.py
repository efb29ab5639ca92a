"""The leaderboard: how methods did on the same test images, and which of them can be told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cafe.names import visible_name
from cafe.report.rows import counted

BEST, LEVEL, BELOW = "best", "level", "below"
_NAMED = 3  # methods that a sentence names before it counts the others
HEAD = ("method", "accuracy %", "95 % interval", "balanced %", "ECE %", "seconds", "standing", "chosen on")


@dataclass(frozen=True)
class LeaderboardEntry:
    """The results of one method on the test images.

    Attributes
    ----------
    label : str
        Its name, with what tells it from other entries of the same method.
    row : mapping
        ``method``, ``params``, ``n_test``, ``acc1``, ``acc1_interval``, ``mean_per_class_recall``, ``ece``,
        ``fit_seconds``, ``chosen_on``; as in the rows of ``cafe fit --json``.
    standing : {"best", "level", "below"}
        ``"level"`` cannot be told apart from the best.
    p_value, p_holm : float or None
        Of the paired test against the best, before and after the correction for all pairs; None for the best itself.
    kept : bool, default=False
        Whether it is the method of the fit.
    """

    label: str
    row: Mapping[str, Any]
    standing: str
    p_value: float | None
    p_holm: float | None
    kept: bool = False


@dataclass(frozen=True)
class Leaderboard:
    """Methods on the same test images, the most accurate first.

    Attributes
    ----------
    entries : sequence of LeaderboardEntry
        At least one.
    pairs : sequence of mapping
        Of every two methods: ``a``, ``b`` (labels), ``difference`` (acc1 of a minus b), ``a_only``, ``b_only`` (images
        that one alone has right), ``p_value``, ``p_holm``.
    test : str
        The name of the paired test.
    tested_by : str
        ``"test split"`` or ``"cross-validation"``.
    majority_class : str
        The most frequent class of the test images.
    majority_acc1 : float
        Its share.
    seconds : float
        Duration of the comparison.
    notes : sequence of str
        What was left out, and why.
    """

    entries: Sequence[LeaderboardEntry]
    pairs: Sequence[Mapping[str, Any]]
    test: str
    tested_by: str
    majority_class: str
    majority_acc1: float
    seconds: float
    notes: Sequence[str] = ()

    @property
    def verdict(self) -> str:
        """Say which methods are the best, which of them cannot be told apart, and by what test.

        Where classes are uneven the most accurate may be the one that names the most frequent class, so it is also said
        if nothing is surely above that, and which method is first by balanced accuracy.
        """
        best, *others = self.entries
        n = best.row["n_test"]
        level = [entry.label for entry in others if entry.standing == LEVEL]
        below = [entry.label for entry in others if entry.standing == BELOW]
        by = ", each tested by cross-validation" if self.tested_by == "cross-validation" else ""
        ahead = f"On the same {counted(n, 'image')}{by}, {best.label} has the highest accuracy"
        if not others:
            return f"{ahead}; nothing else could be tested beside it."
        parts = [ahead]
        if level and below:
            parts += [f"{_listed(level)} cannot be told apart from it", f"{_listed(below)} {_are(below)} below"]
        elif level:
            all_of_them = "none of the others" if len(level) > 1 else level[0]
            parts.append(f"{all_of_them} {'can' if len(level) > 1 else 'cannot'} be told apart from it")
        else:
            parts.append(f"{'all others are' if len(below) > 1 else f'{below[0]} is'} below by more than chance")
        corrected = counted(len(self.pairs), "pair")
        text = f"{'; '.join(parts)} ({self.test} at 5 %, corrected for {corrected} by Holm)."
        share, name = self.majority_acc1, visible_name(self.majority_class)
        if all(entry.row["acc1_interval"][0] <= share for entry in self.entries):
            text += f" None of them is surely better than naming every image {name}, right for {100 * share:.2f} %."
        balanced = max(self.entries, key=lambda entry: entry.row["mean_per_class_recall"])
        if balanced.row["mean_per_class_recall"] > best.row["mean_per_class_recall"]:
            text += (
                f" By balanced accuracy {balanced.label} is the first, with "
                f"{100 * balanced.row['mean_per_class_recall']:.2f} %."
            )
        return text

    @property
    def caution(self) -> str:
        """Say how the kept method compares with the best, and why no method may be chosen by this table."""
        kept = next((entry for entry in self.entries if entry.kept), None)
        parts = []
        if kept is not None:
            place = {
                BEST: "it is the first of the table",
                LEVEL: "it is among those that cannot be told apart from the first",
                BELOW: "it is below the first by more than chance",
            }[kept.standing]
            parts.append(f"{kept.label} is kept: it was named before anything was tested, and {place}.")
        parts.append(
            "Nothing was chosen by this table. Whoever takes its first method because it is first has chosen on "
            "the test images: that accuracy flatters, and other images are needed to measure it. Methods that cannot "
            "be told apart (level) need not be equal: more test images may part them."
        )
        return " ".join(parts)

    def table(self) -> list[list[str]]:
        """Return its lines under :data:`HEAD`, as text."""
        lines = []
        for entry in self.entries:
            row = entry.row
            low, high = row["acc1_interval"]
            lines.append(
                [
                    f"{entry.label} (kept)" if entry.kept else entry.label, f"{100 * row['acc1']:.2f}",
                    f"{100 * low:.1f} to {100 * high:.1f}", f"{100 * row['mean_per_class_recall']:.2f}",
                    f"{100 * row['ece']:.1f}", f"{row['fit_seconds']:.2f}", entry.standing, str(row["chosen_on"]),
                ]
            )  # fmt: skip
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return the leaderboard as JSON values."""
        rows = [
            {
                "label": entry.label, **entry.row, "standing": entry.standing, "p_value": entry.p_value,
                "p_holm": entry.p_holm, "kept": entry.kept,
            }
            for entry in self.entries
        ]  # fmt: skip
        return {
            "rows": rows, "pairs": [dict(pair) for pair in self.pairs], "test": self.test,
            "tested_by": self.tested_by, "majority_class": self.majority_class, "majority_acc1": self.majority_acc1,
            "seconds": self.seconds, "verdict": self.verdict, "caution": self.caution,
            "notes": list(self.notes),
        }  # fmt: skip


def _listed(labels: Sequence[str]) -> str:
    """Name some labels, and count the rest."""
    if len(labels) > _NAMED:
        return f"{', '.join(labels[:_NAMED])} and {len(labels) - _NAMED} more"
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"


def _are(labels: Sequence[str]) -> str:
    """Return the verb after some labels."""
    return "is" if len(labels) == 1 else "are"
