"""What every benchmark shares: data, timing side by side, and rows appended to results/.

A row says what was measured, against what, both medians, their ratio, and where: device, versions, commit, dtype.

Every script takes ``--smoke``: its smallest form, a few seconds on data that comes with cafe, which shows that the
script runs and its checks pass; its figures mean nothing and no row is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import itertools
import json
import os
import platform
import statistics
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

RESULTS = Path(__file__).parent / "results"
# What tells processors of one name apart: a virtual machine says "AMD EPYC" of all of them.
MODEL = {"cpu family": "family", "model": "model"}
# How far gradients may be from float64's, of their length. In bfloat16 a logit of 14 is rounded by up to 14 / 512 = 3 %
# of 1, which changes its probability by as much, and every product rounds once more; in float32 2^15 times less.
APART = {"float32": 1e-4, "bfloat16": 0.1}
T = TypeVar("T")
_smoke = False


def parse(
    parser: argparse.ArgumentParser, smoke: Mapping[str, Any], argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """Parse the command line of a script, with ``--smoke`` beside its own options.

    Parameters
    ----------
    parser : ArgumentParser
        With the script's own options.
    smoke : mapping of str to object
        Values that the options take in the smallest form, whatever else is given.
    argv : sequence of str, default=None
        Arguments of the command line; None takes those of the process.

    Returns
    -------
    Namespace
        With ``smoke`` beside the script's own.
    """
    global _smoke
    parser.add_argument("--smoke", action="store_true", help="the smallest form, on data that comes with cafe; no row")
    arguments = parser.parse_args(argv)
    _smoke = arguments.smoke
    if _smoke:
        vars(arguments).update(smoke)
    return arguments


def is_smoke() -> bool:
    """Return whether the script runs in its smallest form."""
    return _smoke


def timed(run: Callable[[], T], clock: Callable[[], float] = time.perf_counter) -> tuple[float, T]:
    """Return the seconds that a call takes, and what it returns."""
    start = clock()
    result = run()
    return clock() - start, result


def some_of(text: str, known: Iterable[str], what: str, parser: argparse.ArgumentParser) -> list[str]:
    """Read names from a list with commas; the command fails where one of them is not known."""
    names, known = text.split(","), list(known)
    if unknown := set(names) - set(known):
        parser.error(f"unknown {what} {', '.join(sorted(unknown))}; possible: {', '.join(known)}")
    return names


def side_by_side(runs: Mapping[str, Callable[[], Any]], repeats: int, warm_up: bool = True) -> dict[str, float]:
    """Time several things in turn, round after round, and return the median seconds of each.

    Turns, not blocks: what else the machine does then disturbs all of them alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(repeats + warm_up):
        for name, run in runs.items():
            taken = timed(run)[0]
            if round_number >= warm_up:
                seconds[name].append(taken)
    return {name: statistics.median(values) for name, values in seconds.items()}


def paired_ratio(
    straight: Callable[[], Any], own: Callable[[], Any], pairs: int, least: int | None = None
) -> dict[str, float]:
    """Time two sides in pairs, each first in turn; with ``least``, from so many on, until the interval leaves 1 out.

    Returns
    -------
    dict of str to float
        ``pairs``, how many were timed; ``straight_seconds`` and ``cafe_seconds``, medians; ``ratio``, the mean of the
        paired ones by their logarithms, above 1 where cafe's own side is faster; ``ratio_low`` and ``ratio_high``, its
        95 % interval.
    """
    from scipy.stats import t as student

    seconds: dict[str, list[float]] = {"straight": [], "cafe": []}
    sides = {"straight": straight, "cafe": own}
    for pair in range(pairs):
        for name in sorted(sides, reverse=bool(pair % 2)):
            seconds[name].append(timed(sides[name])[0])
        logs = np.log(np.array(seconds["straight"]) / np.array(seconds["cafe"]))
        spread = student.ppf(0.975, pair) * logs.std(ddof=1) / np.sqrt(pair + 1) if pair else 0.0
        if least is not None and pair + 1 >= least and abs(logs.mean()) > spread:
            break
    return {
        "pairs": len(logs),
        "straight_seconds": statistics.median(seconds["straight"]),
        "cafe_seconds": statistics.median(seconds["cafe"]),
        "ratio": float(np.exp(logs.mean())),
        "ratio_low": float(np.exp(logs.mean() - spread)),
        "ratio_high": float(np.exp(logs.mean() + spread)),
    }


def train_plainly(optimizer: Any, loss: Callable[[Any], Any], n: int, batch: int | None, steps: int) -> None:
    """Train as one would write it: autograd, shuffled batches, a cosine schedule.

    ``loss`` takes the numbers of a batch's rows, of ``n``; with a batch of None it takes a slice of all of them.
    """
    import torch

    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    epochs = ([slice(None)] if batch is None else torch.randperm(n).split(min(batch, n)) for _ in itertools.count())
    for rows in itertools.islice(itertools.chain.from_iterable(epochs), steps):
        value = loss(rows)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()


def real_data() -> Path:
    """Return the folder that CAFE_REAL_DATA names."""
    folder = os.environ.get("CAFE_REAL_DATA")
    if not folder:
        raise SystemExit("CAFE_REAL_DATA is unset: it names the folder of real features and photographs")
    return Path(folder)


def real_features(name: str) -> Any:
    """Open one of the real feature files of the folder that CAFE_REAL_DATA names; digits in the smallest form.

    Returns
    -------
    mapping of str to ndarray
        ``train_{k}shot_features``, ``val_labels``, ``text_features``, ``class_names``, ... as the files have them.
    """
    if not _smoke:
        return np.load(real_data() / "clip_features" / f"{name}.npz")
    with_text = name.startswith(("imagenet", "caltech"))
    return {key: value for key, value in _digits_as_published().items() if with_text or key != "text_features"}


@functools.cache
def _digits_as_published() -> dict[str, np.ndarray]:
    """Encode the embedded digits with the embedded model, and name the arrays as the published files do."""
    from cafe.data import open_dataset
    from cafe.encoders import open_encoder
    from cafe.prompts import class_embeddings, prompts

    dataset, encoder = open_dataset("digits"), open_encoder("cafe:mini", device="cpu")
    text = encoder.encode_text(prompts(dataset.templates, dataset.class_names))
    arrays = {"text_features": class_embeddings(text[None]), "class_names": np.array(dataset.class_names)}
    places: dict[str, np.ndarray] = {}
    for split, n in (("train", 24), ("val", 6), ("test", 12)):
        labels = dataset.splits[split].labels
        rows = np.stack([np.flatnonzero(labels == c)[:n] for c in range(len(dataset.class_names))], axis=1)  # (n, c)
        crops = np.stack([encoder.cropper(dataset.image(split, int(i))) for i in rows.ravel()])
        features = unit(encoder.encode_images(crops)).astype(np.float16).reshape(*rows.shape, -1)  # (n, c, d)
        places[split] = features
        if split != "train":
            arrays |= _rows_by_class(split, features)
    for k in (1, 2, 4, 8, 16):
        arrays |= _rows_by_class(f"train_{k}shot", places["train"][:k])
    for start, k in ((16, 1), (17, 2), (19, 4)):  # three draws without a common image
        draw = _rows_by_class("draw", places["train"][start : start + k])
        arrays |= {f"features_{k}shot": draw["draw_features"], f"labels_{k}shot": draw["draw_labels"]}
    return arrays


def _rows_by_class(name: str, features: np.ndarray) -> dict[str, np.ndarray]:
    """Return features (k, c, d) and their labels as rows in order of class."""
    k, c, d = features.shape
    rows = features.transpose(1, 0, 2).reshape(c * k, d)  # (c k, d)
    return {f"{name}_features": rows, f"{name}_labels": np.repeat(np.arange(c), k)}


def photographs(folder: Path) -> Any:
    """Unpack the real photographs and open them; in the smallest form, digits drawn large and saved as JPEG files."""
    from cafe.data import open_dataset

    if not _smoke:
        with tarfile.open(real_data() / "caltech101_images.tar") as archive:
            # Python before 3.11.4 has no filter, and takes no argument of that name.
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(folder)
        return open_dataset("caltech101", folder)
    digits = open_dataset("digits")
    for i, label in enumerate(digits.splits["train"].labels[:200]):
        place = folder / "train" / digits.class_names[label]
        place.mkdir(parents=True, exist_ok=True)
        digits.image("train", i).convert("RGB").resize((96, 80)).save(place / f"{i}.jpg", quality=90)
    return open_dataset(str(folder))


def embedded(dataset: Any = "digits", templates: Sequence[str] | None = None, path: Path | None = None) -> Any:
    """Return the features of a data set, or of one by its name, by the embedded model.

    With ``path``, a cache that an earlier call left there is read, or else this one's is kept there.
    """
    from cafe.cache import extract, load_features
    from cafe.data import open_dataset
    from cafe.encoders import open_encoder

    with tempfile.TemporaryDirectory() as folder:
        cache = path or Path(folder) / "features.h5"
        if not cache.exists():
            opened = open_dataset(dataset) if isinstance(dataset, str) else dataset
            extract(opened, open_encoder("cafe:mini", "cpu", "float32"), cache, templates=templates)
        return load_features(cache)


def unit(x: np.ndarray) -> np.ndarray:
    """Scale rows to length one."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def unit_float32(x: Any) -> np.ndarray:
    """Scale rows to length one, in float32."""
    return unit(np.asarray(x, np.float32))


def drawn_like(
    X: np.ndarray, y: np.ndarray, n: int, seed: int, spread: float = 1.0, classes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw n unit rows, classes in turn, around the class means of real features.

    The residual of a row is drawn with the real within-class covariance, so that classes overlap as they do. With
    ``classes`` only those are drawn from, and label i stands for ``classes[i]``; the covariance is that of all.
    """
    rng = np.random.default_rng(seed)
    X = unit(X.astype(np.float64))
    n_classes = int(y.max()) + 1
    means = np.zeros((n_classes, X.shape[1]))
    np.add.at(means, y, X)
    counts = np.bincount(y, minlength=n_classes)[:, None]
    means /= counts
    residuals = X - means[y]
    # Residuals from estimated means are too small by the square root of (count - 1) / count.
    residuals *= np.sqrt(counts[y] / np.maximum(counts[y] - 1, 1))
    chosen = np.arange(n_classes) if classes is None else classes
    labels = np.arange(n) % len(chosen)
    values, vectors = np.linalg.eigh(residuals.T @ residuals / len(residuals))
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    drawn = means[chosen[labels]] + spread * (rng.standard_normal((n, X.shape[1]), dtype=np.float32) @ root)
    return unit(drawn).astype(np.float32), labels


def imagenet_shape(n: int = 16_000, n_test: int = 4_000) -> tuple[np.ndarray, ...]:
    """Return train, test, labels and real text of 1,000 classes: X, y, X_test, y_test, text."""
    data = real_features("imagenet_vitb32")
    if _smoke:
        n, n_test = min(n, 200), min(n_test, 200)
    X = np.concatenate([data[f"features_{k}shot"] for k in (1, 2, 4)])
    y = np.concatenate([data[f"labels_{k}shot"] for k in (1, 2, 4)])
    text = unit(data["text_features"].astype(np.float32))
    return (*drawn_like(X, y, n, seed=0), *drawn_like(X, y, n_test, seed=1), text)


def flowers_shape(n: int = 1_632, n_test: int = 2_040) -> tuple[np.ndarray, ...]:
    """Return the real 16-shot rows of 102 classes, real test rows, and class means of other shots as text."""
    data = real_features("oxford_flowers_vitb32")
    X, y = data["train_16shot_features"].astype(np.float32), data["train_16shot_labels"].astype(np.int64)
    test, test_y = data["test_features"].astype(np.float32)[:n_test], data["test_labels"].astype(np.int64)[:n_test]
    text = np.zeros((len(data["class_names"]), X.shape[1]), np.float32)
    np.add.at(text, data["val_labels"].astype(np.int64), data["val_features"].astype(np.float32))
    return unit(X[:n]), y[:n], unit(test), test_y, unit(text)


def about_machine() -> dict[str, Any]:
    """Return device, versions and commit."""
    import sklearn
    import torch

    import cafe
    from cafe.measured import processor_details

    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    about_cpu = processor_details()
    model = about_cpu.get("model name") or platform.processor()
    return {
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else model,
        "processor": ", ".join(f"{shown} {about_cpu[key]}" for key, shown in MODEL.items() if key in about_cpu),
        "cores": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bfloat16_units": {
            "amx": bool(torch.cpu._is_amx_tile_supported()),
            "avx512_bf16": bool(torch.cpu._is_avx512_bf16_supported()),
        },
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "sklearn": sklearn.__version__,
        "cafe": cafe.__version__,
        "commit": commit,
    }


def report(
    benchmark: str,
    target: float | None,
    rows: list[dict[str, Any]],
    quiet: bool = False,
    started: str | None = None,
) -> None:
    """Append rows to results/<benchmark>.jsonl, but for the smallest form's; print one line each, unless quiet.

    Rows of one run have one time, by which tables know them: a run that appends each row as it is measured gives the
    time when it ``started``.
    """
    now = started or datetime.now(UTC).isoformat(timespec="seconds")
    shared = {"benchmark": benchmark, "time": now, **about_machine()}
    lines = [json.dumps({**shared, "target": target, **row}) + "\n" for row in rows]
    if not _smoke:
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / f"{benchmark}.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(lines)
    for row in () if quiet else rows:
        fields = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
        print(f"{benchmark}: {fields}" + (f" (target {target}x)" if target else ""), flush=True)


def rows_of(benchmark: str, folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Read the rows of one benchmark, oldest first; none where it never ran."""
    file = folder / f"{benchmark}.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def newest(benchmark: str, *keys: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return the rows of one benchmark that have all these keys; of those that agree in them, the last."""
    return {tuple(row[key] for key in keys): row for row in rows_of(benchmark) if all(key in row for key in keys)}


def commits_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """Name the commits of rows, in their order; those of the smallest form have none."""
    return ", ".join(dict.fromkeys(row["commit"] for row in rows if "commit" in row))


def markdown(head: Sequence[str], lines: Iterable[Sequence[object]], right: bool = False) -> str:
    """Return a table as Markdown; with ``right``, all columns but the first are set to the right."""
    rules = ["---", *("---:" if right else "---" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in (head, rules, *lines))


def put_between(text: str, name: str, content: str) -> str:
    """Put content between the markers ``<!-- name -->`` and ``<!-- /name -->``.

    Raises
    ------
    ValueError
        If the text has not exactly one pair of them.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ValueError(f"the text needs one pair of markers {start} and {end}")
    before, _, after = text.partition(start)
    return f"{before}{start}\n{content}\n{end}{after.partition(end)[2]}"


def shown(name: str, page: Path | None, write: Callable[[], None]) -> None:
    """Print what ``write`` prints, and put it between the markers of that name on a page where one is given."""
    with contextlib.redirect_stdout(io.StringIO()) as lines:
        write()
    print(lines.getvalue(), end="", flush=True)
    if page is not None:
        text = put_between(page.read_text(encoding="utf-8"), name, lines.getvalue().rstrip("\n"))
        page.write_text(text, encoding="utf-8")


def matrix_peak(m: int = 512, k: int = 512, n: int = 1024, repeats: int = 20) -> dict[str, float]:
    """Measure the multiply-add rate, in GFLOP/s, of plain matrix products of a size that fits in cache."""
    import torch

    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b, out = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype), torch.empty(m, n, dtype=dtype)
        best = min(
            side_by_side({"mm": lambda a=a, b=b, out=out: torch.mm(a, b, out=out)}, 1)["mm"] for _ in range(repeats)
        )
        rates[str(dtype).removeprefix("torch.")] = 2 * m * k * n / best / 1e9
    return rates
