"""Extraction against the loop that a user would write, on real photographs; memory; reading a cache.

Parts: ``speed`` (a full-size, randomly initialised ViT-B/32 on the photographs of CAFE_REAL_DATA), ``tower`` (the same,
and the embedded model on digits, against the bare tower on decoded tensors; ONNX Runtime against torch), ``loss`` (what
ONNX Runtime's engines cost in cosine and accuracy, on the embedded model), ``memory`` (peak of 1, 4 and 16 times as
many images, with the embedded model), ``reading`` (a cache against its raw file and a memory map).

Rates are steady ones: from image 65 to the last, so that start-up and the text tower are left out. The bound is what
the processor seconds of decoding and encoding one image, each measured on one thread between the runs, leave:
their sum over the cores. Features are compared with those of the float32 loop in the same run.

Run::

    CAFE_REAL_DATA=... python benchmarks/bench_extraction.py [--parts speed,tower,loss,memory,reading] [--images 384]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import is_smoke, parse, photographs, report, side_by_side, some_of, timed, unit

from cafe.data.base import Dataset, ImageSplit

_WARM = 64  # images before the clock starts
_PREPARED = 64  # images whose preparation is timed in every turn


class Some(Dataset):
    """The first n training images of a data set, over and over if it has fewer."""

    def __init__(self, dataset: Dataset, n: int) -> None:
        self._dataset, split = dataset, dataset.splits["train"]
        self._rows = np.resize(np.arange(len(split))[:: max(1, len(split) // n)], n)
        ids = [f"{i}/{split.sample_ids[row]}" for i, row in enumerate(self._rows)]
        self.name, self.class_names, self.notes = dataset.name, dataset.class_names, []
        self.splits = {"train": ImageSplit(ids, split.labels[self._rows], split.sizes[self._rows])}

    def image(self, split: str, index: int) -> Any:
        return self._dataset.image(split, int(self._rows[index]))


def random_vit_b32(folder: Path) -> Path:
    """Save a ViT-B/32 of OpenAI's size with random weights; the tokenizer is the embedded model's.

    In the smallest form, the embedded model itself is returned.
    """
    import shutil

    import torch
    from transformers import CLIPConfig, CLIPModel

    from cafe.mini import MODEL_FOLDER

    if is_smoke():
        return MODEL_FOLDER
    mini = json.loads((MODEL_FOLDER / "config.json").read_text())["text_config"]
    own = ("vocab_size", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")
    text = {key: mini[key] for key in own}
    text |= {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    CLIPModel(CLIPConfig(text_config=text, vision_config={}, projection_dim=512)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL_FOLDER / name, folder / name)
    processor = json.loads((MODEL_FOLDER / "preprocessor_config.json").read_text())
    processor |= {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


class Loop:
    """What a user would write: Pillow, the processor, the forward pass, 32 images at a time."""

    def __init__(self, model: Path, dtype: str) -> None:
        import torch
        from transformers import CLIPModel
        from transformers.models.auto.image_processing_auto import AutoImageProcessor

        self._model = CLIPModel.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self._processor = AutoImageProcessor.from_pretrained(model, backend="pil")
        self.features = np.empty(0)

    def pixels(self, data: Dataset, first: int) -> Any:
        """Return the pixels of at most 32 training images, from the first on."""
        images = [data.image("train", i) for i in range(first, min(first + 32, len(data.splits["train"])))]
        return self._processor(images=images, return_tensors="pt")["pixel_values"]

    def __call__(self, data: Dataset) -> float:
        """Encode all training images; return steady images per second."""
        import torch

        n, parts, start = len(data.splits["train"]), [], 0.0
        with torch.inference_mode():
            for first in range(0, n, 32):
                if first == _WARM:
                    start = time.perf_counter()
                pixels = self.pixels(data, first).to(self._model.dtype)
                parts.append(self._model.get_image_features(pixel_values=pixels).pooler_output.float().numpy())
        rate = (n - _WARM) / (time.perf_counter() - start)
        self.features = np.concatenate(parts)
        return rate


class Cafe:
    """Extraction by cafe, cache and all."""

    def __init__(self, encoder: Any, folder: Path, **options: Any) -> None:
        self._encoder, self._path, self._options = encoder, folder / "a.h5", options
        self.features = np.empty(0)
        self.summary: Any = None
        self.cpu = 0.0  # processor seconds of this process for one image, text left out

    def __call__(self, data: Dataset) -> float:
        """Extract; return steady images per second."""
        from cafe.cache import extract, load_features

        seen: list[tuple[float, int]] = []
        spent = [time.process_time()]

        def tell(state: Any) -> None:
            if state.stage == "images":
                spent.append(time.process_time())
                if state.done >= _WARM:
                    seen.append((time.perf_counter(), state.done))

        self.summary = extract(
            data, self._encoder, self._path, stored_dtype="float32", force=True, templates=["a {}"], progress=tell,
            **self._options,
        )  # fmt: skip
        self.features = load_features(self.summary.path).splits["train"].image_features
        (start, first), (end, last) = seen[0], seen[-1]
        self.cpu = (spent[-1] - spent[0]) / last
        return (last - first) / (end - start)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosines between rows of equal number."""
    return (unit(a.astype(np.float64)) * unit(b.astype(np.float64))).sum(1)


def costs(data: Dataset, encoder: Any) -> tuple[float, float]:
    """Return processor seconds of one image on one thread: to decode and crop, and to encode in batches."""
    from cafe.compute import torch_threads

    n = 64
    with torch_threads(1):
        decode, crops = timed(
            lambda: np.stack([encoder.cropper(data.image("train", i)) for i in range(n)]), time.process_time
        )
        encode = timed(lambda: encoder.encode_images(crops), time.process_time)[0]
    return decode / n, encode / n


def speed(images: int, rounds: int, batch_size: int) -> list[dict[str, Any]]:
    """Compare extraction with the plain loop, in turns, and with the bound that its own costs leave."""
    from cafe.encoders import open_encoder

    cores = len(os.sched_getaffinity(0))
    n_workers = 0 if is_smoke() else cores  # a process takes seconds to begin
    precisions = ("float32",) if is_smoke() else ("float32", "bfloat16")
    low = precisions[-1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, model = Some(photographs(folder / "data"), images), random_vit_b32(folder / "model")
        encoders = {dtype: open_encoder(str(model), "cpu", dtype).with_batch_size(batch_size) for dtype in precisions}
        runs: dict[str, Any] = {f"loop {dtype}": Loop(model, dtype) for dtype in encoders}
        for dtype, encoder in encoders.items():
            runs[f"cafe {dtype}"] = Cafe(encoder, folder, batch_size=batch_size, workers=0)
        runs[f"cafe {low}, processes"] = Cafe(encoders[low], folder, batch_size=batch_size, workers=n_workers)
        rates: dict[str, list[float]] = {name: [] for name in runs}
        costs_of: dict[str, list[tuple[float, float]]] = {dtype: [] for dtype in encoders}
        for _ in range(rounds):
            for dtype, encoder in encoders.items():
                costs_of[dtype].append(costs(data, encoder))
            for name, run in runs.items():
                rates[name].append(run(data))
        _check(runs, low)
        return [_speed_row(name, runs, rates, costs_of, cores, images) for name in runs]


def _check(runs: dict[str, Any], low: str) -> None:
    """Compare the features of all runs; those of processes are of the precision ``low``."""
    truth = runs["loop float32"].features
    for name, run in runs.items():
        least = 0.999 if "bfloat16" in name else 0.99999
        assert cosines(run.features, truth).min() >= least, name
    assert np.array_equal(runs[f"cafe {low}"].features, runs[f"cafe {low}, processes"].features)


def _speed_row(
    name: str,
    runs: dict[str, Any],
    rates: dict[str, list[float]],
    costs_of: dict[str, list[tuple[float, float]]],
    cores: int,
    images: int,
) -> dict[str, Any]:
    dtype, run = "bfloat16" if "bfloat16" in name else "float32", runs[name]
    rate = statistics.median(rates[name])
    row: dict[str, Any] = {
        "shape": "ViT-B/32, 224 pixels", "run": name, "images": images, "dtype": dtype,
        "images_per_second": rate, "rounds": len(rates[name]),
        "ratio_to_float32_loop": rate / statistics.median(rates["loop float32"]),
        "ratio_to_same_loop": rate / statistics.median(rates[f"loop {dtype}"]),
        "lowest_cosine_to_float32_loop": float(cosines(run.features, runs["loop float32"].features).min()),
    }  # fmt: skip
    if isinstance(run, Cafe):
        decode, encode = (statistics.median(column) for column in zip(*costs_of[dtype], strict=True))
        row |= {
            "workers": run.summary.workers, "batch_size": run.summary.batch_size, "decode_cpu_seconds": decode,
            "encode_cpu_seconds": encode, "wall_over_bound": cores / rate / (decode + encode),
            # Of threads alone: the processor seconds of other processes are not counted.
            "pipeline_cpu_over_costs": None if run.summary.workers else run.cpu / (decode + encode),
            "load_average": os.getloadavg()[0],
        }  # fmt: skip
    return row


def prepared(data: Dataset, encoder: Any, n: int) -> np.ndarray:
    """Return the first n images decoded, cropped and normalised, (n, 3, side, side)."""
    return encoder.cropper.pixels(np.stack([encoder.cropper(data.image("train", i)) for i in range(n)]))


def preparing(data: Dataset, encoder: Any) -> float:
    """Return the processor seconds that one image takes to be decoded, cropped and normalised, on one thread."""
    n = min(_PREPARED, len(data.splits["train"]))
    return timed(lambda: prepared(data, encoder, n), time.process_time)[0] / n


class BareTower(Loop):
    """The library's tower on pixels that are decoded, cropped and normalised: no pipeline can do less for an image."""

    def __init__(self, model: Path, dtype: str, encoder: Any, data: Dataset) -> None:
        import torch

        super().__init__(model, dtype)
        self._pixels = torch.from_numpy(prepared(data, encoder, len(data.splits["train"]))).to(self._model.dtype)

    def pixels(self, data: Dataset, first: int) -> Any:
        """Return the prepared pixels of at most 32 training images, from the first on."""
        return self._pixels[first : first + 32]


_ENGINES = ("onnx", "onnx-int8")


def tower(images: int, rounds: int) -> list[dict[str, Any]]:
    """Compare extraction with the bare tower of the same precision, and ONNX Runtime's engines with torch, in turns."""
    from cafe.data import open_dataset
    from cafe.mini import MODEL_FOLDER

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = {
            "cafe:mini, digits": (MODEL_FOLDER, Some(open_dataset("digits"), images if is_smoke() else 8 * images))
        }
        if not is_smoke():
            photos = Some(photographs(folder / "data"), images)
            cases["ViT-B/32, 224 pixels"] = random_vit_b32(folder / "model"), photos
        return [
            row for shape, (model, data) in cases.items() for row in _tower_rows(shape, model, data, folder, rounds)
        ]


def _tower_rows(shape: str, model: Path, data: Dataset, folder: Path, rounds: int) -> list[dict[str, Any]]:
    from cafe.encoders import open_encoder

    cores, bare, runs = len(os.sched_getaffinity(0)), {}, {}
    for dtype in ("float32",) if is_smoke() else ("float32", "bfloat16"):
        encoder = open_encoder(str(model), "cpu", dtype)
        bare[dtype] = BareTower(model, dtype, encoder, data)
        runs[f"bare {dtype}"], runs[f"cafe {dtype}"] = bare[dtype], Cafe(encoder, folder, workers=0)
    for engine in _ENGINES:
        runs[f"cafe {engine}"] = Cafe(open_encoder(f"{engine}:{model}"), folder, workers=0)
        runs[f"cafe {engine}"](data)  # its graph is made once, and kept
    rates: dict[str, list[float]] = {name: [] for name in runs}
    costs_of_turns: list[float] = []  # seconds that all cores take to prepare an image
    for _ in range(rounds):
        costs_of_turns.append(preparing(data, encoder) / cores)
        for name, run in runs.items():
            rates[name].append(run(data))
    rows = []
    for name, run in runs.items():
        rate = statistics.median(rates[name])
        row = {
            "shape": shape, "run": name, "images": len(data.splits["train"]), "rounds": rounds,
            "images_per_second": rate, "decode_seconds_of_all_cores": statistics.median(costs_of_turns),
            "ratio_to_cafe_float32": rate / statistics.median(rates["cafe float32"]),
            "lowest_cosine_to_bare_float32": float(cosines(run.features, runs["bare float32"].features).min()),
            "load_average": os.getloadavg()[0],
        }  # fmt: skip
        dtype = name.removeprefix("cafe ")
        if dtype in bare and name != dtype:
            # Of each turn: what the bare tower and preparing take on all cores, over what extraction took.
            turns = zip(rates[f"bare {dtype}"], rates[name], costs_of_turns, strict=True)
            row["fraction_of_bare"] = statistics.median(own * (1 / other + cost) for other, own, cost in turns)
        rows.append(row)
    return rows


def loss(shots: int = 16, seeds: tuple[int, ...] = (1, 2, 3)) -> list[dict[str, Any]]:
    """Compare features of ``cafe:mini`` on digits, and accuracies with them, of each engine."""
    import cafe
    from cafe.cache import extract
    from cafe.data import open_dataset
    from cafe.encoders import open_encoder
    from cafe.protocol.draws import draw_few_shot

    rows, truth = [], None
    with tempfile.TemporaryDirectory() as name:
        for engine in ("", "onnx:", "onnx-int8:"):
            encoder = open_encoder(f"{engine}cafe:mini", "cpu", "auto" if engine else "float32")
            made = extract(open_dataset("digits"), encoder, Path(name) / f"{engine[:-1]}.h5", stored_dtype="float32")
            features = cafe.load_features(made.path)
            train, test = features.splits["train"], features.splits["test"]
            truth = test.image_features if truth is None else truth
            text = features.class_embeddings
            zero_shot = cafe.ZeroShot(text, logit_scale=features.logit_scale).fit(test.image_features, test.labels)
            fits = []
            for seed in seeds:
                drawn, _ = draw_few_shot(train.labels, None, shots, seed)
                adapter = cafe.CLIPAdapter(text, logit_scale=features.logit_scale, random_state=seed)
                adapter.fit(train.image_features[drawn], train.labels[drawn])
                fits.append(adapter.score(test.image_features, test.labels))
            alike = cosines(test.image_features, truth)
            rows.append(
                {
                    "shape": "cafe:mini, digits", "run": f"loss {engine.removesuffix(':') or 'torch'}",
                    "images": len(truth), "lowest_cosine": float(alike.min()), "mean_cosine": float(alike.mean()),
                    "zero_shot_acc1": zero_shot.score(test.image_features, test.labels),
                    "shots": shots, "seeds": list(seeds), "clip_adapter_acc1": statistics.mean(fits),
                }
            )  # fmt: skip
    return rows


_MEMORY = """
import re, resource, sys, tempfile
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from bench_extraction import Some
from cafe.cache import extract
from cafe.data import open_dataset
from cafe.encoders import open_encoder
with tempfile.TemporaryDirectory() as folder:
    extract(Some(open_dataset("digits"), int(sys.argv[1])), open_encoder("cafe:mini", "cpu"), Path(folder) / "a.h5")
# Not ru_maxrss where there is better: on Linux a child inherits its parent's.
status = Path("/proc/self/status")
peak = re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text()) if status.exists() else None
print(int(peak[1]) / 1024 if peak else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def memory(images: int) -> list[dict[str, Any]]:
    """Measure the peak resident memory of 1, 4 and 16 times as many images, each in a process of its own."""
    peaks = []
    for times in (1, 4, 16):
        command = [sys.executable, "-c", _MEMORY, str(images * times), str(Path(__file__).parent)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout.split()[-1]))
    return [
        {
            "shape": "cafe:mini, digits", "run": "peak memory", "images": [images, 4 * images, 16 * images],
            "peak_mb": [round(peak) for peak in peaks], "ratio": peaks[2] / peaks[0],
        }
    ]  # fmt: skip


_METRIC = "best of 60 interleaved turns"


def reading(rows: int, width: int = 512, *, gathered: int) -> list[dict[str, Any]]:
    """Compare loading a cache with reading its file, and gathering rows with a plain memory map."""
    from cafe.cache import Provenance, load_features, write_cache
    from cafe.features import Features, Split

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        values = rng.standard_normal((rows, width), dtype=np.float32).astype(np.float16)
        split = Split(values, np.zeros(rows, np.int64), np.arange(rows).astype(np.str_))
        path = write_cache(folder / "a.h5", Features({"train": split}, ("a",)), Provenance("d", "e", {}))
        raw = folder / "raw.f16"
        values.tofile(raw)
        chosen = rng.integers(0, rows, gathered)
        mapped = load_features(path, memmap=True).splits["train"].image_features
        plain = np.memmap(raw, dtype=np.float16, mode="r", shape=(rows, width))
        assert np.array_equal(mapped[chosen], plain[chosen])

        runs = {
            "load": lambda: load_features(path),
            "raw": path.read_bytes,
            "gather": lambda: mapped[chosen],
            "gather raw": lambda: plain[chosen],
        }
        # The best of many turns: a gather takes milliseconds, and where the machine is shared its median says more
        # about the neighbours (two runs on a busy one gave ratios of 0.2 and 3.7).
        turns = [side_by_side(runs, 1, warm_up=False) for _ in range(60)]  # as _METRIC says
        seconds = {name: min(turn[name] for turn in turns) for name in runs}
        shared = {"shape": f"{rows} x {width} float16", "bytes": path.stat().st_size, "metric": _METRIC}
    return [
        {**shared, "run": "reading a cache", "seconds": seconds["load"], "raw_seconds": seconds["raw"],
         "speed_of_raw": seconds["raw"] / seconds["load"]},
        {**shared, "run": f"gathering {gathered} rows", "seconds": seconds["gather"],
         "raw_seconds": seconds["gather raw"], "ratio": seconds["gather"] / seconds["gather raw"]},
    ]  # fmt: skip


def main() -> None:
    """Run the parts, and append their rows to results/extraction.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", default="speed,tower,loss,memory,reading")
    parser.add_argument("--images", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rows", type=int, default=64_000, help="of the cache that is read")
    smallest = {"images": 256, "rounds": 1, "parts": "speed,tower,reading", "rows": 2_000}
    arguments = parse(parser, smallest)
    if arguments.images % 32 or arguments.images < 256:
        parser.error("--images takes a multiple of 32 of at least 256: two batches of a small tower")
    parts: dict[str, tuple[float | None, Callable[[], list[dict[str, Any]]]]] = {
        "speed": (None, lambda: speed(arguments.images, arguments.rounds, arguments.batch_size)),
        "tower": (0.95, lambda: tower(arguments.images, arguments.rounds)),
        "loss": (None, loss),
        "memory": (None, lambda: memory(256)),
        "reading": (None, lambda: reading(arguments.rows, gathered=arguments.rows // 4)),
    }
    for target, measure in map(parts.__getitem__, some_of(arguments.parts, parts, "part", parser)):
        report("extraction", target, measure())


if __name__ == "__main__":
    import bench_extraction  # by its name, so that decoding processes can import what is defined here

    bench_extraction.main()
