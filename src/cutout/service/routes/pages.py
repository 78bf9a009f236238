"""The web page and the description of the interface, each one file without requests to anywhere else; what they ask."""

import base64
import hashlib
import json
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from PIL import features

from cutout.formats.encode import encode
from cutout.formats.input_formats import HEAD, INPUT_FORMATS, sniff
from cutout.output_formats import OutputFormat
from cutout.service import form, requests
from cutout.service.http.problems import Problem
from cutout.service.models import Models
from cutout.service.settings import Settings
from cutout.service.state import Service

__all__ = ["router"]

_FOLDER = Path(__file__).parent.parent / "pages"
_PREVIEW = 2048
"""Longest side of a picture that is shown in place of one that browsers do not show."""


def router(service: Service) -> APIRouter:
    """The pages, and what the first of them asks beside the interface."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def page() -> Response:
        return _page("page.html", json.dumps(_known(service.settings)).replace("<", "\\u003c"))

    @routes.get("/docs")
    async def docs() -> Response:
        return _page("docs.html")

    @routes.get("/favicon.ico")
    async def icon() -> Response:
        return Response(_ICON, media_type="image/svg+xml", headers={"Cache-Control": "max-age=86400"})

    @routes.post("/page/link")
    async def link(request: Request) -> Response:
        """The file behind a link; a page may not fetch it itself."""
        async with requests.form(service, request, files=0) as fields:
            data = await requests.fetched(service, request, str(fields.get("image_url", "")))
        if sniff(data[:HEAD]) is None:
            raise Problem(415, "not-a-picture", "what the address leads to is not a picture of a known format")
        return Response(data, media_type="application/octet-stream")

    @routes.post("/page/preview")
    async def preview(request: Request) -> Response:
        """A picture as browsers show it."""
        async with requests.form(service, request, files=1) as fields:
            data = await requests.file(service, fields.get("file"))
            most = service.settings.max_pixels
            shown, kind = await requests.aside(service, request, lambda: _preview(service.models, data, most))
        return Response(shown, media_type=kind.row.media_type)

    return routes


def _preview(models: Models, data: bytes, max_pixels: int) -> tuple[bytes, OutputFormat]:
    with models.decoded(data, max_pixels, max_size=_PREVIEW) as picture:
        kind = OutputFormat.JPEG if picture.alpha is None else OutputFormat.PNG
        return encode(picture.rgb, picture.alpha, kind, picture.metadata), kind


def _known(settings: Settings) -> dict[str, Any]:
    """What the page must know of the service: options, formats, limits."""
    there = {"HEIC": find_spec("pillow_heif") is not None, "AVIF": features.check("avif")}
    fields = form.schema(settings.model_names)
    return {
        "fields": {name: row for name, row in fields.items() if name not in form.SHORT},
        "formats": [
            {"name": kind.value, "title": kind.row.title, "type": kind.row.media_type, "alpha": kind.has_alpha}
            for kind in OutputFormat
            if there.get(kind.row.title, True)
        ],
        "inputs": {row.name: row.suffixes for row in INPUT_FORMATS if there.get(row.name, True)},
        "bytes": settings.max_body,
        "pixels": settings.max_pixels,
        "workers": settings.workers,
        "links": settings.image_url,
        "keys": bool(settings.api_keys),
    }


_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><path d="M2 2h12v12H2z" fill="none" stroke="#888" '
    'stroke-dasharray="2"/><circle cx="8" cy="6" r="2.5" fill="#2a7de1"/><path d="M3 14c0-6 10-6 10 0z" '
    'fill="#2a7de1"/></svg>'
)


def _page(name: str, known: str = "") -> Response:
    text, policy = _read(name)
    return Response(text.replace("{known}", known), media_type="text/html", headers={"Content-Security-Policy": policy})


@cache
def _read(name: str) -> tuple[str, str]:
    """A page with its scripts and styles in it, and the policy that allows exactly those."""
    text = _file(name)
    text = re.sub(
        r'<link rel="stylesheet" href="(\w+\.css)">', lambda found: f"<style>\n{_file(found[1])}</style>", text
    )
    text = re.sub(r'<script src="(\w+\.js)"></script>', lambda found: f"<script>\n{_file(found[1])}</script>", text)
    scripts, styles = (
        " ".join(f"'sha256-{_hash(inner)}'" for inner in re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL))
        for tag in ("script", "style")
    )
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, policy


def _file(name: str) -> str:
    return (_FOLDER / name).read_text("utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
