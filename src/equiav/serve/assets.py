"""The page in a browser:  the files of `page/` → `GET /` and `GET /page/NAME`.

They are read once, and named by a list: no path comes from a client. They say nothing of the library, so they need no
token, and ask nothing of other sites.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Request
from fastapi import Path as InPath
from fastapi.responses import Response

from equiav.serve.problems import Refusal

FOLDER = Path(__file__).parent / "page"
FIRST = "index.html"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
OFF = "accelerometer display-capture encrypted-media geolocation gyroscope hid idle-detection local-fonts"
OFF += " magnetometer midi payment publickey-credentials-get screen-wake-lock serial usb xr-spatial-tracking"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src 'self' blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "microphone=(self), camera=(self), " + ", ".join(f"{name}=()" for name in OFF.split()),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class Asset:
    """A file of the page."""

    content: bytes
    kind: str

    @property
    def tag(self) -> str:
        """What changes with the content."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:20]}"'

    def answer(self, request: Request) -> Response:
        """The file, or that the client has it."""
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        headers = {"ETag": self.tag, **HEADERS}
        if self.tag in known:
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.kind, headers=headers)


def read_assets(folder: Path = FOLDER) -> dict[str, Asset]:
    """All files of the page by name."""
    files = (path for path in folder.iterdir() if path.suffix in KINDS and path.is_file() and path.name[0] != ".")
    return {path.name: Asset(path.read_bytes(), KINDS[path.suffix]) for path in sorted(files)}


def add_page(app: FastAPI) -> None:
    """Add the page."""
    assets = read_assets()
    first = assets.pop(FIRST)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return first.answer(request)

    @app.get("/page/{name}", include_in_schema=False)
    async def part(name: Annotated[str, InPath(max_length=100)], request: Request) -> Response:
        if name not in assets:
            raise Refusal(404, "the page has no such file")
        return assets[name].answer(request)
