"""Paired tests of every two series that stand in one column."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cafe.protocol.paired import holm, paired_test

if TYPE_CHECKING:
    from cafe.compare.base import Outcome

Cell = tuple[str, float | None]  # series and value of the parameter varied


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
    found = []
    for (a, own), (b, other) in combinations(cells.items(), 2):
        seeds = _shared_seeds(own, other)
        if not seeds:
            continue
        test = paired_test(_stack(own, seeds), _stack(other, seeds))
        found.append(
            {
                **key, "a": a[0], "a_x": a[1], "b": b[0], "b_x": b[1],
                "difference": test.difference, "ci95": list(test.ci95), "p_value": test.p_value,
                "n_seeds": test.n_seeds, "n_test": len(next(iter(own.values()))),
                "mcnemar": [
                    {"seed": seed, "a_only": only_a, "b_only": only_b, "p_value": p}
                    for seed, (only_a, only_b, p) in zip(seeds, test.mcnemar, strict=True)
                ],
            }
        )  # fmt: skip
    for entry, corrected in zip(found, holm([entry["p_value"] for entry in found]), strict=True):
        entry["p_holm"] = corrected
    return found


def _shared_seeds(own: dict[int | None, Any], other: dict[int | None, Any]) -> list[int | None]:
    """Return the seeds that both have; a series without seeds (key None) goes with any."""
    if None in own:
        return list(other)
    if None in other:
        return list(own)
    return [seed for seed in own if seed in other]


def _stack(by_seed: dict[int | None, NDArray[np.bool_]], seeds: Sequence[int | None]) -> NDArray[np.bool_]:
    return np.stack([by_seed[None] if None in by_seed else by_seed[seed] for seed in seeds])
