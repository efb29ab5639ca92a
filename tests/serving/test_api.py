"""What the server answers: to what it should be asked, to what it should not, and to many at once."""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import struct
import subprocess
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

from cafe.classifier.onnx_classifier import OnnxClassifier
from cafe.errors import InputError
from cafe.serving.app import make_app
from cafe.serving.predictor import OnnxPredictor, RunPredictor
from cafe.serving.service import Limits

from .conftest import as_bytes, digit, running


def send(address, *files, **parameters):
    given = [("files", (name, content, "image/png")) for name, content in files]
    return httpx.post(f"{address}/predict", files=given, params=parameters, timeout=30)


def assert_refused(answer, status, *parts):
    """Assert that an answer is an error with this status, in one sentence with these parts."""
    assert answer.status_code == status, answer.text
    said = answer.json()
    assert set(said) == {"error"} and "\n" not in said["error"] and "Traceback" not in answer.text
    for part in parts:
        assert part in said["error"], said


def test_images_are_named_as_the_run_names_them(address, predictor):
    images = [digit(n) for n in (0, 1, 2)]
    answer = send(address, *((f"{n}.png", as_bytes(image)) for n, image in enumerate(images)), top=3, coverage=0.8)
    assert answer.status_code == 200
    expected = predictor._classifier.top([np.asarray(i.convert("RGB")) for i in images], 3, coverage=0.8)
    for said, prediction in zip(answer.json()["images"], expected, strict=True):
        assert [each["class"] for each in said["predictions"]] == [name for name, _ in prediction.classes]
        np.testing.assert_allclose(
            [each["probability"] for each in said["predictions"]], [p for _, p in prediction.classes], atol=1e-5
        )
        assert (said["unknown"], tuple(said["set"])) == (prediction.unknown, prediction.set)
        assert said["unknown_score"] == pytest.approx(prediction.unknown_score, abs=1e-5)


def test_zero_shot_and_the_nearest_training_images(address, photo_folder):
    file = sorted((photo_folder / "two").glob("*.png"))[0]
    (said,) = send(address, ("a.png", file.read_bytes()), zero_shot=True, nearest=3).json()["images"]
    assert abs(sum(each["probability"] for each in said["zero_shot"]) - 1) < 1e-5
    assert len(said["nearest"]) == 3 and said["nearest"][0]["class"] == "two"
    assert said["nearest"][0]["similarity"] == pytest.approx(1, abs=1e-2)  # the image itself, kept in float16
    assert said["nearest"][0]["thumbnail"].startswith("data:image/jpeg;base64,")
    assert str(photo_folder) not in json.dumps(said)


def test_an_exported_file_is_served_as_well(digit_file_of_run, predictor):
    onnx = OnnxPredictor(OnnxClassifier(digit_file_of_run))
    with running(make_app(onnx)) as address:
        (said,) = send(address, ("1.png", as_bytes(digit(1))), zero_shot=True, coverage=0.8, nearest=3).json()["images"]
    (expected,) = predictor._classifier.top(np.asarray(digit(1).convert("RGB")), 3, coverage=0.8)
    assert said["predictions"][0]["class"] == expected.classes[0][0] == "one"
    assert said["predictions"][0]["probability"] == pytest.approx(expected.classes[0][1], abs=1e-4)
    assert (said["unknown"], tuple(said["set"]), said["nearest"]) == (expected.unknown, expected.set, [])


def test_a_run_on_two_encoders_is_served(photo_folder, make_tiny_clip, tmp_path):
    """By several clients at once, so that batches run side by side."""
    import cafe

    other, caches = make_tiny_clip(tmp_path / "tower", seed=1), tmp_path / "caches"
    cafe.Classifier.fit(photo_folder, model=f"cafe:mini,{other}", cache_dir=caches, save=tmp_path / "pair")
    classifier = cafe.Classifier.load(tmp_path / "pair", device="cpu", dtype="float32", cache_dir=caches)
    images = [digit(n, place) for n in (0, 1, 2) for place in range(8)]
    files = [as_bytes(image) for image in images]
    expected = classifier.top([np.asarray(image.convert("RGB")) for image in images], 3)
    with running(make_app(RunPredictor(classifier))) as address, ThreadPoolExecutor(len(files)) as pool:
        options = {"top": 3, "zero_shot": True, "nearest": 2}
        answers = list(pool.map(lambda file: send(address, ("a.png", file), **options), files))
    for answer, prediction in zip(answers, expected, strict=True):
        (said,) = answer.json()["images"]
        probabilities = {each["class"]: each["probability"] for each in said["predictions"]}
        assert probabilities == pytest.approx(dict(prediction.classes), abs=1e-4)
        assert len(said["zero_shot"]) == 3 and len(said["nearest"]) == 2


@pytest.fixture(scope="module")
def digit_file_of_run(predictor, tmp_path_factory):
    file = tmp_path_factory.mktemp("file") / "digits.onnx"
    predictor._classifier.export_onnx(file)
    return file


def test_what_is_no_image_is_a_sentence(address):
    assert_refused(send(address, ("a.txt", b"hello")), 415, "'a.txt'", "not an image")
    assert_refused(send(address, ("a.png", b"")), 415, "empty")
    assert_refused(send(address, ("a.png", as_bytes(digit(1))[:60])), 415, "cannot be read")
    both = send(address, ("a.txt", b"hello"), ("b.png", as_bytes(digit(1))))
    assert both.status_code == 200
    assert "not an image" in both.json()["images"][0]["reason"]
    assert both.json()["images"][1]["predictions"][0]["class"] == "one"


def test_an_image_bomb_is_not_decoded(address):
    """25 megapixels in 25 kB, with a limit of 2; and a header that says 4 gigapixels."""
    assert_refused(
        send(address, ("a.png", as_bytes(Image.new("L", (5000, 5000))))), 413, "5000 x 5000 pixels", "2,000,000"
    )
    header = as_bytes(Image.new("L", (8, 8)))
    head = header[12:16] + struct.pack(">II", 65000, 65000) + header[24:29]  # with its checksum, or nobody reads it
    huge = header[:12] + head + struct.pack(">I", zlib.crc32(head)) + header[33:]
    assert_refused(send(address, ("a.png", huge)), 413, "more pixels than the limit of 2,000,000")
    body = {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 60000, 60000, 3], "data": [1]}]}
    assert infer(address, body).status_code == 422


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a\\b.png", "..", "a/b.png"])
def test_a_path_in_a_file_name_is_refused(address, name):
    assert_refused(send(address, (name, as_bytes(digit(1)))), 400, "holds no path")


@pytest.mark.parametrize(
    "path", ["/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/page.css/../../app.py", "/etc/passwd", "/run.json", "//x"]
)
def test_no_file_of_the_machine_is_reachable(address, path):
    host = urlsplit(address)
    with socket.create_connection((host.hostname, host.port), timeout=10) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 404") and b"root:" not in answer and b"import" not in answer


def test_limits_of_a_request(address):
    image = as_bytes(digit(1))
    assert_refused(send(address, *((f"{i}.png", image) for i in range(9))), 413, "may hold 8 images; got 9")
    assert_refused(send(address, ("a.png", bytes(5_000_000))), 413, "4 MB")
    assert_refused(
        httpx.post(f"{address}/predict", content=iter([PART, *[bytes(1_000_000)] * 6]), headers=FORM), 413, "4 MB"
    )
    assert_refused(send(address, ("a.png", image), top=0), 422, "top")
    assert_refused(send(address, ("a.png", image), coverage=0.9999), 422, "coverage of 0.9999 needs")
    assert_refused(send(address, ("a.png", image), unknown=0.00001), 422, "false alarms")
    assert_refused(httpx.post(f"{address}/predict"), 422, "files")


PART = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
FORM = {"content-type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"--x",
        b"--x\r\n\r\n",
        b"--x\r\nContent-Disposition: form-data; name=files\r\n\r\nabc\r\n--x--",
        b"\x00" * 100,
    ],
)
def test_malformed_forms_are_4xx(address, content):
    answer = httpx.post(f"{address}/predict", content=content, headers=FORM)
    assert 400 <= answer.status_code < 500 and set(answer.json()) == {"error"}


@pytest.mark.parametrize(
    "head",
    [b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"POST /predict HTTP/1.1\r\nContent-Length: -5\r\n\r\n"],
)
def test_what_is_not_http_ends_the_connection(address, head):
    host = urlsplit(address)
    with socket.create_connection((host.hostname, host.port), timeout=10) as raw:
        raw.sendall(head)
        answer = raw.recv(65536)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert httpx.get(f"{address}/v2/health/live").status_code == 200


def test_a_slow_client_is_sent_away_and_holds_nobody_up(address):
    """Its body must have arrived within two seconds; meanwhile others are answered."""
    host = urlsplit(address)
    with socket.create_connection((host.hostname, host.port), timeout=10) as slow:
        slow.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: 100000\r\n\r\n--x"
        )
        start = time.monotonic()
        assert send(address, ("a.png", as_bytes(digit(1)))).status_code == 200
        assert time.monotonic() - start < 2
        answer = slow.recv(65536)
    assert answer.startswith(b"HTTP/1.1 408")


def test_a_full_queue_is_429_and_empties_again(predictor):
    app = make_app(predictor, Limits(waiting=3, images=8))
    with running(app) as address:
        image = as_bytes(digit(1))
        assert_refused(send(address, *((f"{i}.png", image) for i in range(4))), 429, "waiting", "try again")
        assert send(address, *((f"{i}.png", image) for i in range(4))).headers["retry-after"] == "1"
        assert send(address, ("a.png", image)).status_code == 200
        assert app.state.service.batcher.held == 0


def test_64_clients(predictor):
    """For ten seconds here; benchmarks/serving_load.py has the long form. No error but 429, and nothing is mixed up."""
    # The clients share this process with the server, so that one of them may take seconds to send its few bytes.
    app = make_app(predictor, Limits(waiting=64, seconds=30.0))
    with running(app) as address:
        files = {name: as_bytes(digit(n)) for n, name in enumerate(("zero", "one", "two"))}
        expected = {
            name: send(address, ("a.png", file)).json()["images"][0]["predictions"] for name, file in files.items()
        }
        session = httpx.Client(timeout=30, limits=httpx.Limits(max_connections=64), verify=False)
        until = time.monotonic() + 10

        def client(number):
            statuses = []
            name = list(files)[number % 3]
            while time.monotonic() < until:
                answer = session.post(f"{address}/predict", files=[("files", ("a.png", files[name], "image/png"))])
                statuses.append(answer.status_code)
                if answer.status_code == 200:
                    shown = answer.json()["images"][0]["predictions"]
                    assert shown[0]["class"] == expected[name][0]["class"]
                    ours, theirs = ([each["probability"] for each in some] for some in (shown, expected[name]))
                    np.testing.assert_allclose(ours, theirs, atol=1e-5)
            return statuses

        with ThreadPoolExecutor(64) as pool:
            statuses = [status for some in pool.map(client, range(64)) for status in some]
        assert set(statuses) <= {200, 429} and statuses.count(200) >= 64
        assert app.state.service.batcher.held == 0
        text = httpx.get(f"{address}/metrics").text
        batches = float(re.search(r"^cafe_batch_images_count (\S+)", text, flags=re.M)[1])
        images = float(re.search(r"^cafe_images_total (\S+)", text, flags=re.M)[1])
        assert images > 1.5 * batches  # images of several clients went together


def test_one_line_of_log_a_request(address, caplog):
    with caplog.at_level("INFO", logger="cafe.serving"):
        httpx.get(f"{address}/v2/health/live")
        httpx.get(f"{address}/nothing%0Ahere%1b[31m")
        until = time.monotonic() + 10
        while True:  # a line is written once the answer has gone
            lines = [record.getMessage() for record in caplog.records if record.name == "cafe.serving"]
            if len(lines) == 2 or time.monotonic() > until:
                break
            time.sleep(0.01)
    assert re.fullmatch(r"127.0.0.1 GET /v2/health/live 200 \d+ ms", lines[0])
    assert "\n" not in lines[1] and "\x1b" not in lines[1] and " 404 " in lines[1]
    assert len(lines) == 2


def test_metrics_are_prometheus(address):
    from prometheus_client.parser import text_string_to_metric_families

    httpx.get(f"{address}/model")
    answer = httpx.get(f"{address}/metrics")
    families = {family.name for family in text_string_to_metric_families(answer.text)}
    assert {
        "cafe_requests",
        "cafe_request_seconds",
        "cafe_images",
        "cafe_batch_images",
        "cafe_waiting_images",
    } <= families


def test_other_pages_get_nothing_unless_asked(address, predictor):
    from_elsewhere = {"origin": "https://elsewhere.example"}
    assert "access-control-allow-origin" not in httpx.get(f"{address}/model", headers=from_elsewhere).headers
    assert httpx.get(f"{address}/model", headers={"host": "elsewhere.example"}).status_code == 400
    with running(make_app(predictor, cors=["https://elsewhere.example"])) as asked:
        answer = httpx.get(f"{asked}/model", headers=from_elsewhere)
        assert answer.headers["access-control-allow-origin"] == "https://elsewhere.example"


def test_the_page_loads_nothing_from_elsewhere(address):
    page = httpx.get(address)
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"https?://", page.text + httpx.get(f"{address}/page.css").text)


# ---------------------------------------------------------------------- the Open Inference Protocol


def infer(address, body, name="run", **headers):
    return httpx.post(f"{address}/v2/models/{name}/infer", json=body, headers=headers, timeout=30)


def test_the_protocol_describes_server_and_model(address):
    server = httpx.get(f"{address}/v2").json()
    assert server["name"] == "cafe" and "binary_tensor_data" in server["extensions"]
    assert httpx.get(f"{address}/v2/health/live").json() == {"live": True}
    assert httpx.get(f"{address}/v2/health/ready").json() == {"ready": True}
    for place in ("run", "run/versions/1"):
        model = httpx.get(f"{address}/v2/models/{place}").json()
        assert model["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
        assert {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]} in model["outputs"]
        assert httpx.get(f"{address}/v2/models/{place}/ready").json()["ready"] is True
    assert_refused(httpx.get(f"{address}/v2/models/other"), 404, "'other'", "'run'")


def test_files_and_pixels_get_the_same_answer(address):
    images = [digit(1).convert("RGB"), digit(2).convert("RGB")]
    files = [base64.b64encode(as_bytes(image)).decode() for image in images]
    body = {"id": "7", "inputs": [{"name": "image", "datatype": "BYTES", "shape": [2], "data": files}]}
    by_file = infer(address, body).json()
    assert (by_file["id"], by_file["model_name"], by_file["model_version"]) == ("7", "run", "1")
    outputs = {output["name"]: output for output in by_file["outputs"]}
    assert outputs["class"]["data"] == ["one", "two"] and outputs["probabilities"]["shape"] == [2, 3]
    pixels = np.stack([np.asarray(image) for image in images])
    body["inputs"] = [
        {"name": "image", "datatype": "UINT8", "shape": list(pixels.shape), "data": pixels.ravel().tolist()}
    ]
    body["outputs"] = [{"name": "probabilities"}]
    (by_pixels,) = infer(address, body).json()["outputs"]
    np.testing.assert_allclose(by_pixels["data"], outputs["probabilities"]["data"], atol=1e-6)


def test_tensors_as_bytes_as_tritons_clients_send_them(address):
    file = as_bytes(digit(2))
    raw = struct.pack("<I", len(file)) + file
    head = json.dumps(
        {
            "inputs": [
                {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(raw)}}
            ],
            "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in ("probabilities", "class")],
        }
    ).encode()
    answer = httpx.post(
        f"{address}/v2/models/run/infer",
        content=head + raw,
        headers={"inference-header-content-length": str(len(head))},
    )
    length = int(answer.headers["inference-header-content-length"])
    said = json.loads(answer.content[:length])
    sizes = [output["parameters"]["binary_data_size"] for output in said["outputs"]]
    tail = answer.content[length:]
    probabilities = np.frombuffer(tail[: sizes[0]], "<f4")
    assert probabilities.sum() == pytest.approx(1, abs=1e-5) and len(tail) == sum(sizes)
    assert tail[sizes[0] :] == struct.pack("<I", 3) + b"two"


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": ["a"]}]}, "one input"),
        ({"inputs": [{"name": "image", "datatype": "FP32", "shape": [1], "data": [1]}]}, "BYTES of shape"),
        ({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [2], "data": ["YQ=="]}]}, "2 images"),
        ({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["no base 64"]}]}, "base64"),
        ({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [99], "data": []}]}, "1 to 8 images"),
        ({"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [300] * 12}]}, "0 to 255"),
        ({"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [[1], [1, 2]]}]}, ""),
        (
            {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 9}}]},
            "follow the JSON",
        ),
    ],
)
def test_wrong_requests_of_the_protocol_are_sentences(address, body, part):
    assert_refused(infer(address, body), 422, part)


def test_deep_nesting_is_a_sentence(address):
    answer = httpx.post(f"{address}/v2/models/run/infer", content=b"[" * 100_000)
    assert answer.status_code == 422 and set(answer.json()) == {"error"}


# ---------------------------------------------------------------------- starting and ending


def test_methods_of_a_batch_are_not_served(photo_folder, tmp_path):
    import cafe

    fitted = cafe.Classifier.fit(photo_folder, method="trans-clip", cache_dir=photo_folder.parent / "caches")
    with pytest.raises(InputError, match="cannot be served: what it says of an image depends on the other images"):
        RunPredictor(fitted)


def test_the_command_says_what_is_wrong_with_an_address(predictor, capfd):
    from cafe.cli.app import call

    run = str(predictor._classifier.run)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert call(["serve", "--run", run, "--port", str(port)]) == 2
        assert "is in use already; name another with --port" in capfd.readouterr().err
    assert call(["serve", "--run", run, "--host", "no.such.host.invalid", "--port", "0"]) == 2
    assert "is no address of this machine" in capfd.readouterr().err
    assert call(["serve", "--run", run, "--port", "70000"]) == 2
    assert call(["serve", "--run", "no-such-run", "--port", "0"]) == 2


def wait_until_begun(address, n_requests):
    """Wait until so many requests of one image are held or answered."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        text = httpx.get(f"{address}/metrics").text
        held = re.findall(r"^cafe_waiting_images (\S+)", text, flags=re.M)
        answered = re.findall(r'^cafe_requests_total{.*path="/predict".*} (\S+)', text, flags=re.M)
        if sum(map(float, [*held, *answered])) >= n_requests:
            return
        time.sleep(0.01)
    raise AssertionError(f"{n_requests} requests have not begun within 30 s")


def test_the_command_serves_and_ends_what_it_has_begun(predictor, tmp_path):
    import signal
    import sys

    command = [sys.executable, "-m", "cafe.cli", "serve", "--run", str(predictor._classifier.run), "--port", "0"]
    command += ["--dtype", "float32", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("}"):
                break
        document = json.loads("".join(lines))
        assert document["run"] == str(predictor._classifier.run)
        address = document["url"]
        file = as_bytes(digit(1))
        body = (
            b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + file + b"\r\n--x--\r\n"
        )
        connections = [http.client.HTTPConnection(urlsplit(address).netloc, timeout=30) for _ in range(8)]
        for connection in connections:
            connection.request("POST", "/predict", body, FORM)
        wait_until_begun(address, len(connections))
        process.send_signal(signal.SIGTERM)
        statuses = {connection.getresponse().status for connection in connections}
        rest = process.stderr.read()
        assert process.wait(30) == 0
    assert rest.rstrip().endswith("ended") and "Traceback" not in rest
    assert statuses == {200}
