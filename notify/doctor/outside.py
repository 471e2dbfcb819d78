"""The clients' side: whether the service, a WebSocket and a token work from where clients are, whatever stands in between."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import websockets
from websockets.typing import Subprotocol

from notify.client.address import authorize, base_url, is_loopback, socket_url
from notify.doctor.findings import ANSWER_SECONDS, Finding, good, wrong
from notify.errors import Close
from notify.frames import SUBPROTOCOL_JSON


async def examine_service(url: str) -> Finding:
    """Ask the service itself, the way clients reach it."""
    async with http_client(url) as client:
        try:
            answer = await client.get("/readyz")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return wrong(
                "service", f"no answer from {base_url(url)}: {error or type(error).__name__}", "is it running there?"
            )
    try:
        checks = answer.json()["checks"]
        failed = [name for name, verdict in checks.items() if verdict != "ok"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return wrong(
            "service",
            f"what answers at {base_url(url)} is not notify (status {answer.status_code})",
            "check --url, and where the proxy in front sends /readyz",
        )
    if failed:
        return wrong("service", f"it is not ready: {', '.join(failed)} failed", "see its log")
    return good("service", "ready")


async def examine_socket(url: str) -> Finding:
    """Upgrade to a WebSocket as a browser would, and exchange a frame each way.

    Without credentials, so that nothing is left behind: what answers a frame that is no `auth` with 4401 is the service.
    """
    try:
        async with websockets.connect(
            socket_url(url, {}),
            subprotocols=[Subprotocol(SUBPROTOCOL_JSON)],
            open_timeout=ANSWER_SECONDS,
            close_timeout=1,
            proxy=None if is_loopback(url) else True,
        ) as socket:
            if socket.subprotocol != SUBPROTOCOL_JSON:
                return wrong(
                    "websocket",
                    "the subprotocol was lost on the way",
                    "let the proxy pass the header Sec-WebSocket-Protocol in both directions",
                )
            await socket.send(json.dumps({"op": "ping"}))
            with suppress(websockets.ConnectionClosed):
                async with asyncio.timeout(ANSWER_SECONDS):
                    while True:
                        await socket.recv()
            if socket.close_code != Close.UNAUTHENTICATED:
                return wrong(
                    "websocket",
                    f"it was closed with {socket.close_code} {socket.close_reason or ''}, where notify closes with 4401",
                    "is it notify that answers there? See what the proxy in front does with WebSockets",
                )
    except websockets.InvalidStatus as error:
        return explain_status(error.response.status_code)
    except (websockets.WebSocketException, OSError, TimeoutError, EOFError) as error:
        return wrong(
            "websocket",
            f"the upgrade failed: {error or type(error).__name__}",
            "see that the proxy in front speaks HTTP/1.1 to the service and passes Upgrade and Connection",
        )
    return good("websocket", "upgraded, and frames go both ways")


def explain_status(status: int) -> Finding:
    """Say what a handshake that was answered with this status means."""
    if status == 503:  # noqa: PLR2004 - HTTP's own number
        return wrong(
            "websocket", "the node takes no more sockets now (503)", "it is draining or full: NOTIFY_MAX_CONNECTIONS"
        )
    if status == 431:  # noqa: PLR2004 - HTTP's own number
        return wrong("websocket", "the request headers are too long (431)", "make tokens and cookies shorter")
    return wrong(
        "websocket",
        f"the upgrade was answered with {status} instead of 101: something in between does not pass it on",
        "nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; "
        "other proxies: switch WebSockets on for /v1/ws",
    )


async def examine_token(url: str, token: str) -> Finding:
    """Find out whether the service believes NOTIFY_TOKEN."""
    async with http_client(url) as client:
        try:
            answer = await client.get("/v1/inbox/devices", headers=authorize(token))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return wrong("token", f"no answer: {error or type(error).__name__}", "is the service running there?")
    if answer.status_code == 401:  # noqa: PLR2004 - HTTP's own number
        try:
            detail = answer.json()["detail"]
        except (ValueError, KeyError, TypeError):
            detail = "no reason given"
        return wrong(
            "token", f"NOTIFY_TOKEN is refused: {detail}", "mint one with a key that the service knows: `notify token`"
        )
    return good("token", "NOTIFY_TOKEN is accepted")


@asynccontextmanager
async def http_client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """Hold an HTTP client for the service."""
    async with httpx.AsyncClient(
        base_url=base_url(url), timeout=ANSWER_SECONDS, trust_env=not is_loopback(url)
    ) as client:
        yield client
