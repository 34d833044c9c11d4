"""The page's files: static, and public, since they say nothing; what they show is asked for with a token."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

from mediaserver.api.problems import Problem

DIRECTORY = Path(__file__).parent / "static"

CONTENT_TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

REVALIDATE = "no-cache"
"They change with the server: a browser asks each time, and mostly gets a 304."


@dataclass(frozen=True, slots=True)
class Asset:
    content: bytes
    content_type: str
    etag: str


def load_assets(directory: Path = DIRECTORY) -> dict[str, Asset]:
    """The files of a directory by name; those of other types are left out."""
    return {
        path.name: Asset(content, CONTENT_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
        for path in sorted(directory.iterdir())
        if path.suffix in CONTENT_TYPES and (content := path.read_bytes())
    }


_assets = load_assets()
router = APIRouter(include_in_schema=False)


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    return _answer(request, _assets["index.html"])


@router.api_route("/page/{name}", methods=["GET", "HEAD"])
async def asset(name: str, request: Request) -> Response:
    found = _assets.get(name)
    if found is None:
        raise Problem(404, "not-found", "there is no such file of the page")
    return _answer(request, found)


def _answer(request: Request, found: Asset) -> Response:
    headers = {"Cache-Control": REVALIDATE, "ETag": found.etag}
    if found.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    content = b"" if request.method == "HEAD" else found.content
    answer = Response(content, media_type=found.content_type, headers=headers)
    answer.headers["Content-Length"] = str(len(found.content))
    return answer
