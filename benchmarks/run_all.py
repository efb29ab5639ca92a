"""Run every benchmark of the table in docs/performance.md, print the table and write it there.

    CAFE_REAL_DATA=... python benchmarks/run_all.py [--only adapter,grid] [--no-run]

Each script runs with its default arguments, one after the other, on PyTorch's threads as they are; an hour in all on
two idle cores. One that fails does not stop the others, and makes the exit status 1; so does a row
that is slower than the straight loop by the upper 95 % bound of its ratio. `--no-run` writes the table from the rows
that are there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from gpu_tables import compiled, estimates
from harness import is_smoke, parse, put_between, some_of
from performance_table import (
    ENTRIES,
    class_weights,
    scaling,
    slower,
    step_parts,
    steps,
    table,
    time_to_accuracy,
)

HERE = Path(__file__).parent
PAGE, FIGURE = HERE.parent / "docs" / "performance.md", HERE.parent / "docs" / "scaling.png"
NAMES = tuple(
    dict.fromkeys([*(entry.benchmark for entry in ENTRIES), "steps", "class_weights", "time_to_accuracy", "scaling"])
)


def run(name: str) -> bool:
    """Run one script, in its smallest form if this one is, and say how it went."""
    start = time.perf_counter()
    print(f"--- {name}", flush=True)
    command = [sys.executable, str(HERE / f"bench_{name}.py"), *(["--smoke"] if is_smoke() else [])]
    done = subprocess.run(command, cwd=HERE.parent, check=False)
    how = "done" if done.returncode == 0 else f"FAILED with status {done.returncode}"
    print(f"--- {name}: {how} after {time.perf_counter() - start:.0f} s", flush=True)
    return done.returncode == 0


def write_page() -> None:
    """Print the tables, and put them between their markers in docs/performance.md, but in the smallest form."""
    results, text = HERE / "results", PAGE.read_text(encoding="utf-8")
    made = {
        "benchmarks": table(results),
        "steps": steps(results),
        "step-parts": step_parts(results),
        "class-weights": class_weights(results),
        "time-to-accuracy": time_to_accuracy(results),
        "scaling": scaling(results, FIGURE),
        "compiled": compiled(results),
        "estimates": estimates(results),
    }
    for name, content in made.items():
        text = put_between(text, name, content)
    if not is_smoke():
        PAGE.write_text(text, encoding="utf-8")
    print("\n\n".join(made.values()))


def main() -> int:
    """Run the requested benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(NAMES), help=f"some of {', '.join(NAMES)}")
    parser.add_argument("--no-run", action="store_true", help="only write the tables")
    arguments = parse(parser, {"no_run": True})
    chosen = some_of(arguments.only, NAMES, "benchmark", parser)
    failed = [] if arguments.no_run else [name for name in chosen if not run(name)]
    write_page()
    faults = slower(HERE / "results")
    print("".join(f"\n{fault}" for fault in faults))
    return 1 if failed or faults else 0


if __name__ == "__main__":
    sys.exit(main())
