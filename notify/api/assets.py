"""The JavaScript client as pages get it: `/client/notify.js` and its types.

Keeps the promise that any page may import it: every origin is allowed, and what is served is the file inside this
package, so service and client are of one version.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any, Self

from litestar import Request, Response, route
from litestar.params import FromPath

from notify.errors import NotFound

MEDIA_TYPES = {
    ".js": "text/javascript",  # RFC 9239; the framework adds the charset to text
    ".ts": "application/typescript; charset=utf-8",  # not registered, but what TypeScript's own tools take
    ".css": "text/css",
    ".html": "text/html",
    ".svg": "image/svg+xml",
}

CLIENT_SECONDS = 300
"""How long a browser may use the client without asking: an upgrade of the service reaches pages within it."""

CLIENT_FILES = ("notify.js", "notify.d.ts")

CLIENT_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",  # so that isolated pages may import it too
    "Cache-Control": f"public, max-age={CLIENT_SECONDS}",
    "X-TypeScript-Types": "/client/notify.d.ts",  # where Deno looks for them
}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of this package, ready to be served."""

    content: bytes
    media: str
    etag: str

    @classmethod
    def read(cls, package: str, name: str) -> Self:
        """Read one file. Raises FileNotFoundError."""
        content = files(package).joinpath(name).read_bytes()
        return cls(content, MEDIA_TYPES[PurePosixPath(name).suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')

    def answer(self, request: Request[Any, Any, Any], headers: dict[str, str]) -> Response[bytes]:
        """Answer with the file, or with 304 to whoever has it already (RFC 9110, section 13.1.2)."""
        headers = {"ETag": self.etag, "X-Content-Type-Options": "nosniff", **headers}
        known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
        if known & {self.etag, "*"}:
            return Response(b"", status_code=304, headers=headers)
        return Response(self.content, media_type=self.media, headers=headers)


read_asset = cache(Asset.read)
"""The same, read once a process."""


@route("/client/{name:str}", http_method=["GET", "HEAD"], include_in_schema=False)
async def client_asset(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
    """Serve the JavaScript client or its types."""
    if name not in CLIENT_FILES:
        raise NotFound(f"the files here are {' and '.join(CLIENT_FILES)}")
    return read_asset("notify.client", name).answer(request, CLIENT_HEADERS)
