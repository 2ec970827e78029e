"""A hub on 127.0.0.1: the few requests of `huggingface_hub` that putting files there and fetching them takes."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class Hub(ThreadingHTTPServer):
    """Repositories in memory: name -> path -> content. ``requests`` are the methods and paths it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.token = "of-the-test"

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, status: int, body: Any = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"POST {path}")
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._answer(401, {"error": "who are you?"}, X_Error_Message="who are you?")
            return
        if path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.server.repositories.setdefault(name, {})
            self._answer(200, {"url": f"{self.server.address}/{name}", "id": name})
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            files = json.loads(content)["files"]
            self._answer(200, {"files": [{**one, "uploadMode": "regular", "shouldIgnore": False} for one in files]})
        elif path.endswith("/commit/main"):
            stored = self.server.repositories[path.removeprefix("/api/models/").removesuffix("/commit/main")]
            for line in content.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    stored[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self._answer(200, {"commitUrl": f"{self.server.address}/x/y/commit/{_SHA}", "commitOid": _SHA})
        else:
            self._answer(404, {"error": "no such place"})

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        stored = self.server.repositories.get(name)
        if stored is None:
            self._answer(404, {"error": "no repository"}, X_Error_Code="RepoNotFound")
        elif parts[0] == "api" and "tree" in parts:
            entries = [
                {"type": "file", "path": one, "size": len(content), "oid": _SHA} for one, content in stored.items()
            ]
            self._answer(200, entries)
        elif parts[0] == "api":
            siblings = [{"rfilename": one, "size": len(content)} for one, content in stored.items()]
            self._answer(200, {"id": name, "sha": _SHA, "siblings": siblings, "private": False, "tags": []})
        elif (file := "/".join(parts[4:])) not in stored:
            self._answer(404, {"error": "no file"}, X_Error_Code="EntryNotFound", X_Repo_Commit=_SHA)
        else:
            etag = hashlib.sha256(stored[file]).hexdigest()
            self._answer(200, stored[file], ETag=f'"{etag}"', X_Repo_Commit=_SHA)

    do_HEAD = do_GET


_SHA = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
