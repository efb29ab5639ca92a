"""Extraction: towers, decoders of JPEG, and a whole extraction of generated photographs."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

from gpu_parts.shared import DEVICE, Rows, Sizes, is_here, seconds_of


def towers(sizes: Sizes, row: Rows) -> None:
    """Images a second of CLIP's image towers with random weights, in bfloat16, crops on the device."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    from cafe.encoders.towers.torch_encoder import RecordedForward

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
        tower = CLIPVisionModelWithProjection(config).eval().to(DEVICE, dtype)
        crops = torch.randn(batch, 3, 224, 224).to(DEVICE, dtype)

        def encode(crops: torch.Tensor, tower: Any = tower) -> torch.Tensor:
            features: torch.Tensor = tower(crops).image_embeds
            return features

        with torch.inference_mode():
            eager = encode(crops)
            recorded = RecordedForward(encode)
            for _ in range(RecordedForward.AFTER + 1):
                replayed = recorded(crops)
            apart = float((eager - replayed).abs().max())
            for graph, run in ((False, encode), (True, recorded)):
                seconds = seconds_of(lambda run=run, crops=crops: run(crops), sizes.repeats)
                rate = batch / seconds
                row(
                    tower=name,
                    graph=graph,
                    images_per_second=rate,
                    tflops=gflop * rate / 1e3,
                    apart=apart,
                    ok=apart == 0,
                )


def decoders(sizes: Sizes, row: Rows) -> None:
    """JPEG files a second: Pillow on one core, and nvJPEG where torchvision is here."""
    if not is_here("PIL.Image"):
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
    if not is_here("torchvision") or sizes.smoke:
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

    if not is_here("PIL.Image"):
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
        encoder = open_encoder("cafe:mini", device="cuda")
        start = time.perf_counter()
        extract(open_dataset(str(images)), encoder, Path(folder) / "cache.h5")
        seconds = time.perf_counter() - start
    row(images=n, seconds=seconds, images_per_second=n / seconds, device=encoder.device, dtype=encoder.dtype, ok=True)
