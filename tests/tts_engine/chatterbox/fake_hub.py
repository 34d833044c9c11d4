"""A Hugging Face hub on loopback: the part of its API and file server that a snapshot download uses."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """What it serves, and what it was asked."""

    files: dict[str, bytes]
    repo_id: str = "ResembleAI/chatterbox-turbo"
    status: int = 200
    "Answered to every request that is not 200; with `error_code` as X-Error-Code."
    error_code: str | None = None
    token: str | None = None
    "Required, if set."
    cut: dict[str, int] = field(default_factory=dict)
    "Of a file only so many bytes are sent, once, then the connection is closed."
    down_after_cut: bool = False
    "From then on every request is answered 403."
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    "Method, path, Range header."
    commit: str = COMMIT
    url: str = ""

    def downloads(self) -> list[tuple[str, str | None]]:
        """File and Range of each GET of a file."""
        return [
            (path.rsplit("/", 1)[1], ranges)
            for method, path, ranges in self.asked
            if method == "GET" and "/resolve/" in path
        ]


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    class Handler(_Handler):
        fake = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeHub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        hub = self.fake
        path = unquote(urlsplit(self.path).path)
        hub.asked.append((self.command, path, self.headers.get("Range")))
        if hub.status != 200:
            self._fail(hub.status, hub.error_code)
        elif hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._fail(401, "GatedRepo")
        elif path.startswith(f"/api/models/{hub.repo_id}/tree/"):
            self._json([self._listed(name) for name in hub.files])
        elif path in (f"/api/models/{hub.repo_id}", f"/api/models/{hub.repo_id}/revision/main"):
            siblings = [{"rfilename": name} for name in hub.files]
            self._json({"id": hub.repo_id, "sha": hub.commit, "siblings": siblings})
        elif path.startswith(f"/{hub.repo_id}/resolve/") and path.split("/resolve/")[1].split("/", 1)[1] in hub.files:
            self._file(path.split("/resolve/")[1].split("/", 1)[1])
        else:
            self._fail(404, "RepoNotFound" if path.startswith("/api/models/") else "EntryNotFound")

    def _listed(self, name: str) -> dict[str, object]:
        content = self.fake.files[name]
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _fail(self, status: int, code: str | None) -> None:
        self._send(status, b"{}", {"X-Error-Code": code} if code else {})

    def _file(self, name: str) -> None:
        content = self.fake.files[name]
        headers = {
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "X-Repo-Commit": self.fake.commit,
            "Accept-Ranges": "bytes",
        }
        ranges = self.headers.get("Range")
        if ranges is None:
            self._send(200, content, headers, self.fake.cut.pop(name, None) if self.command == "GET" else None)
            return
        start = int(ranges.removeprefix("bytes=").split("-")[0])
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206, content[start:], headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True
            if self.fake.down_after_cut:
                self.fake.status = 403
