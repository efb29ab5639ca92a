"""Adapter and linear probe on 1.28 million x 1,024 float16 features (2.6 GB) that stay on disk, in a bounded memory.

    python benchmarks/bench_streaming.py [--rows 1280000] [--classes 100] [--steps 200] [--iterations 3] [--limit-gb 4]

Features are drawn around random class directions, so that classes overlap. A child process maps the file and fits
both. Its memory is measured as a sampled peak of anonymous pages (``Anonymous`` in /proc/self/smaps_rollup: what the
program itself holds; pages of the mapped file are the system's cache and can be dropped at any moment), and the whole
resident set, file pages included, is printed too. Correctness: the same fits on a smaller file, mapped and in memory,
must give the same logits, and the fits of the large file must classify rows that they never saw.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

WIDTH, BLOCK, NOISE = 1024, 16_384, 5.0


def draw(n: int, text: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw rows around their class's direction; labels are in turn."""
    rng = np.random.default_rng(seed)
    y = (np.arange(n) + 7 * seed) % len(text)
    return (text[y] + NOISE * rng.standard_normal((n, WIDTH), dtype=np.float32) / 16).astype(np.float16), y


def directions(classes: int) -> np.ndarray:
    """Return unit-length class directions; the text handed to methods is a noisy version of them."""
    vectors = np.random.default_rng(0).standard_normal((classes, WIDTH), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def noisy(text: np.ndarray) -> np.ndarray:
    """Return class embeddings that know only half of the directions."""
    return text + np.random.default_rng(1).standard_normal(text.shape, dtype=np.float32) / 32


def write(path: Path, rows: int, text: np.ndarray) -> np.ndarray:
    """Write the file block by block and return the labels."""
    labels = []
    with path.open("wb") as file:
        for block, start in enumerate(range(0, rows, BLOCK)):
            X, y = draw(min(BLOCK, rows - start), text, block)
            X.tofile(file)
            labels.append(y)
    return np.concatenate(labels)


class Peak:
    """The largest number of anonymous bytes of this process, sampled every 20 ms by a thread."""

    def __init__(self) -> None:
        self.anonymous = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.sample()

    def sample(self) -> None:
        """Take one sample."""
        for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                self.anonymous = max(self.anonymous, int(line.split()[1]) * 1024)

    def stop(self) -> int:
        """Return the peak."""
        self._stop.set()
        self._thread.join()
        self.sample()
        return self.anonymous


def fits(X: np.ndarray, y: np.ndarray, text: np.ndarray, steps: int, iterations: int) -> tuple[dict, dict]:
    """Fit the adapter and the probe; return them and their seconds."""
    from cafe import CLIPAdapter, LinearProbe

    batch = 256
    models = {
        "adapter": CLIPAdapter(noisy(text), epochs=steps * batch / len(y), batch_size=batch, random_state=0),
        "probe": LinearProbe(noisy(text), C=1.0, max_iter=iterations),
    }
    seconds = {}
    for name, model in models.items():
        start = time.perf_counter()
        model.fit(X, y)
        seconds[name] = time.perf_counter() - start
    return models, seconds


def child(arguments: argparse.Namespace) -> None:
    """Fit on the mapped file and print what was seen."""
    text = directions(arguments.classes)
    X = np.memmap(arguments.file, np.float16, mode="r", shape=(arguments.rows, WIDTH))
    y = np.load(arguments.labels)
    peak = Peak()
    models, seconds = fits(X, y, text, arguments.steps, arguments.iterations)
    test, labels = draw(10_000, text, 10**6)
    zero_shot = float(((test.astype(np.float32) @ noisy(text).T).argmax(1) == labels).mean())
    outcome = {
        "seconds": seconds,
        "acc1": {name: float(model.score(test, labels)) for name, model in models.items()},
        "zero_shot_acc1": zero_shot,
        "kernel": models["adapter"].kernel_,
        "dtype": models["adapter"].dtype_,
        "probe_iterations": models["probe"].n_iter_,
        "anonymous_gb": peak.stop() / 1e9,
        "resident_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }
    print(json.dumps(outcome))


def check_twin(folder: Path, classes: int, rows: int) -> float:
    """Fit a small file mapped and in memory; return the largest difference of their logits."""
    text = directions(classes)
    y = write(folder / "small", rows, text)
    mapped = np.memmap(folder / "small", np.float16, mode="r", shape=(len(y), WIDTH))
    test, _ = draw(1000, text, 10**6)
    stored, _ = fits(mapped, y, text, 20, 50)
    memory, _ = fits(np.array(mapped), y, text, 20, 50)
    return max(float(np.abs(stored[k].logits(test) - memory[k].logits(test)).max()) for k in stored)


def main() -> None:
    """Measure, in a child process."""
    from harness import parse, report

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_280_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--limit-gb", type=float, default=4.0)
    parser.add_argument("--twin", type=int, default=20_000, help="rows that are fitted on disk and in memory")
    parser.add_argument("--file", help="for the child process alone")
    parser.add_argument("--labels", help="for the child process alone")
    arguments = parse(parser, {"rows": 4_000, "classes": 10, "steps": 60, "iterations": 3, "twin": 1_000})
    if arguments.file:
        child(arguments)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        difference = check_twin(folder, arguments.classes, arguments.twin)
        print(
            f"mapped against in memory, {arguments.twin:,} rows: logits differ by at most {difference:.1e}", flush=True
        )
        if difference > 0.02:
            raise SystemExit("features on disk and in memory give different fits")
        y = write(folder / "large", arguments.rows, directions(arguments.classes))
        np.save(folder / "labels.npy", y)
        own = ["--file", str(folder / "large"), "--labels", str(folder / "labels.npy")]
        command = [sys.executable, __file__, *sys.argv[1:], *own]
        outcome = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    if outcome["anonymous_gb"] >= arguments.limit_gb:
        raise SystemExit(f"{outcome['anonymous_gb']:.2f} GB of memory, above {arguments.limit_gb}")
    for name, accuracy in outcome["acc1"].items():
        if accuracy <= outcome["zero_shot_acc1"]:
            raise SystemExit(f"{name}: accuracy {accuracy} is not above zero-shot's {outcome['zero_shot_acc1']}")
    row = {"shape": f"{arguments.rows}x{WIDTH}x{arguments.classes}", "file_gb": arguments.rows * WIDTH * 2 / 1e9}
    row |= {"limit_gb": arguments.limit_gb, "adapter_steps": arguments.steps, "twin_difference": difference, **outcome}
    report("streaming", None, [row])


if __name__ == "__main__":
    main()
