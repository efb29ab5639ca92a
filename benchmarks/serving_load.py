"""Load on `cafe serve`: clients side by side, uploads that are too large, memory, and the encoder's own rate.

The server runs in a process of its own, with a random ViT-B/32 of full size unless told otherwise (weights do not
change the work), and is asked by clients in this one. Printed, and kept as a row of results/serving_load.jsonl:

- ``images_per_second`` at so many clients, its latencies ``p50_ms`` and ``p99_ms``, the answers by status;
- ``of_encoder``, that rate over the encoder's own: images of one batch, decoded and cropped already, in a bare loop in
  the same process before the server starts, and again after it has ended; the mean of both;
- ``memory_growth_mb`` of the server from the end of the first quarter to the end;
- what becomes of ``--uploads`` bodies of ``--upload-megabytes``, and what the server's memory gains by them.

Every answer but 200 and 429 is an error, and the script fails.

    python benchmarks/serving_load.py                         # two minutes, 64 clients, uploads of 200 MB
    python benchmarks/serving_load.py --clients 32 --seconds 60
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import harness
import numpy as np
from PIL import Image


def save_vit_b32(folder: Path) -> str:
    """Save a CLIP ViT-B/32 with random weights and the tiny model's tokenizer, in the hub's layout."""
    import torch
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from cafe.encoders.examples import save_tiny_clip

    save_tiny_clip(folder)
    text = CLIPModel.from_pretrained(folder).config.text_config.to_dict()
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, projection_dim=512)).save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    return str(folder)


def photographs(folder: Path, side: int = 320) -> Path:
    """Save two classes of 40 pictures each, as small JPEG files: what is measured is the server."""
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("first", "second")):
        (folder / name).mkdir(parents=True)
        for i in range(40):
            coarse = rng.integers(0, 200, (8, 8, 3), dtype=np.uint8)
            coarse[..., channel] += 50
            Image.fromarray(coarse).resize((side, side)).save(folder / name / f"{i}.jpg", quality=85)
    return folder


def encoder_rate(model: str, folder: Path, seconds: float) -> float:
    """Return images a second of the encoder alone, on crops, in its own batches."""
    from cafe.encoders import open_encoder

    encoder = open_encoder(model)
    crops = np.stack(
        [encoder.cropper(Image.open(path)) for path in sorted(folder.rglob("*.jpg"))[: encoder.batch_size]]
    )
    crops = np.resize(crops, (encoder.batch_size, *crops.shape[1:]))
    encoder.encode_images(crops)
    start, n = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        encoder.encode_images(crops)
        n += len(crops)
    return n / (time.perf_counter() - start)


@contextmanager
def server(run: Path, log: Path) -> Iterator[tuple[int, int]]:
    """Run `cafe serve` in a process of its own; gives its port and process id."""
    command = [sys.executable, "-m", "cafe.cli", "serve", "--run", str(run), "--port", "0"]
    command += ["--cache-dir", str(run.parent / "caches")]
    with log.open("w") as stream, subprocess.Popen(command, stderr=stream) as process:
        try:
            until = time.monotonic() + 120
            while not (match := re.search(r"http://127.0.0.1:(\d+)", log.read_text())):
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"the server did not start: {log.read_text()[-500:]}")
                time.sleep(0.1)
            yield int(match[1]), process.pid
        finally:
            process.terminate()
            process.wait(60)
    if process.returncode != 0:
        raise SystemExit(f"the server ended with {process.returncode}")


def memory_mb(pid: int) -> float:
    """Return what a process holds, in MB; NaN where the system does not say."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def ask(port: int, files: list[bytes], until: float, first: int) -> list[tuple[int, float]]:
    """Send one image after the other; return status and seconds of each."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    said = []
    number = first
    while time.monotonic() < until:
        body = (
            b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
            + files[number % len(files)]
            + b"\r\n--x--\r\n"
        )
        start = time.perf_counter()
        connection.request("POST", "/predict", body, {"Content-Type": "multipart/form-data; boundary=x"})
        answer = connection.getresponse()
        answer.read()
        said.append((answer.status, time.perf_counter() - start))
        number += 1
    connection.close()
    return said


def upload(port: int, megabytes: int) -> int:
    """Send a body that is too large, piece by piece; return the status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    piece = bytes(1_000_000)
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": str(megabytes * 1_000_000)}
    connection.request("POST", "/predict", (piece for _ in range(megabytes)), headers)
    status = connection.getresponse().status
    connection.close()
    return status


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--uploads", type=int, default=8)
    parser.add_argument("--upload-megabytes", type=int, default=200)
    parser.add_argument("--model", default="", help="an encoder [default: a random ViT-B/32]")
    smoke = {"clients": 8, "seconds": 2.0, "uploads": 1, "upload_megabytes": 40, "model": "cafe:mini"}
    given = harness.parse(parser, smoke)
    import cafe

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = given.model or save_vit_b32(folder / "tower")
        images = photographs(folder / "photographs")
        cafe.Classifier.fit(images, model=model, method="tip-adapter", cache_dir=folder / "caches", save=folder / "run")
        files = [path.read_bytes() for path in sorted(images.rglob("*.jpg"))]
        alone = [encoder_rate(model, images, min(10.0, given.seconds / 4))]
        with server(folder / "run", folder / "log") as (port, pid):
            ask(port, files, time.monotonic() + min(2.0, given.seconds / 4), 0)
            start, memory = time.monotonic(), [memory_mb(pid)]
            until = start + given.seconds
            said: list[tuple[int, float]] = []
            threads = [
                threading.Thread(target=lambda i=i: said.extend(ask(port, files, until, i)))
                for i in range(given.clients)
            ]
            for thread in threads:
                thread.start()
            time.sleep(given.seconds / 4)
            memory.append(memory_mb(pid))
            for thread in threads:
                thread.join()
            seconds = time.monotonic() - start
            memory.append(memory_mb(pid))
            statuses = Counter(status for status, _ in said)
            uploads = Counter(upload(port, given.upload_megabytes) for _ in range(given.uploads))
            memory.append(memory_mb(pid))
        alone.append(encoder_rate(model, images, min(10.0, given.seconds / 4)))
        lines = (folder / "log").read_text()
    rate = statuses[200] / seconds
    latencies = sorted(took for status, took in said if status == 200)
    row = {
        "model": "random ViT-B/32" if not given.model else given.model,
        "clients": given.clients,
        "seconds": round(seconds, 1),
        "answers": dict(statuses),
        "images_per_second": rate,
        "encoder_images_per_second": statistics.mean(alone),
        "of_encoder": rate / statistics.mean(alone),
        "p50_ms": 1000 * latencies[len(latencies) // 2],
        "p99_ms": 1000 * latencies[int(0.99 * (len(latencies) - 1))],
        "memory_mb": memory[-2],
        "memory_growth_mb": memory[2] - memory[1],
        "uploads": dict(uploads),
        "upload_megabytes": given.upload_megabytes,
        "memory_growth_by_uploads_mb": memory[3] - memory[2],
    }
    harness.report("serving_load", None, [row])
    wrong = {status: n for status, n in statuses.items() if status not in (200, 429)}
    if wrong or set(uploads) - {413} or "Traceback" in lines:
        raise SystemExit(f"answers that should not be: {wrong or dict(uploads)}")


if __name__ == "__main__":
    main()
