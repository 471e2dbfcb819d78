"""Where the service is and who is calling: the URL and the token, checked before anything is sent."""

from ipaddress import ip_address
from urllib.parse import SplitResult, urlencode, urlsplit

from notify.client.errors import BadData

SECURE = {"http": False, "https": True, "ws": False, "wss": True}


def base_url(url: str) -> str:
    """Return the service's base as an http or https URL without a slash at its end. Raises BadData."""
    parts = split(url)
    scheme = "https" if SECURE[parts.scheme] else "http"
    return parts._replace(scheme=scheme, path=parts.path.rstrip("/"), query="", fragment="").geturl()


def socket_url(url: str, parameters: dict[str, str]) -> str:
    """Return the URL of the service's WebSocket. Raises BadData."""
    parts = split(url)
    scheme = "wss" if SECURE[parts.scheme] else "ws"
    path = f"{parts.path.rstrip('/')}/v1/ws"
    return parts._replace(scheme=scheme, path=path, query=urlencode(parameters), fragment="").geturl()


def split(url: str) -> SplitResult:
    """Take a URL apart. Raises BadData for one that can't be the service's."""
    try:
        parts = urlsplit(url.strip())
        fit = parts.scheme in SECURE and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        fit = False
    if not fit:
        raise BadData("the service's URL must look like https://notify.example or http://127.0.0.1:8000")
    if parts.username is not None:
        raise BadData("the service's URL must not hold credentials; the token says who is calling")
    return parts


def is_loopback(url: str) -> bool:
    """Tell whether the URL is this machine's own, which no proxy could reach."""
    host = split(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def authorize(token: str) -> dict[str, str]:
    """Return the header that carries the token. Raises BadData for what no token looks like."""
    if not (token and token.isascii() and token.isprintable() and " " not in token):
        raise BadData("the token is empty or holds characters that no token has; was it pasted whole?")
    return {"Authorization": f"Bearer {token}"}
