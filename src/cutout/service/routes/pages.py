"""The web page and the description of the interface: each one file, without requests to anywhere else."""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Response

__all__ = ["router"]

_FOLDER = Path(__file__).parent.parent / "pages"


def router() -> APIRouter:
    """The pages."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def page() -> Response:
        return _page("page.html")

    @routes.get("/docs")
    async def docs() -> Response:
        return _page("docs.html")

    @routes.get("/favicon.ico")
    async def icon() -> Response:
        return Response(_ICON, media_type="image/svg+xml", headers={"Cache-Control": "max-age=86400"})

    return routes


_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><path d="M2 2h12v12H2z" fill="none" stroke="#888" '
    'stroke-dasharray="2"/><circle cx="8" cy="6" r="2.5" fill="#2a7de1"/><path d="M3 14c0-6 10-6 10 0z" '
    'fill="#2a7de1"/></svg>'
)


def _page(name: str) -> Response:
    text, policy = _read(name)
    return Response(text, media_type="text/html", headers={"Content-Security-Policy": policy})


@cache
def _read(name: str) -> tuple[bytes, str]:
    """A page, and the policy that allows exactly the scripts and styles that stand in it."""
    text = (_FOLDER / name).read_text("utf-8")
    scripts, styles = (
        " ".join(f"'sha256-{_hash(inner)}'" for inner in re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL))
        for tag in ("script", "style")
    )
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text.encode(), policy


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
