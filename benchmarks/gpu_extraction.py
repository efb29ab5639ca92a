"""Extraction on a GPU: towers against the matrix peak, the pipeline against its parts; nobody has run it on one so far.

    CAFE_REAL_DATA=... python benchmarks/gpu_extraction.py [--images 4096] [--device cuda]

Forward-only images/s of ViT-B/32, ViT-B/16, ViT-L/14 and RN50 (random weights, bfloat16, crops already on the device)
times the operations of one image, over the rate of a large matrix product measured in the same run; then all of
``extract`` with ViT-B/32 on real photographs, over its forward-only rate and over decoding alone. Exits with a sentence
where there is no GPU; ``--device cpu`` with few images tries the script itself.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench_extraction import Cafe, Some, random_vit_b32
from harness import is_smoke, parse, photographs, report

# Operations of one image, 2 x multiply-adds (open_clip's model_profile.csv).
GFLOP = {"ViT-B/32": 8.82, "ViT-B/16": 35.13, "ViT-L/14": 162.03, "RN50": 12.22}
VISION = {
    "ViT-B/32": {"patch_size": 32},
    "ViT-B/16": {"patch_size": 16},
    "ViT-L/14": {
        "patch_size": 14, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "projection_dim": 768,
    },
}  # fmt: skip


def tower(name: str) -> torch.nn.Module:
    """Return an image tower of full size with random weights."""
    if name == "RN50":
        import open_clip

        visual: torch.nn.Module = open_clip.create_model("RN50", pretrained=None).visual
        return visual
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    own = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**{**own, "projection_dim": 512, **VISION[name]}))


def seconds_of(run: Callable[[], Any], device: str, repeats: int) -> float:
    """Time one call: the mean of several after a warm-up, waiting for the device at both ends only."""
    run()
    wait = torch.cuda.synchronize if device.startswith("cuda") else (lambda: None)
    wait()
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    wait()
    return (time.perf_counter() - start) / repeats


def matrix_rate(device: str, size: int, repeats: int) -> float:
    """Return GFLOP/s of a square bfloat16 product."""
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    return 2 * size**3 / seconds_of(lambda: a @ b, device, repeats) / 1e9


def forward_rate(name: str, device: str, batch: int, repeats: int) -> float:
    """Return images per second of the forward pass alone."""
    model = tower(name).to(device, torch.bfloat16).eval()
    pixels = torch.randn(batch, 3, 224, 224, device=device).bfloat16()
    with torch.inference_mode():
        return batch / seconds_of(lambda: model(pixels), device, repeats)


def decoding_rate(data: Any, images: int) -> float:
    """Return images per second of decoding and cropping on as many threads as there are cores."""
    from concurrent.futures import ThreadPoolExecutor

    from cafe.encoders import open_encoder

    cropper = open_encoder("cafe:mini", "cpu").cropper
    with ThreadPoolExecutor() as pool:
        start = time.perf_counter()
        for _ in pool.map(lambda i: cropper(data.image("train", i)).shape, range(images)):
            pass
        return images / (time.perf_counter() - start)


def main() -> None:
    """Print and store the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--device", default="cuda")
    given = parse(parser, {"images": 96, "batch_size": 2, "device": "cpu"})
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("no GPU here: nothing was measured")
    large = given.device.startswith("cuda")
    repeats, size = (20, 8192) if large else (1, 1024)
    peak = matrix_rate(given.device, size, repeats)
    names = ["ViT-B/32"] if is_smoke() else list(GFLOP)
    rates = {name: forward_rate(name, given.device, given.batch_size, repeats) for name in names}
    rows: list[dict[str, Any]] = [
        {
            "run": "forward only", "tower": name, "dtype": "bfloat16", "batch_size": given.batch_size,
            "where": given.device, "images_per_second": rate, "gflops": rate * GFLOP[name], "peak_gflops": peak,
            "fraction_of_peak": rate * GFLOP[name] / peak,
        }
        for name, rate in rates.items()
    ]  # fmt: skip
    from cafe.encoders import open_encoder

    with tempfile.TemporaryDirectory() as folder:
        data = Some(photographs(Path(folder)), given.images)
        encoder = open_encoder(str(random_vit_b32(Path(folder) / "model")), given.device, "bfloat16")
        whole = Cafe(encoder, Path(folder))(data)
        decoded = decoding_rate(data, min(given.images, 1024))
    rows.append(
        {
            "run": "extract", "tower": "ViT-B/32", "dtype": "bfloat16", "where": given.device, "images": given.images,
            "images_per_second": whole, "over_forward_only": whole / rates["ViT-B/32"],
            "over_decoding": whole / decoded,
        }
    )  # fmt: skip
    report("gpu_extraction", None, rows)


if __name__ == "__main__":
    main()
