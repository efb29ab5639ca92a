"""The tables of docs/results.md: every section is one command, and prints its Markdown.

Run::

    CAFE_REAL_DATA=... python benchmarks/results_tables.py SECTION ... [--shots 1,4,16] [--into docs/results.md]

Sections: ``imagenet``, ``imagenet-alpha``, ``caltech``, ``variants``, ``alpha``, ``bottleneck``, ``manifold``,
``base-to-new``, ``flowers``, ``dtd``, ``digits`` (this one needs no real features). With ``--into``, the tables of each
section take the place of what stands between its two markers in that file, as soon as they are done.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import real_features as real
from harness import about_machine, embedded, parse, put_between

from cafe.compare import Comparison, compare
from cafe.compare.base import Experiment, Series, Suite
from cafe.compare.running import sum_up
from cafe.features import Features
from cafe.report.tables import markdown_table

SEEDS = (1, 2, 3)


class ImageNetMethods(Suite):
    """Methods with their published settings, for data without validation images."""

    title = "ImageNet, draws of the training set"

    def series(self, features: Features, experiment: Experiment) -> Sequence[Series]:
        """Return what is compared."""
        return (
            Series("zero-shot", "zero-shot"),
            # Without validation images C is chosen on folds of the shots; at one shot there is nothing to fold.
            Series("linear-probe", "linear-probe", {"C": "auto"}),
            Series("tip-adapter", "tip-adapter", {"alpha": 1.17, "beta": 1.0}),
            Series("tip-adapter-f", "tip-adapter-f", {"alpha": 1.17, "beta": 1.0}),
            Series("clip-adapter, image", "clip-adapter", {"variant": "image", "alpha": 0.2}),
            Series("clip-adapter, text", "clip-adapter", {"variant": "text", "beta": 0.2}),
        )


def over_draws(shots: Sequence[int]) -> Comparison:
    """Learn on each published draw of ImageNet, test on the two others."""
    suite, outcomes = ImageNetMethods(), []
    for k in shots:
        own = suite.run(Experiment((real.imagenet(k),), (k,), SEEDS))
        for outcome in own:
            # Zero-shot has no shots, but each draw is tested on images of its own: a column each.
            outcome.row["shots"] = k
            outcome.row["part"] = f"{outcome.row['n_test']:,} test images"
        outcomes += own
    return sum_up("imagenet", suite, outcomes)


def run(
    section: str,
    shots: Sequence[int],
    values: Sequence[float],
    methods: Sequence[str] | None,
    include: Sequence[str],
) -> Comparison:
    """Run one section."""
    more: dict[str, Any] = {"seeds": SEEDS, "values": values, "methods": methods, "include": include}
    if section == "imagenet":
        return over_draws(shots)
    if section.startswith("imagenet-"):
        return compare(section.removeprefix("imagenet-"), [real.imagenet(4)], shots=[4], **more)
    if section == "flowers":
        return compare("baselines", [real.flowers()], shots=shots, **more)
    if section == "dtd":
        return compare("baselines", [real.dtd()], shots=[1], **more)
    if section == "digits":
        return compare("baselines", [embedded()], shots=shots, **more)
    suite = "baselines" if section == "caltech" else section
    return compare(suite, [real.caltech69()], shots=shots, **more)


def main() -> None:
    """Print the tables of each section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION")
    parser.add_argument("--shots", default="1,4,16")
    parser.add_argument("--values", default="")
    parser.add_argument("--methods", default="")
    parser.add_argument("--include", default="")
    parser.add_argument("--into", type=Path, help="Markdown file with <!-- SECTION --> and <!-- /SECTION -->")
    given = parse(parser, {"sections": ["digits", "imagenet-alpha"], "shots": "1", "values": "0.2,0.6", "into": None})
    if not given.sections:
        parser.error("name at least one section, such as digits or caltech")
    options = {name: [v for v in getattr(given, name).split(",") if v] for name in ("values", "methods", "include")}
    for section in given.sections:
        shots = [int(k) for k in given.shots.split(",")]
        values = [float(v) for v in options["values"]]
        comparison = run(section, shots, values, options["methods"] or None, options["include"])
        text = markdown(comparison)
        print(text, flush=True)
        if given.into:
            own = f"\n    {command(section, given)}\n\n{text}\n(commit {about_machine()['commit']})\n"
            page = put_between(given.into.read_text(encoding="utf-8"), section, own)
            given.into.write_text(page, encoding="utf-8")


def command(section: str, given: argparse.Namespace) -> str:
    """Return the command line that makes one section."""
    # One published draw, or the 4-shot one: these sections take no list of shots.
    fixed = section == "dtd" or section.startswith("imagenet-")
    names = ("values", "methods", "include") if fixed else ("shots", "values", "methods", "include")
    options = [f"--{name} {getattr(given, name)}" for name in names if getattr(given, name)]
    return " ".join(["python benchmarks/results_tables.py", section, *options])


def markdown(comparison: Comparison) -> str:
    """Return the tables of one section, its notes, and its paired tests against the first series, folded away."""
    notes = [f"- {note}" for note in comparison.notes]
    table = markdown_table(comparison.summary, layout=comparison.layout)
    pairs = pair_lines(comparison.pairs)
    if pairs:
        pairs = ["<details><summary>paired tests against the first line</summary>", "", *pairs, "", "</details>"]
    return "\n".join([table, *notes, *pairs]) + "\n"


def pair_lines(pairs: Sequence[dict[str, Any]]) -> list[str]:
    """Write the paired tests that involve zero-shot, or whatever stands first."""
    first = (pairs[0]["a"], pairs[0]["a_x"]) if pairs else None
    lines = []
    for pair in pairs:
        if (pair["a"], pair["a_x"]) == first:
            at = "" if pair["b_x"] is None else f" at {pair['b_x']:g}"
            before = "" if pair["a_x"] is None else f" at {pair['a_x']:g}"
            low, high = (-100 * end for end in reversed(pair["ci95"]))
            lines.append(
                f"- {pair['shots']} shots{', ' + pair['part'] if pair['part'] else ''}: {pair['b']}{at} minus "
                f"{pair['a']}{before} {-100 * pair['difference']:+.2f} points ({low:+.2f} to {high:+.2f}), "
                f"p = {pair['p_value']:.2g}, Holm {pair['p_holm']:.2g}"
            )
    return lines


if __name__ == "__main__":
    main()
