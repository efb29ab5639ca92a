"""Averages rows over seeds, tests every two series, and compares each with the best of its column.

A column is one condition: a data set, encoder, number of shots and part of the test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.compare.base import Outcome
from cafe.protocol.paired import holm, interval95, paired_test

METRICS = ("acc1", "acc5", "mean_per_class_recall", "ece", "nll")
KEYS = ("dataset", "encoder", "series", "method", "variant", "shots", "x", "part")
SIGNIFICANT = 0.05

Cell = tuple[str, float | None]  # series and value of the parameter varied


def sum_over_seeds(
    rows: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]] = (), metrics: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return mean, standard deviation (n - 1), 95 % interval and n over seeds of every cell (a series in a column).

    Parameters
    ----------
    rows : sequence of dict
        Of a suite.
    pairs : sequence of dict, default=()
        Paired tests, from :func:`compare_pairs`.
    metrics : sequence of str, default=()
        Further metrics of the suite.

    Returns
    -------
    list of dict
        Each with ``<metric>_mean`` (None without values), ``<metric>_std`` and ``<metric>_ci95`` (None with fewer than
        two); ``chosen_on``, what was used to choose, several where seeds differ; ``majority_acc1``; and ``standing``:
        ``"best"`` of its column, ``"level"`` (not distinguishable from the best: Holm-corrected p of the paired test at
        least 0.05), ``"below"``, or None where nothing was tested. A cell that does not depend on the shots (zero-shot)
        takes part in the columns of all shots: its ``standing_by_shots`` lists [shots, standing]; None elsewhere.

    Examples
    --------
    >>> base = {"dataset": "d", "encoder": "e", "method": "m", "variant": None, "series": "m", "shots": 1, "x": None,
    ...         "part": None, "oracle": False, "chosen_on": "nothing", "majority_acc1": 0.1, "acc5": 1.0,
    ...         "mean_per_class_recall": 0.5, "ece": 0.1, "nll": 1.0, "fit_seconds": 0.1}
    >>> cell, = sum_over_seeds([{**base, "acc1": 0.5}, {**base, "acc1": 0.7}])
    >>> cell["n"], round(cell["acc1_mean"], 3), round(cell["acc1_std"], 3)
    (2, 0.6, 0.141)
    """
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault(tuple(row[key] for key in KEYS), []).append(row)
    summary = []
    for cell, members in cells.items():
        entry: dict[str, Any] = dict(zip(KEYS, cell, strict=True))
        entry["n"] = len(members)
        entry["oracle"] = any(row["oracle"] for row in members)
        entry["chosen_on"] = ", ".join(dict.fromkeys(row["chosen_on"] for row in members))
        entry["standing"] = None
        entry["standing_by_shots"] = None
        entry["majority_acc1"] = members[0]["majority_acc1"]
        for metric in dict.fromkeys((*METRICS, "fit_seconds", *metrics)):
            _sum_up(entry, metric, [row[metric] for row in members if row[metric] is not None])
        summary.append(entry)
    _rank(summary, pairs)
    return summary


def _sum_up(entry: dict[str, Any], metric: str, values: Sequence[float]) -> None:
    """Add mean, standard deviation and interval of one metric to a summary row."""
    entry[f"{metric}_mean"] = float(np.mean(values)) if values else None
    entry[f"{metric}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    interval = interval95(values)
    entry[f"{metric}_ci95"] = None if interval is None else list(interval)


def _rank(summary: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]]) -> None:
    """Set ``standing`` in every summary row of a column in which pairs were tested; :func:`sum_over_seeds` defines it.

    Zero-shot has a single row for all numbers of shots. It is compared in the column of each, and
    ``standing_by_shots`` has the results; ``standing`` is set only where a part of the test has a single column.
    """
    p_values: dict[tuple[Any, ...], dict[frozenset[Any], float]] = {}
    for pair in pairs:
        column = p_values.setdefault((pair["dataset"], pair["encoder"], pair["part"], pair["shots"]), {})
        column[frozenset({(pair["a"], pair["a_x"]), (pair["b"], pair["b_x"])})] = pair["p_holm"]
    numbers = Counter(key[:3] for key in p_values)
    for (dataset, encoder, part, shots), tested in p_values.items():
        alone = part is not None and numbers[dataset, encoder, part] == 1
        members = {
            (entry["series"], entry["x"]): entry
            for entry in summary
            if (entry["dataset"], entry["encoder"], entry["part"]) == (dataset, encoder, part)
            and entry["shots"] in (0, shots)
            and entry["acc1_mean"] is not None
        }
        best = max(members, key=lambda cell: members[cell]["acc1_mean"])
        for cell, entry in members.items():
            level = tested.get(frozenset({best, cell}), 0.0) >= SIGNIFICANT
            standing = "best" if cell == best else "level" if level else "below"
            if entry["shots"] == 0:
                entry["standing_by_shots"] = [*(entry["standing_by_shots"] or []), [shots, standing]]
            if entry["shots"] != 0 or alone:
                entry["standing"] = standing


def compare_pairs(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Test every two series of each data set, encoder, number of shots and part of the test.

    Zero-shot, which has no shots, is compared in every column. p-values are corrected within a column (Holm).

    Parameters
    ----------
    outcomes : sequence of Outcome
        Those without ``correct`` are left out.

    Returns
    -------
    list of dict
        dataset, encoder, shots, part, a, a_x, b, b_x, difference (acc1 of a minus b), ci95, p_value, p_holm, n_seeds,
        n_test, mcnemar (seed, a_only, b_only, p_value).
    """
    columns: dict[tuple[Any, ...], dict[Cell, dict[int | None, NDArray[np.bool_]]]] = {}
    for outcome in outcomes:
        row = outcome.row
        if outcome.correct is not None:
            column = columns.setdefault((row["dataset"], row["encoder"], row["part"], row["shots"]), {})
            column.setdefault((row["series"], row["x"]), {})[row["seed"]] = outcome.correct
    tested: list[dict[str, Any]] = []
    for (dataset, encoder, part, shots), cells in columns.items():
        if shots == 0:
            continue
        joined = {**columns.get((dataset, encoder, part, 0), {}), **cells}
        key = {"dataset": dataset, "encoder": encoder, "shots": shots, "part": part}
        tested += _column(key, joined)
    return tested


def _column(key: dict[str, Any], cells: dict[Cell, dict[int | None, NDArray[np.bool_]]]) -> list[dict[str, Any]]:
    """Test every two series of one column, and correct the p-values."""
    results = []
    for (a, results_a), (b, results_b) in combinations(cells.items(), 2):
        seeds = _shared_seeds(results_a, results_b)
        if not seeds:
            continue
        test = paired_test(_stack(results_a, seeds), _stack(results_b, seeds))
        results.append(
            {
                **key, "a": a[0], "a_x": a[1], "b": b[0], "b_x": b[1],
                "difference": test.difference, "ci95": list(test.ci95), "p_value": test.p_value,
                "n_seeds": test.n_seeds, "n_test": len(next(iter(results_a.values()))),
                "mcnemar": [
                    {"seed": seed, "a_only": only_a, "b_only": only_b, "p_value": p}
                    for seed, (only_a, only_b, p) in zip(seeds, test.mcnemar, strict=True)
                ],
            }
        )  # fmt: skip
    for entry, corrected in zip(results, holm([entry["p_value"] for entry in results]), strict=True):
        entry["p_holm"] = corrected
    return results


def _shared_seeds(results_a: dict[int | None, Any], results_b: dict[int | None, Any]) -> list[int | None]:
    """Return the seeds of both series; a series without seeds (key None) matches all seeds of the other."""
    if None in results_a:
        return list(results_b)
    if None in results_b:
        return list(results_a)
    return [seed for seed in results_a if seed in results_b]


def _stack(by_seed: dict[int | None, NDArray[np.bool_]], seeds: Sequence[int | None]) -> NDArray[np.bool_]:
    """Return the answers of a series for these seeds, (seeds, n images)."""
    return np.stack([by_seed[None] if None in by_seed else by_seed[seed] for seed in seeds])
