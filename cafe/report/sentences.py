"""Sentences about a row of a fit, the same on the screen and in the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from cafe.report.rows import counted


def percent(share: float, digits: int = 1) -> str:
    """Write a share in per cent.

    Examples
    --------
    >>> percent(0.1234), percent(0.1234, 2)
    ('12.3 %', '12.34 %')
    """
    return f"{100 * share:.{digits}f} %"


def percent_below(share: float) -> str:
    """Write a share in per cent, rounded down, for the most that can be promised.

    Examples
    --------
    >>> percent_below(0.9999), percent_below(2 / 3)
    ('99.9 %', '66.6 %')
    """
    return f"{math.floor(1000 * share) / 10:.1f} %"


def name_separator(row: Mapping[str, Any]) -> str:
    """Return the separator of a row's class names: a comma, or a semicolon where a name has a comma itself.

    Examples
    --------
    >>> name_separator({"untested_classes": ["kite", "crane"]})
    ', '
    >>> name_separator({"untested_classes": ["kite", "crane, bird"]})
    '; '
    """
    named = [*(row.get("weakest_classes") or ()), *(row.get("confused_pairs") or ())]
    names = [str(entry.get(key, "")) for entry in named for key in ("class", "predicted")]
    return "; " if any("," in name for name in [*names, *(row.get("untested_classes") or ())]) else ", "


def describe_weakest(row: Mapping[str, Any], shown: Callable[[str], str]) -> str:
    """Name the weakest classes of a row and their accuracies, each name as ``shown`` writes it.

    Examples
    --------
    >>> describe_weakest({"weakest_classes": [{"class": "kite", "recall": 0.5, "n_test": 8}]}, str)
    'kite 50.0 % of 8'
    """
    return name_separator(row).join(
        f"{shown(entry['class'])} {percent(entry['recall'])} of {entry['n_test']:g}"
        for entry in row.get("weakest_classes") or ()
    )


def describe_confused(row: Mapping[str, Any], shown: Callable[[str], str]) -> str:
    """Name the classes of a row that are most often taken for others, each name as ``shown`` writes it.

    Examples
    --------
    >>> describe_confused({"confused_pairs": [{"class": "kite", "predicted": "hawk", "count": 3, "n_test": 8}]}, str)
    'kite taken for hawk (3 of 8)'
    """
    return name_separator(row).join(
        f"{shown(pair['class'])} taken for {shown(pair['predicted'])} ({pair['count']:.3g} of {pair['n_test']:g})"
        for pair in row.get("confused_pairs") or ()
    )


def describe_majority(row: Mapping[str, Any]) -> str:
    """Compare the accuracy with naming the most frequent class for every image; empty where it is surely above.

    Examples
    --------
    >>> describe_majority({"acc1_interval": [0.5, 0.66], "majority_acc1": 0.87})
    'the accuracy is below that'
    >>> describe_majority({"acc1_interval": [0.8, 0.9], "majority_acc1": 0.87})
    'the accuracy is not surely above that'
    """
    interval, share = row.get("acc1_interval"), row.get("majority_acc1")
    if not interval or share is None or interval[0] > share:
        return ""
    return "the accuracy is below that" if interval[1] < share else "the accuracy is not surely above that"


def describe_tested_classes(row: Mapping[str, Any]) -> str:
    """Describe the classes that balanced accuracy is a mean of, and how many of them were hardly tested.

    Examples
    --------
    >>> describe_tested_classes({"tested_classes": 4, "barely_tested_classes": 2})
    'the mean over the 4 tested classes, 2 of them with fewer than 5 test images'
    """
    number, barely = row.get("tested_classes"), row.get("barely_tested_classes")
    if number is None:  # of an older run
        return "the mean of the tested classes' accuracies"
    few = "" if not barely else f", {'all' if barely == number else barely} of them with fewer than 5 test images"
    return f"the mean over the {counted(number, 'tested class', 'tested classes')}{few}"


def describe_calibration(row: Mapping[str, Any]) -> str:
    """Describe the calibration: with or without a temperature, and the error of both; empty where it is not known.

    Examples
    --------
    >>> row = {"temperature": 2.5, "temperature_fitted": 2.5, "ece_out_of_fold": 0.1, "ece_tempered": 0.02}
    >>> describe_calibration(row)
    'divided by a temperature of 2.5: calibration error 10.0 % before and 2.0 % after, out of fold'
    >>> describe_calibration({**row, "temperature": 1.0, "temperature_fitted": 0.9, "ece_tempered": 0.11})
    "the method's own: a temperature (0.9) is not sure to help; calibration error 10.0 %, with it 11.0 %, out of fold"
    """
    if row.get("temperature_fitted") is None:
        return ""
    before, after = percent(row["ece_out_of_fold"]), percent(row["ece_tempered"])
    fitted, used = f"{row['temperature_fitted']:.3g}", f"{row['temperature']:.3g}"
    if row["temperature"] == 1.0:
        return (
            f"the method's own: a temperature ({fitted}) is not sure to help; calibration error {before}, with it "
            f"{after}, out of fold"
        )
    return f"divided by a temperature of {used}: calibration error {before} before and {after} after, out of fold"
