"""A fit for people: how it did, what was kept, and how other methods did beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cafe.cli.screen import duration
from cafe.names import short_name
from cafe.report.leaderboard import HEAD
from cafe.report.rows import counted
from cafe.report.sentences import (
    describe_calibration,
    describe_confused,
    describe_majority,
    describe_tested_classes,
    describe_weakest,
    name_separator,
    percent_below,
)
from cafe.report.tables import align, align_left

if TYPE_CHECKING:
    from cafe.report.leaderboard import Leaderboard

_SHOWN_CLASSES = 6  # of those without a test image
_LONGEST_NAME = 40  # letters of a class's name in a line


def described_fit(row: dict[str, Any], run: Path) -> str:
    """Write one fitted row for people."""
    shots = "all training images" if row["shots"] is None else f"{row['shots']} shot{'s' if row['shots'] > 1 else ''}"
    trained = f"{row['n_train']:,} images ({shots}, seed {row['seed']}) in {duration(row['fit_seconds'])}"
    if row.get("n_unlabelled"):
        trained += f", and {row['n_unlabelled']:,} unlabelled ({row['unlabelled']})"
    if row["n_train"] == 0:
        trained = "no image: it reads text alone"
    pairs = [
        [
            " ".join(str(part) for part in (row["method"], row["variant"]) if part),
            f"{row['dataset']}, {row['encoder']}",
        ],
        ["trained on", trained],
        ["accuracy", _tested(row)],
        ["majority", _majority(row)],
        ["balanced", _balanced(row)],
        ["zero-shot", _percent(row["zero_shot_acc1"])],
        ["weakest", describe_weakest(row, _short_name)],
        ["confused", describe_confused(row, _short_name)],
        ["not tested", _not_tested(row)],
        ["probabilities", describe_calibration(row)],
        ["promises", _promises(row)],
        ["chosen", _chosen(row["selection"])],
        ["kept", f"a fit on {row['refitted_on']:,} labelled images" if row.get("refitted_on") else ""],
        ["saved in", str(run)],
    ]
    shown = [pair for pair in pairs if pair[1]]
    return "\n".join(align_left(shown[0], shown[1:]))


def described_leaderboard(board: Leaderboard) -> str:
    """Write a leaderboard for people: the table, and what it says in a sentence."""
    lines = [*align(HEAD, board.table(), left_last=True), "", board.verdict, board.caution]
    lines += board.notes
    return "\n".join([*lines, f"The comparison took {duration(board.seconds)}."])


def _promises(row: dict[str, Any]) -> str:
    if row.get("no_promises"):
        return f"none: {row['no_promises']}"
    if row.get("coverage_at_most") is None:
        return ""
    return (
        f"sets of classes up to a coverage of {percent_below(row['coverage_at_most'])}, unknown images down to "
        f"{100 * row['false_alarms_at_least']:.2g} % false alarms, from {row['promises_fits']} further fits in "
        f"{duration(row['promises_seconds'])}"
    )


def _tested(row: dict[str, Any]) -> str:
    if row["acc1"] is None:
        return "not known: no test is possible"
    by = row.get("tested_by") == "cross-validation"
    interval = row.get("acc1_interval")
    between = f" (95 % interval {100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else ""
    on = "images, by cross-validation" if by else "test images"
    return f"{_percent(row['acc1'])}{between} on {row['n_test']:,} {on}"


def _majority(row: dict[str, Any]) -> str:
    """Say how often the most frequent class alone would be right, and if the accuracy is not surely above that."""
    share, name = row.get("majority_acc1"), row.get("majority_class")
    if share is None:
        return ""
    who = f"{_percent(share)} would be right with {_short_name(name) if name else 'the most frequent class'} alone"
    comparison = describe_majority(row)
    return f"{who}: {comparison}" if comparison else who


def _balanced(row: dict[str, Any]) -> str:
    """Write the mean of the tested classes' accuracies, beside which the accuracy flatters where classes are uneven."""
    recall = row.get("mean_per_class_recall")
    return "" if recall is None else f"{_percent(recall)}, {describe_tested_classes(row)}"


def _not_tested(row: dict[str, Any]) -> str:
    names = row.get("untested_classes") or []
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN_CLASSES:,} more" if len(names) > _SHOWN_CLASSES else ""
    few = f"{counted(len(names), 'class', 'classes')} without a test image: "
    return few + name_separator(row).join(map(_short_name, names[:_SHOWN_CLASSES])) + more


def _short_name(name: str) -> str:
    """Return a class name, cut to the length that an answer shows."""
    return short_name(name, _LONGEST_NAME)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


def _chosen(selection: dict[str, Any]) -> str:
    values = ((name, f"{v:.4g}" if isinstance(v, float) else v) for name, v in (selection.get("chosen") or {}).items())
    chosen = ", ".join(f"{name} {value}" for name, value in values)
    policy = "not chosen: the default" if selection["policy"] == "fixed" else f"by {selection['policy']}"
    return f"{chosen} ({policy})" if chosen else ""
