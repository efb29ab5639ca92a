"""Runs on the Hub: a local stand-in of its HTTP interface takes what is pushed, and gives it back."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import cafe
from cafe.cli.app import call
from cafe.errors import CafeError, InputError

TOKEN = "hf_thisIsTheSecretOfThisTest0000000000"


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks for when it makes a repository, commits files and takes a snapshot."""

    protocol_version = "HTTP/1.1"
    repos: dict[str, dict[str, bytes]]
    tokens: set[str]
    asked: list[str]

    def log_message(self, *_):
        pass

    def _body(self):
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def _answer(self, status, content=b"", **headers):
        if not isinstance(content, bytes):
            content, headers["Content-Type"] = json.dumps(content).encode(), "application/json"
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _commit(self, files):
        return hashlib.sha1(
            repr(sorted((k, hashlib.sha1(v).hexdigest()) for k, v in files.items())).encode()
        ).hexdigest()

    def do_POST(self):
        self.asked.append(f"POST {self.path}")
        body = self._body()
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        self.tokens.add(token)
        if token != TOKEN:
            return self._answer(401, {"error": f"Invalid credentials {token}"})
        host = f"http://{self.headers['host']}"
        if self.path == "/api/repos/create":
            said = json.loads(body)
            repo = f"{said['organization']}/{said['name']}" if said.get("organization") else said["name"]
            if repo in self.repos:
                return self._answer(409, {"error": "exists", "url": f"{host}/{repo}"})
            self.repos[repo] = {}
            return self._answer(200, {"url": f"{host}/{repo}", "name": repo})
        if match := re.fullmatch(r"/api/models/(.+)/preupload/main", self.path):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        if match := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            files = self.repos[match[1]]
            for line in body.splitlines():
                said = json.loads(line)
                if said["key"] == "file":
                    files[said["value"]["path"]] = base64.b64decode(said["value"]["content"])
            return self._answer(
                200, {"commitUrl": f"{host}/{match[1]}/commit/x", "commitOid": self._commit(files), "success": True}
            )
        return self._answer(200, {})  # checks of the card, and whatever else

    def do_GET(self):
        self.asked.append(f"GET {self.path}")
        path = self.path.partition("?")[0]
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/.+)?", path):
            if match[1] not in self.repos:
                return self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            files = self.repos[match[1]]
            siblings = [{"rfilename": name} for name in files]
            return self._answer(200, {"id": match[1], "sha": self._commit(files), "siblings": siblings, "tags": []})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+(?:/.*)?", path):
            files = self.repos.get(match[1], {})
            rows = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ]
            return self._answer(200, rows)
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            content = self.repos.get(match[1], {}).get(match[2])
            if content is None:
                return self._answer(404, b"", X_Error_Code="EntryNotFound")
            commit = self._commit(self.repos[match[1]])
            return self._answer(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=commit)
        return self._answer(404, {"error": "not here"})

    do_HEAD = do_GET


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in, with huggingface_hub led to it."""
    import huggingface_hub.constants as constants

    handler = type("OwnHub", (Hub,), {"repos": {}, "tokens": set(), "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield handler
    server.shutdown()
    server.server_close()


def test_a_run_goes_to_the_hub_and_comes_back(hub, digit_run, tmp_path, capfd):
    assert call(["push", "me/digits", "--run", str(digit_run), "--json"]) == 0
    said = capfd.readouterr()
    assert json.loads(said.out)["files"] == ["run.json", "model.safetensors", "README.md"]
    assert set(hub.repos["me/digits"]) == {"run.json", "model.safetensors", "README.md"}  # nothing of this machine
    assert hub.tokens == {TOKEN}
    assert TOKEN not in said.out + said.err
    for path in Path(tmp_path).rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()

    fetched = cafe.Classifier.from_pretrained("me/digits", cache_dir=tmp_path / "caches")
    images = sorted((digit_run.parent / "photos").rglob("*.png"))[:5]
    own = cafe.Classifier.load(digit_run, cache_dir=tmp_path / "caches")
    np.testing.assert_array_equal(fetched.predict_proba(images), own.predict_proba(images))
    assert call(["push", "me/digits", "--run", str(digit_run), "--report", "--quiet"]) == 0
    assert "report.html" in hub.repos["me/digits"]


def test_what_is_damaged_or_edited_does_not_go_out(hub, digit_run, tmp_path, capfd):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(digit_run, run)
    card = (run / "README.md").read_text(encoding="utf-8")
    (run / "README.md").write_text(card.replace("cafe", "coffee", 1), encoding="utf-8")
    assert call(["push", "me/digits", "--run", str(run)]) == 2
    assert "was edited: its library_name is not what the run says" in capfd.readouterr().err
    (run / "README.md").unlink()
    (run / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:-1])
    assert call(["push", "me/digits", "--run", str(run)]) == 2
    assert hub.repos == {}


def test_refusals_are_sentences_without_a_token(hub, digit_run, monkeypatch, capfd, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_anotherSecretThatIsNotTheRightOne000")
    assert call(["push", "me/digits", "--run", str(digit_run)]) == 2
    said = capfd.readouterr()
    assert "refuses access to me/digits (401)" in said.err and "hf_another" not in said.out + said.err
    assert call(["push", "a/b/c", "--run", str(digit_run)]) == 2
    assert "owner/name" in capfd.readouterr().err
    with pytest.raises(InputError, match="there is no repository 'me/none' on the Hub|refuses access"):
        cafe.Classifier.from_pretrained("me/none")
    hub.repos["me/other"] = {"README.md": b"# Something else"}
    with pytest.raises(InputError, match="me/other holds no run of cafe"):
        cafe.Classifier.from_pretrained("me/other")


def test_a_hub_that_is_away_is_a_sentence(digit_run, monkeypatch, tmp_path):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(CafeError, match="not in the Hub's local cache|HF_HUB_OFFLINE"):
        cafe.Classifier.from_pretrained("me/digits")
    from cafe.sharing.hub import push_run

    with pytest.raises(CafeError, match="HF_HUB_OFFLINE is set"):
        push_run(digit_run, "me/digits")


def test_in_a_process_that_has_imported_nothing_else(digit_run, tmp_path):
    """What of huggingface_hub is used must be imported here: other parts of cafe had loaded it in all other tests."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CAFE_CACHE": str(tmp_path)}
    command = [sys.executable, "-m", "cafe.cli", "push", "owner/name", "--run", str(digit_run)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and "HF_HUB_OFFLINE is set" in done.stderr, done.stderr
    fetch = "import cafe; cafe.Classifier.from_pretrained('not a name')"
    done = subprocess.run([sys.executable, "-c", fetch], capture_output=True, text=True, env=environment)
    assert "InputError: a repository is called owner/name" in done.stderr, done.stderr
