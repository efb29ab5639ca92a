"""simplejpeg against Pillow on real photographs, as they are and enlarged: time to RGB, and how far the pixels differ.

Run::

    CAFE_REAL_DATA=... python benchmarks/bench_decoders.py
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from harness import parse, report, timed
from harness import photographs as open_photographs
from PIL import Image, features

from cafe.data.images.decoding import decoding_with, read_image

_DECODERS = ("pillow", "simplejpeg")  # those that run on any machine; nvJPEG is timed by gpu_session.py
_TURNS = 5  # the best of them counts: a decode takes milliseconds, and neighbours disturb longer than that


def photographs(n: int) -> list[bytes]:
    """Return n of the real photographs, evenly spread over their files in the order of their names."""
    with tempfile.TemporaryDirectory() as folder:
        open_photographs(Path(folder))
        files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        return [path.read_bytes() for path in files[:: max(1, len(files) // n)][:n]]


def enlarged(content: bytes, width: int = 1600) -> bytes:
    """Encode a photograph again, as large as a camera's."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    buffer = io.BytesIO()
    image.resize((width, round(width * image.height / image.width)), Image.Resampling.BICUBIC).save(
        buffer, "JPEG", quality=92
    )
    return buffer.getvalue()


def compare(contents: list[bytes], shape: str) -> dict[str, Any]:
    """Decode every file with both, in turns."""
    seconds = dict.fromkeys(_DECODERS, 0.0)
    farthest = 0
    for content in contents:
        best = dict.fromkeys(_DECODERS, float("inf"))
        pixels = {}
        for _ in range(_TURNS):
            for name in _DECODERS:
                with decoding_with(name):
                    taken, image = timed(lambda content=content: read_image(content, "x"))
                best[name] = min(best[name], taken)
                pixels[name] = np.asarray(image).astype(int)
        seconds = {name: seconds[name] + best[name] / len(contents) for name in _DECODERS}
        farthest = max(farthest, int(np.abs(pixels["pillow"] - pixels["simplejpeg"]).max()))
    return {
        "shape": shape, "images": len(contents), "pillow_seconds": seconds["pillow"],
        "simplejpeg_seconds": seconds["simplejpeg"], "ratio": seconds["pillow"] / seconds["simplejpeg"],
        "farthest_pixel": farthest, "simplejpeg": simplejpeg.__version__, "pillow": Image.__version__,
        "pillow_libjpeg_turbo": features.version("libjpeg_turbo"),
    }  # fmt: skip


def main() -> None:
    """Compare, and append the rows to results/decoders.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=48)
    small = photographs(parse(parser, {"images": 4}).images)
    large = [enlarged(content) for content in small[::4]]
    report("decoders", None, [compare(small, "photographs as they are"), compare(large, "enlarged to 1,600 pixels")])


if __name__ == "__main__":
    main()
