"""The first ten minutes on a GPU, in one command; nobody has run it on one so far.

    PYTHONPATH=. python benchmarks/gpu_session.py --out FOLDER                  # everything, in under ten minutes
    PYTHONPATH=. python benchmarks/gpu_session.py --out FOLDER --parts steps,grid
    PYTHONPATH=. python benchmarks/gpu_session.py --out FOLDER --smoke          # tried without a GPU, in small

Needs the repository, PyTorch, Triton, transformers, h5py, scikit-learn and typer; no data, and nothing installed.
Parts run in order of what they are worth, each in a process of its own with a limit: one that hangs, crashes or finds
a fault ends alone. Every result is a line of FOLDER/rows.jsonl, on disk before the next is measured;
FOLDER/parts.jsonl says how each part ended, and FOLDER/NAME.log what it printed. What a machine lacks is a row that
says so.

Exit code 1 where a part failed or a row is out of its bound. Without a GPU, ``--smoke`` takes tensors on the CPU that
are labelled cuda:0 (tests/labelled_device.py), and Triton's interpreter; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# The longest that the whole may take, and what ending a part may cost.
SECONDS, REST = 570.0, 5.0
DEVICE = "cuda:0"
# Bounds of a step's gradients against float64, as a share of their length. tf32 and bfloat16 round operands to 11 and 8
# bits, and products of a few hundred numbers average that out; whether autograd's own products use matrix units is the
# library's choice, so its error is no measure.
ALLOWED = {"float32": 2e-5, "tf32": 3e-3, "bfloat16": 3e-2}

Rows = Callable[..., None]


class Sizes:
    """How large things are: as on a GPU, or small enough for Triton's interpreter."""

    def __init__(self, smoke: bool) -> None:
        self.smoke = smoke
        self.b, self.d, self.h, self.c, self.n = (16, 24, 8, 18, 64) if smoke else (256, 512, 128, 1000, 16_000)
        self.steps, self.repeats = (2, 1) if smoke else (400, 3)
        self.precisions = ("float32",) if smoke else ("float32", "tf32", "bfloat16")


# ---------------------------------------------------------------------------- what parts share


def wait() -> None:
    """Wait for the device."""
    import torch

    torch.cuda.synchronize()


def seconds_of(run: Callable[[], Any], repeats: int) -> float:
    """Return the fewest seconds of a call, after one that warms up."""
    run()
    wait()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        wait()
        best = min(best, time.perf_counter() - start)
    return best


def made_up(n: int, c: int, d: int, seed: int = 0, spread: float = 0.12) -> tuple[Any, Any, Any]:
    """Return unit rows (n, d), labels and text (c, d), float32: classes overlap, and text is off its class's mean."""
    import numpy as np

    rng = np.random.default_rng(0)
    means = rng.normal(size=(c, d)).astype(np.float32) / d**0.5
    text = means + 0.6 * rng.normal(size=(c, d)).astype(np.float32) / d**0.5
    drawn = np.random.default_rng(seed + 1)
    y = drawn.permutation(np.arange(n) % c)
    X = means[y] + spread * drawn.normal(size=(n, d)).astype(np.float32) * 20 / d**0.5
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (X, text)]
    return unit[0].astype(np.float32), y, unit[1].astype(np.float32)


def problem(sizes: Sizes, g: int, b: int, c: int, d: int, h: int, shape: Any = None) -> dict[str, Any]:
    """Return a step's tensors on the device, float32."""
    import torch

    from cafe.kernels.reference import AdapterShape

    shape = shape or AdapterShape("image", "paper", h)
    X, y, text = made_up(sizes.n, c, d)
    generator = torch.Generator().manual_seed(0)
    parameters = {}
    for side, used in (("image", shape.adapts_image), ("text", shape.adapts_text)):
        if used:
            parameters |= {
                f"{side}_down": torch.randn(g, d, h, generator=generator) / d**0.5,
                f"{side}_up": torch.randn(g, h, d, generator=generator) / h**0.5,
            }
    hyper = {"alpha": torch.linspace(0.2, 0.7, g), "beta": torch.linspace(0.6, 0.1, g)}
    hyper["logit_scale"] = torch.linspace(30, 60, g)
    index = torch.randint(0, len(y), (g, b), generator=generator)
    features, rows = torch.from_numpy(X).to(DEVICE), index.to(DEVICE)
    return {
        "shape": shape,
        "parameters": {k: v.to(DEVICE) for k, v in parameters.items()},
        "hyper": {k: v.to(DEVICE) for k, v in hyper.items()},
        "X": features,
        "y": torch.from_numpy(y).to(DEVICE),
        "text": torch.from_numpy(text).to(DEVICE)[None],
        "index": rows,
        "mean": features[rows].mean(1, keepdim=True),
    }


def step_of(kind: str, precision: str, of: dict[str, Any]) -> Any:
    """Return a step: ``"triton"``, or ``"library"`` (torch's products, analytic gradients, no autograd)."""
    import torch

    from cafe.kernels.cpu import CpuAdapterStep
    from cafe.kernels.cuda.adapter import TritonAdapterStep

    products = torch.bfloat16 if precision == "bfloat16" else torch.float32
    parts = (of["shape"], of["hyper"], of["X"].to(products), of["y"], of["text"], of["mean"])
    if kind == "triton":
        return TritonAdapterStep(*parts, precision="tf32" if precision == "tf32" else "ieee")
    # Blocks of rows are for a CPU's caches.
    return CpuAdapterStep(*parts, block_bytes=2**40)


@contextlib.contextmanager
def library_precision(precision: str) -> Iterator[None]:
    """Let torch's own products be in tf32 where that is compared, and put the setting back."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


# ---------------------------------------------------------------------------- parts


def environment(sizes: Sizes, row: Rows) -> None:
    """What is here, and its ceilings: products, memory, launches."""
    import torch

    from cafe.kernels.cards import card_of
    from cafe.kernels.choose import triton_fault

    wanted = ("torch", "triton", "transformers", "h5py", "scikit-learn", "typer", "numpy", "torchvision", "pillow")
    versions = {name: _version(name) for name in wanted}
    properties = torch.cuda.get_device_properties(0)
    row(versions=versions, python=sys.version.split()[0], card=torch.cuda.get_device_name(0))
    row(chosen_by=repr(card_of(DEVICE)), memory=properties.total_memory, triton_fault=triton_fault(DEVICE))
    if shutil.which("nvidia-smi"):
        row(nvidia_smi=subprocess.run(["nvidia-smi"], capture_output=True, text=True).stdout)
    side = 64 if sizes.smoke else 8192
    for precision in sizes.precisions:
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        a = torch.randn(side, side).to(DEVICE, dtype)
        with library_precision(precision):
            seconds = seconds_of(lambda a=a: a @ a, sizes.repeats)
        row(ceiling="product", precision=precision, side=side, tflops=2 * side**3 / seconds / 1e12)
    a = torch.empty((2**12 if sizes.smoke else 2**30) // 4).to(DEVICE)
    seconds = seconds_of(lambda: a.clone(), sizes.repeats)
    row(ceiling="memory", gigabytes_per_second=2 * a.numel() * 4 / seconds / 1e9)
    one = torch.zeros(1).to(DEVICE)
    launches = 10 if sizes.smoke else 2000

    def launch() -> None:
        for _ in range(launches):
            one.add_(1)

    row(ceiling="launch", microseconds=1e6 * seconds_of(launch, sizes.repeats) / launches)


def _version(name: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def _try_import(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        return None


def kernels(sizes: Sizes, row: Rows) -> None:
    """One step of every shape in every precision against float64, twice, for the same bits."""
    from cafe.kernels.reference import AdapterShape, adapter_losses_and_gradients

    shapes = [AdapterShape("image", "paper", sizes.h), AdapterShape("image", "released", sizes.h)]
    shapes += [] if sizes.smoke else [AdapterShape("text", "paper", sizes.h), AdapterShape("both", "released", sizes.h)]
    odd = {"g": 2, "b": 33, "c": 66, "d": 35, "h": 18}
    usual = {"g": 1, "b": sizes.b, "c": sizes.c, "d": sizes.d, "h": sizes.h}
    for size in (usual,) if sizes.smoke else (usual, odd):
        for shape in shapes:
            of = problem(sizes, **size, shape=AdapterShape(shape.variant, shape.form, size["h"]))
            exact = (
                {k: v.double() for k, v in of["parameters"].items()},
                {k: v.double() for k, v in of["hyper"].items()},
            )
            rest = of["X"].double()[of["index"]], of["y"][of["index"]], of["text"].double(), of["mean"].double()
            true_losses, truth = adapter_losses_and_gradients(of["shape"], *exact, *rest)
            for precision in sizes.precisions:
                try:
                    step = step_of("triton", precision, of)
                    losses, own = step(of["parameters"], of["index"])
                    own, losses = {k: v.clone() for k, v in own.items()}, losses.clone()
                    again = step(of["parameters"], of["index"])[1]
                except Exception as error:  # a kernel that fails on this card is a result
                    row(
                        variant=shape.variant,
                        form=shape.form,
                        precision=precision,
                        **size,
                        error=repr(error)[:500],
                        ok=False,
                    )
                    continue
                off = {k: float((own[k].double() - v).norm() / v.norm()) for k, v in truth.items()}
                same = all(bool((own[k] == again[k]).all()) for k in own)
                row(
                    variant=shape.variant, form=shape.form, precision=precision, **size, same_twice=same, off=off,
                    loss_off=float((losses.double() - true_losses).abs().max()),
                    ok=same and max(off.values()) <= ALLOWED[precision],
                )  # fmt: skip


def _timed_steps(sizes: Sizes, of: dict[str, Any], kind: str, precision: str, recorded: bool) -> float:
    """Return seconds a step of training, updates included, as the trainer takes them."""
    import torch

    from cafe.training import steps as training

    g, n = len(of["index"]), sizes.steps
    parameters = {k: v.clone() for k, v in of["parameters"].items()}
    decay, rates = torch.zeros(g).to(DEVICE), torch.full((n, g), 1e-3).to(DEVICE)
    record = None if recorded else training.record_by_calling
    step = training.whole_step(step_of(kind, precision, of), "adamw", parameters, decay, n, 1e-8)
    whole = training.RecordedSteps(step, parameters, rates, 1, record)
    generator = torch.Generator().manual_seed(0)
    block = torch.randint(0, len(of["y"]), (g, n, of["index"].shape[1]), generator=generator)
    whole([block[:, : training.GRAPH_STEPS]])  # compiles and records

    def train() -> None:
        whole.restart(rates)
        whole([block[:, i : i + training.GRAPH_STEPS] for i in range(0, n, training.GRAPH_STEPS)])

    return seconds_of(train, sizes.repeats) / n


def straight_loop(sizes: Sizes, of: dict[str, Any], precision: str) -> float:
    """Return seconds a step of what one would write: a module, autocast, autograd and torch's fused AdamW."""
    import torch
    from torch.nn.functional import cross_entropy, normalize

    down, up = (torch.nn.Parameter(of["parameters"][f"image_{k}"][0].clone()) for k in ("down", "up"))
    fused = {} if sizes.smoke else {"fused": True}
    optimizer = torch.optim.AdamW([down, up], lr=1e-3, weight_decay=0.0, **fused)
    text, X, y = of["text"][0], of["X"], of["y"]
    rows = torch.randint(0, len(y), (sizes.steps, of["index"].shape[1])).to(DEVICE)
    narrow = torch.autocast("cpu" if sizes.smoke else "cuda", torch.bfloat16, enabled=precision == "bfloat16")

    def train() -> None:
        for batch in rows:
            x = X[batch]
            with narrow:
                q = normalize(0.2 * (torch.relu(x @ down) @ up) + 0.8 * x, dim=-1)
                loss = cross_entropy(50.0 * (q @ text.T).float(), y[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    with library_precision(precision):
        return seconds_of(train, sizes.repeats) / sizes.steps


def _timings(sizes: Sizes, row: Rows, g: int, c: int, d: int, straight: bool) -> None:
    of = problem(sizes, g, sizes.b, c, d, max(1, d // 4))
    about = {"g": g, "b": sizes.b, "c": c, "d": d}
    for precision in sizes.precisions:
        for kind in ("triton", "library"):
            for recorded in (True, False):
                try:
                    with library_precision(precision):
                        seconds = _timed_steps(sizes, of, kind, precision, recorded)
                    row(step=kind, graph=recorded, precision=precision, **about, microseconds=1e6 * seconds, ok=True)
                except Exception as error:
                    row(step=kind, graph=recorded, precision=precision, **about, error=repr(error)[:500], ok=False)
        if straight:
            seconds = straight_loop(sizes, of, precision)
            row(step="straight loop", graph=False, precision=precision, **about, microseconds=1e6 * seconds, ok=True)


def steps(sizes: Sizes, row: Rows) -> None:
    """A step of one fit at 1,000 classes: kernels, the library's products, the straight loop; recorded and not."""
    _timings(sizes, row, 1, sizes.c, sizes.d, True)


def grid(sizes: Sizes, row: Rows) -> None:
    """A step of 45 fits at 102 classes, and the whole of such a grid by the product's own call."""
    import numpy as np

    from cafe import CLIPAdapter
    from cafe.methods import fit_many

    g, c = (2, 6) if sizes.smoke else (45, 102)
    _timings(sizes, row, g, c, sizes.d, False)
    X, y, text = made_up(16 * c, c, sizes.d)
    epochs = 1 if sizes.smoke else 200
    fits = [
        CLIPAdapter(text, alpha=alpha, epochs=epochs, batch_size=32, device="cuda", random_state=seed)
        for alpha in np.linspace(0.1, 0.9, 1 if sizes.smoke else 9).tolist()
        for seed in range(1 if sizes.smoke else 5)
    ]
    start = time.perf_counter()
    fitted = fit_many(X, y, fits)
    wait()
    row(grid=len(fits), epochs=epochs, seconds=time.perf_counter() - start, kernel=fitted[0].kernel_, ok=True)


def methods(sizes: Sizes, row: Rows) -> None:
    """Every method on the GPU and on the CPU, with accuracies."""
    import warnings

    import numpy as np

    from cafe.methods import make_method, method_names

    c, shots = (4, 4) if sizes.smoke else (100, 16)
    X, y, text = made_up(c * shots, c, sizes.d)
    T, t, _ = made_up(20 * c, c, sizes.d, seed=1)
    for name in method_names():
        if name == "coop":
            row(method=name, note="needs a text tower; see the part 'towers'")
            continue
        found = {}
        for device in ("cuda", "cpu"):
            model = make_method(name, class_embeddings=text, device=device, logit_scale=30.0)
            known = model.get_params(deep=False)
            changes = {"random_state": 0, "C": 1.0, "epochs": 3 if sizes.smoke else 20}
            model.set_params(**{k: v for k, v in changes.items() if k in known})
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    start = time.perf_counter()
                    model.fit(X, y)
                    middle = time.perf_counter()
                    logits = model.logits(T)
                seconds = {"fit_seconds": middle - start, "score_seconds": time.perf_counter() - middle}
                accuracy = float(np.mean(model.classes_[logits.argmax(1)] == t))
                found[device] = accuracy
                ok = model.device_.startswith(device) and abs(accuracy - found["cuda"]) <= 0.01
                row(method=name, device=model.device_, kernel=model.kernel_, accuracy=accuracy, **seconds, ok=ok)
            except Exception as error:
                row(method=name, device=device, error=repr(error)[:500], ok=False)
                found.setdefault(device, float("nan"))


def tiles(sizes: Sizes, row: Rows) -> None:
    """A step with each size of tile for all kernels, for the order in kernels/cards.py."""
    from unittest import mock

    from cafe.kernels.cards import card_of, possible_tiles

    shapes = ((1, sizes.c),) if sizes.smoke else ((1, sizes.c), (45, 102))
    for g, c in shapes:
        of = problem(sizes, g, sizes.b, c, sizes.d, sizes.h)
        for precision in sizes.precisions:
            for tile in possible_tiles(card_of(DEVICE), 2 if precision == "bfloat16" else 4, precision == "float32"):
                with mock.patch("cafe.kernels.cuda.adapter.choose_tile", lambda *_, tile=tile: tile):
                    try:
                        seconds = _timed_steps(sizes, of, "triton", precision, True)
                        row(tile=repr(tile), g=g, c=c, precision=precision, microseconds=1e6 * seconds, ok=True)
                    except Exception as error:
                        row(tile=repr(tile), g=g, c=c, precision=precision, error=repr(error)[:500], ok=False)


def wide(sizes: Sizes, row: Rows) -> None:
    """20,000 classes, and features 1,024 wide."""
    _timings(sizes, row, 1, 40 if sizes.smoke else 20_000, sizes.d, False)
    _timings(sizes, row, 1, sizes.c, 2 * sizes.d, False)


def trace(sizes: Sizes, row: Rows) -> None:
    """A profile of recorded steps: the time of each kernel, and a trace beside the rows."""
    from torch.profiler import ProfilerActivity, profile

    of = problem(sizes, 1, sizes.b, sizes.c, sizes.d, sizes.h)
    activities = [ProfilerActivity.CPU] + ([] if sizes.smoke else [ProfilerActivity.CUDA])
    with profile(activities=activities) as taken:
        _timed_steps(sizes, of, "triton", sizes.precisions[-1], True)
    name = "cpu_time_total" if sizes.smoke else "device_time_total"
    for event in sorted(taken.key_averages(), key=lambda event: -getattr(event, name))[:25]:
        row(kernel=event.key, calls=event.count, microseconds=getattr(event, name) / max(1, event.count))
    if not sizes.smoke:
        taken.export_chrome_trace(str(Path(os.environ["GPU_SESSION_OUT"]) / "trace.json"))


def towers(sizes: Sizes, row: Rows) -> None:
    """Images a second of CLIP's image towers with random weights, in bfloat16, crops on the device."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    base = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    # Operations of one image, 2 x multiply-adds (open_clip's model_profile.csv).
    kinds = {"ViT-B/32": (32, base, 8.82), "ViT-B/16": (16, base, 35.13), "ViT-L/14": (14, large, 162.03)}
    for name, (patch, size, gflop) in list(kinds.items())[: 1 if sizes.smoke else 3]:
        if sizes.smoke:
            size, batch = (
                {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
                2,
            )
        else:
            batch = 512 if patch == 32 else 256
        config = CLIPVisionConfig(**size, patch_size=patch, projection_dim=512)
        dtype = torch.float32 if sizes.smoke else torch.bfloat16
        # On the CPU in small: a module's own move swaps memory under its parameters.
        place = "cpu" if sizes.smoke else DEVICE
        tower = CLIPVisionModelWithProjection(config).eval().to(place, dtype)
        crops = torch.randn(batch, 3, 224, 224).to(place, dtype)
        with torch.inference_mode():
            seconds = seconds_of(lambda tower=tower, crops=crops: tower(crops).image_embeds, sizes.repeats)
        row(tower=name, images_per_second=batch / seconds, tflops=gflop * batch / seconds / 1e3, ok=True)


def decoders(sizes: Sizes, row: Rows) -> None:
    """JPEG files a second: Pillow on one core, and nvJPEG where torchvision is here."""
    pillow = _try_import("PIL.Image")
    if pillow is None:
        row(decoder="pillow", note="Pillow is not here")
        return
    files = _jpegs(4 if sizes.smoke else 256)

    def decode() -> None:
        from PIL import Image

        for content in files:
            Image.open(io.BytesIO(content)).convert("RGB").load()

    start = time.perf_counter()
    decode()
    row(decoder="pillow", images_per_second=len(files) / (time.perf_counter() - start), ok=True)
    if _try_import("torchvision") is None or sizes.smoke:
        row(decoder="nvjpeg", note="torchvision is not here, or there is no GPU")
        return
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    given = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in files]
    seconds = seconds_of(lambda: decode_jpeg(given, ImageReadMode.RGB, device=DEVICE), sizes.repeats)
    row(decoder="nvjpeg", images_per_second=len(files) / seconds, ok=True)


def _jpegs(n: int, side: int = 320) -> list[bytes]:
    """Return JPEG files of smooth noise, about as large as photographs of that size."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    made = []
    for _ in range(n):
        coarse = Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize((side, side * 3 // 4), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        made.append(file.getvalue())
    return made


def extraction(sizes: Sizes, row: Rows) -> None:
    """A whole extraction of generated photographs with the embedded encoder."""
    import tempfile

    if _try_import("PIL.Image") is None:
        row(note="Pillow is not here, so no image can be decoded")
        return
    from cafe.cache.extract.run import extract
    from cafe.data import open_dataset
    from cafe.encoders import open_encoder

    files = _jpegs(8 if sizes.smoke else 64)
    n = 16 if sizes.smoke else 4096
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "photographs"
        for i in range(n):
            place = images / f"class{i % 4}"
            place.mkdir(parents=True, exist_ok=True)
            # Equal files would be encoded once: a comment makes each its own.
            (place / f"{i}.jpg").write_bytes(files[i % len(files)] + str(i).encode())
        encoder = open_encoder("cafe:mini", device="cpu" if sizes.smoke else "cuda")
        start = time.perf_counter()
        extract(open_dataset(str(images)), encoder, Path(folder) / "cache.h5")
        seconds = time.perf_counter() - start
    row(images=n, seconds=seconds, images_per_second=n / seconds, device=encoder.device, dtype=encoder.dtype, ok=True)


def sanitizer(sizes: Sizes, row: Rows) -> None:
    """The kernels under NVIDIA's checkers, whose finds are rows; each allocation is real then."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        row(note="compute-sanitizer is not here")
        return
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    for check in ("memcheck", "racecheck"):
        command = [tool, "--tool", check, sys.executable, __file__, "--out", os.environ["GPU_SESSION_OUT"]]
        command += ["--part", "kernels", "--small-kernels", "--rows", os.devnull]
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=25)
        except subprocess.TimeoutExpired:
            row(check=check, note="not done within 25 seconds")
            continue
        last = [line for line in done.stdout.splitlines() if "ERROR SUMMARY" in line or "RACECHECK SUMMARY" in line]
        row(check=check, returned=done.returncode, summary=last, ok=done.returncode == 0)


# In the order of what they are worth, with their limits in seconds.
PARTS: dict[str, tuple[Callable[[Sizes, Rows], None], float]] = {
    "environment": (environment, 40),
    "kernels": (kernels, 90),
    "steps": (steps, 90),
    "grid": (grid, 80),
    "methods": (methods, 110),
    "tiles": (tiles, 70),
    "trace": (trace, 40),
    "wide": (wide, 60),
    "towers": (towers, 50),
    "sanitizer": (sanitizer, 60),
    "decoders": (decoders, 30),
    "extraction": (extraction, 60),
}

ENCODING = ("towers", "decoders", "extraction")
# What --smoke runs unless it is told; the rest by --parts.
SMOKE_PARTS = "environment,kernels"

# ---------------------------------------------------------------------------- one part, in its process


def run_part(name: str, rows: Path, smoke: bool, small: bool) -> int:
    """Run one part; return 1 where a row is out of its bound."""
    bad = 0

    def row(**values: Any) -> None:
        nonlocal bad
        bad += values.get("ok") is False
        with rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"part": name, **values}, default=str) + "\n")
            file.flush()
            with contextlib.suppress(OSError):  # what is no file cannot be synchronised
                os.fsync(file.fileno())
        print(values, flush=True)

    sizes = Sizes(smoke)
    if small:
        sizes.b, sizes.d, sizes.h, sizes.c, sizes.n = 33, 35, 18, 66, 64
    if not smoke:
        PARTS[name][0](sizes, row)
        return int(bad > 0)
    if name in ENCODING:  # what a library moves to a device by itself cannot be labelled
        PARTS[name][0](sizes, row)
        return int(bad > 0)
    sys.path.insert(0, str(ROOT / "tests"))
    from labelled_device import LabelledDevice

    with LabelledDevice():
        PARTS[name][0](sizes, row)
    return int(bad > 0)


def main(words: Sequence[str] | None = None) -> int:
    """Run the parts one after the other, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the results; made where it is not there")
    parser.add_argument("--parts", help=f"of {', '.join(PARTS)} [default: all; with --smoke {SMOKE_PARTS}]")
    parser.add_argument("--seconds", type=float, help=f"the longest that the whole may take [default: {SECONDS:.0f}]")
    parser.add_argument("--smoke", action="store_true", help="in small, on labelled tensors of a CPU")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--small-kernels", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.part:
        return run_part(given.part, given.rows, given.smoke, given.small_kernels)
    if given.out is None:
        if not given.smoke:
            parser.error("--out FOLDER is needed: where the results go")
        import tempfile

        given.out = Path(tempfile.mkdtemp(prefix="gpu-session-"))
    names = (given.parts or (SMOKE_PARTS if given.smoke else ",".join(PARTS))).split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}; possible: {', '.join(PARTS)}")
    given.out.mkdir(parents=True, exist_ok=True)
    seconds = given.seconds or SECONDS * (3 if given.smoke else 1)  # an interpreter on a busy machine is slow
    started, failed = time.monotonic(), 0
    for name in names:
        left = seconds - (time.monotonic() - started) - REST
        how, code, start = "no time was left", 1, time.monotonic()
        if left > 0:
            how, code = _one_process(
                name, given.out, given.smoke, min(left, PARTS[name][1] * (3 if given.smoke else 1))
            )
        failed += code != 0
        about = {"part": name, "ended": how, "code": code, "seconds": round(time.monotonic() - start, 1)}
        with (given.out / "parts.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(about) + "\n")
        print(f"{name}: {how}, {about['seconds']} s", flush=True)
    return int(failed > 0)


def _one_process(name: str, out: Path, smoke: bool, limit: float) -> tuple[str, int]:
    """Run a part; return how it ended, and its exit code."""
    command = [sys.executable, __file__, "--part", name, "--rows", str(out / "rows.jsonl"), *["--smoke"] * smoke]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "GPU_SESSION_OUT": str(out), "HF_HUB_OFFLINE": "1"}
    if smoke:
        environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    with (out / f"{name}.log").open("w", encoding="utf-8") as log:
        try:
            done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, timeout=limit)
        except subprocess.TimeoutExpired:
            return f"stopped after {limit:.0f} s", 1
    return ("done" if done.returncode == 0 else "failed, or a row is out of its bound"), done.returncode


if __name__ == "__main__":
    sys.exit(main())
