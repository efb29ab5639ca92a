"""Load on `cafe serve`: clients side by side, uploads that are too large, memory, and the encoder's own rate.

The server runs in a process of its own, with a random ViT-B/32 of full size unless told otherwise (weights do not
change the work), and is asked by clients in this one. Printed, and kept as a row of results/serving_load.jsonl:

- ``images_per_second`` at so many clients, its latencies ``p50_ms`` and ``p99_ms``, the answers by status;
- ``of_encoder``, that rate over the encoder's own: images of one batch, decoded and cropped already, in a bare loop in
  the same process before the server starts, and again after it has ended; the mean of both;
- ``server_core_ms`` and ``client_core_ms``, processor time of both for an image, beside ``encoder_core_ms``, that of
  the encoder alone on one core; ``of_encoder_in_processor_time`` is the last over the first, whatever else runs on the
  machine; ``cores_busy``, the processor time of server and clients over the seconds;
- ``memory_growth_mb`` of the server in that time, before which as many clients have asked for a quarter of it;
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
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import harness
import numpy as np
from bench_extraction import random_vit_b32
from PIL import Image


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


class Alone(NamedTuple):
    """The speed of the encoder alone, without a server."""

    images_per_second: float  # on all cores
    core_ms: float  # of one core for an image


def encoder_alone(model: str, folder: Path, seconds: float) -> Alone:
    """Measure the encoder on crops, in its own batches: on all cores, and on one."""
    import torch

    from cafe.encoders import open_encoder

    encoder = open_encoder(model)
    crops = np.stack(
        [encoder.cropper(Image.open(path)) for path in sorted(folder.rglob("*.jpg"))[: encoder.batch_size]]
    )
    crops = np.resize(crops, (encoder.batch_size, *crops.shape[1:]))

    def measured(threads: int) -> tuple[float, float]:
        torch.set_num_threads(threads)
        encoder.encode_images(crops)
        start, processor, n = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - start < seconds / 2:
            encoder.encode_images(crops)
            n += len(crops)
        return n / (time.perf_counter() - start), (time.process_time() - processor) / n

    cores = torch.get_num_threads()
    one_core = measured(1)[1]
    return Alone(measured(cores)[0], 1000 * one_core)


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


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has taken; NaN where the system does not say."""
    try:
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


class Client:
    """A connection that asks again as soon as it is answered."""

    def __init__(self, port: int, requests: list[bytes], number: int) -> None:
        self._requests, self._number, self._received = requests, number, b""
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=120)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self) -> None:
        """Send one image."""
        self._asked = time.perf_counter()
        self.connection.sendall(self._requests[self._number % len(self._requests)])
        self._number += 1

    def receive(self) -> tuple[int, float] | None:
        """Read what has come; return status and seconds once the answer is whole."""
        part = self.connection.recv(65536)
        if not part:
            raise SystemExit("the server closed a connection")
        self._received += part
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        if not end or length is None or len(body) < int(length[1]):
            return None
        self._received = b""
        return int(head[9:12]), time.perf_counter() - self._asked


def load(port: int, files: list[bytes], clients: int, until: float) -> list[tuple[int, float]]:
    """Let clients ask until then; return status and seconds of each answer.

    One thread for all of them, and requests that are made beforehand: clients take the server's cores.
    """
    requests = []
    for file in files:
        body = (
            b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n' + file + b"\r\n--x--\r\n"
        )
        head = "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        requests.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    answers: list[tuple[int, float]] = []
    with selectors.DefaultSelector() as selector:
        for number in range(clients):
            client = Client(port, requests, number)
            selector.register(client.connection, selectors.EVENT_READ, client)
            client.ask()
        while selector.get_map():
            events = selector.select(120)
            if not events:
                raise SystemExit("the server has not answered for two minutes")
            for key, _ in events:
                answer = key.data.receive()
                if answer is None:
                    continue
                answers.append(answer)
                if time.monotonic() < until:
                    key.data.ask()
                else:
                    selector.unregister(key.fileobj)
                    key.data.connection.close()
    return answers


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
    """Measure the server under load and the encoder alone, and record the rows."""
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
        model = given.model or str(random_vit_b32(folder / "tower"))
        images = photographs(folder / "photographs")
        cafe.Classifier.fit(images, model=model, method="tip-adapter", cache_dir=folder / "caches", save=folder / "run")
        files = [path.read_bytes() for path in sorted(images.rglob("*.jpg"))]
        alone = [encoder_alone(model, images, min(10.0, given.seconds / 4))]
        with server(folder / "run", folder / "log") as (port, pid):
            load(port, files, 1, time.monotonic() + min(2.0, given.seconds / 4))
            warm_up = load(port, files, given.clients, time.monotonic() + given.seconds / 4)
            memory, processor, own = [memory_mb(pid)], processor_seconds(pid), time.process_time()
            start = time.monotonic()
            answers = load(port, files, given.clients, start + given.seconds)
            seconds, own = time.monotonic() - start, time.process_time() - own
            processor = processor_seconds(pid) - processor
            memory.append(memory_mb(pid))
            uploads = Counter(upload(port, given.upload_megabytes) for _ in range(given.uploads))
            memory.append(memory_mb(pid))
        alone.append(encoder_alone(model, images, min(10.0, given.seconds / 4)))
        lines = (folder / "log").read_text()
    statuses = Counter(status for status, _ in answers)
    core_ms = statistics.mean(each.core_ms for each in alone)
    encoder_rate = statistics.mean(each.images_per_second for each in alone)
    rate = statuses[200] / seconds
    latencies = sorted(took for status, took in answers if status == 200)
    row = {
        "model": "random ViT-B/32" if not given.model else given.model,
        "clients": given.clients,
        "seconds": round(seconds, 1),
        "answers": dict(statuses),
        "images_per_second": rate,
        "encoder_images_per_second": encoder_rate,
        "of_encoder": rate / encoder_rate,
        "server_core_ms": 1000 * processor / len(answers),
        "client_core_ms": 1000 * own / len(answers),
        "encoder_core_ms": core_ms,
        "of_encoder_in_processor_time": core_ms / (1000 * processor / len(answers)),
        "cores_busy": (processor + own) / seconds,
        "p50_ms": 1000 * latencies[len(latencies) // 2],
        "p99_ms": 1000 * latencies[int(0.99 * (len(latencies) - 1))],
        "memory_mb": memory[1],
        "memory_growth_mb": memory[1] - memory[0],
        "uploads": dict(uploads),
        "upload_megabytes": given.upload_megabytes,
        "memory_growth_by_uploads_mb": memory[2] - memory[1],
    }
    harness.report("serving_load", None, [row])
    wrong = {
        status: n
        for status, n in Counter(status for status, _ in [*warm_up, *answers]).items()
        if status not in (200, 429)
    }
    if wrong or set(uploads) - {413} or "Traceback" in lines:
        raise SystemExit(f"answers that should not be: {wrong or dict(uploads)}")


if __name__ == "__main__":
    main()
