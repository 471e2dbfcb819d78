"""Which browser origins may talk to the service: one rule for sockets, CORS and the console.

Keeps the promise that a page of another site can't ride on a user's browser. A connection without an `Origin` header is
no browser and is not held to it. An origin is scheme, host and port (RFC 6454); it is compared as a whole.
"""

from collections.abc import Iterable
from urllib.parse import urlsplit

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
"""What a browser on the same machine calls it."""


class OriginPolicy:
    """Decides on an `Origin` header. `allowed` are origins, or `*`; `loopback` admits any page of the same machine."""

    def __init__(self, allowed: Iterable[str], *, loopback: bool = False) -> None:
        self._allowed = frozenset(origin.rstrip("/").lower() for origin in allowed)
        self._loopback = loopback

    def admits(self, origin: str | None, host: str) -> bool:
        """Whether a request with this `Origin`, sent to this `Host`, may go on."""
        if origin is None or "*" in self._allowed:
            return True
        origin = origin.lower()
        if origin in self._allowed:
            return True
        try:
            parts = urlsplit(origin)
            name = parts.hostname
        except ValueError:
            return False
        if parts.scheme not in {"http", "https"} or not name:
            return False
        return parts.netloc == host.lower() or (self._loopback and name in LOOPBACK_HOSTS)
