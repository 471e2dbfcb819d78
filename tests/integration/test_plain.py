"""Sending by the shortcut: nobody can tell it from the ordinary way by what is answered and stored."""

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from notify.api.answers import Answering, Fields
from notify.api.plain import PATH_SEND
from notify.auth import Scope
from notify.server import Shortcut
from notify.server.http import HttpProtocol
from tests.service import SEND, Service, bearer, holding, until

TOKEN = bearer("shop", scope=SEND)
"""One and the same for all: only a token that was seen before takes the shortcut."""

READER = bearer("reader")
JSON = {"content-type": "application/json"}
PLAIN = {"to": "ann", "type": "t", "data": {"n": 1}}

PLAINLY: list[Any] = [PLAIN, {**PLAIN, "ttl": 60}, {**PLAIN, "collapse_key": "k"}, {**PLAIN, "undelivered_after": 60}]
OTHERWISE: list[Any] = [
    {**PLAIN, "to": ["ann", "bob"]},
    {**PLAIN, "ttl": 0},
    {**PLAIN, "deliver_at": "2099-01-01T00:00:00Z"},
    {"topic": "news", "type": "t", "data": 1},
    {**PLAIN, "to": "a\nb"},
    {**PLAIN, "to": ""},
    {**PLAIN, "data": "x" * 70_000},
    {**PLAIN, "more": 1},
    {"type": "t"},
    [],
    "nonsense",
]
"""Requests that the shortcut leaves alone, some of them wrong."""

HEADERS: list[Mapping[str, str]] = [
    {"idempotency-key": "once"},
    {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
    {"content-encoding": "gzip"},
    {"content-type": "text/plain"},
    {"authorization": "Bearer nonsense"},
    {"authorization": "Basic eDp5"},
    READER,
    {"origin": "https://elsewhere.example"},
]
"""Headers of a plain request that say more, some of them wrong."""


class Gate:
    """Notes what takes the shortcut; closed, everything goes the ordinary way."""

    def __init__(self, service: Service) -> None:
        self.taken = 0
        self.closed = False
        self._take = service.app.take
        service.server.config.shortcut = Shortcut(PATH_SEND.encode(), self.take)

    def take(self, headers: Fields, body: bytes, answer: Answering) -> bool:
        taken = not self.closed and self._take(headers, body, answer)
        self.taken += taken
        return taken


async def post(service: Service, content: Any, headers: Mapping[str, str] | None = None) -> httpx.Response:
    body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
    return await service.client.post(PATH_SEND, content=body, headers={**TOKEN, **JSON, **(headers or {})})


def shape(answer: httpx.Response) -> tuple[int, str, str]:
    """Return what of an answer is not of its moment."""
    headers = sorted((name, value) for name, value in answer.headers.raw if name != b"date")
    ids, times = r"[0-9a-f]{8}-[0-9a-f-]{27}", r"\d{4}-\d\d-\d\dT[\d:.]+Z"
    text = re.sub(times, "TIME", re.sub(ids, "ID", answer.text))
    return answer.status_code, re.sub(ids, "ID", str(headers)), text


@pytest.mark.parametrize(("requests", "short"), [(PLAINLY, True), (OTHERWISE, False)])
async def test_the_answer_is_the_same_by_the_shortcut(service: Service, requests: list[Any], short: bool) -> None:  # noqa: FBT001 - a parameter of the test
    gate = Gate(service)
    await post(service, PLAIN)  # so its token is known
    for request in requests:
        gate.taken, gate.closed = 0, False
        answer = await post(service, request)
        assert gate.taken == short, request
        gate.closed = True
        assert shape(answer) == shape(await post(service, request)), request


@pytest.mark.parametrize("headers", HEADERS, ids=lambda headers: "reader" if headers is READER else str(headers))
async def test_what_headers_say_is_heeded(service: Service, headers: Mapping[str, str]) -> None:
    gate = Gate(service)
    await post(service, PLAIN)
    await post(service, PLAIN, READER)
    gate.taken = 0
    answer = await post(service, PLAIN, headers)
    assert gate.taken == 0
    gate.closed = True
    again = await post(service, PLAIN, headers)
    if "idempotency-key" in headers:
        assert again.headers["idempotent-replayed"] == "true"
        assert again.json() == answer.json()
    else:
        assert shape(again) == shape(answer)


async def test_a_denied_token_takes_no_shortcut(service: Service) -> None:
    gate = Gate(service)
    assert (await post(service, PLAIN)).status_code == 201
    assert (await post(service, PLAIN)).status_code == 201
    assert gate.taken == 1  # the second: before it the token was not known
    admin = bearer("root", scope=Scope.QUEUES_WRITE)
    assert (await service.client.put("/v1/admin/denylist/sub/shop", headers=admin)).status_code == 204
    assert (await post(service, PLAIN)).status_code == 401
    assert gate.taken == 1


async def test_it_is_answered_after_the_commit_and_only_its_own_mailbox_can_hold_it_up(
    service: Service, database_url: str
) -> None:
    gate = Gate(service)
    await post(service, PLAIN)
    async with holding(database_url, "ann"):
        sending = asyncio.create_task(post(service, PLAIN))
        await until(lambda: gate.taken == 1)
        assert (await post(service, {**PLAIN, "to": "bob"})).status_code == 201
        assert not sending.done()
    assert (await sending).status_code == 201


async def test_who_is_over_the_quota_is_told_so(database_url: str) -> None:
    async with Service(database_url, send_rate=1) as service:
        gate = Gate(service)
        answers = [await post(service, PLAIN) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [201, 429, 429]
        assert gate.taken == 2
        gate.closed = True
        assert [answers[2].headers[name] for name in ("ratelimit-policy", "retry-after")] == [
            (await post(service, PLAIN)).headers[name] for name in ("ratelimit-policy", "retry-after")
        ]


async def test_a_service_that_leaves_says_that_nothing_was_accepted(service: Service) -> None:
    gate = Gate(service)
    await post(service, PLAIN)
    await service.store.sends.close()
    answer = await post(service, PLAIN)
    assert gate.taken == 1
    assert (answer.status_code, answer.json()["type"]) == (503, "unavailable")
    assert "retry-after" in answer.headers
    [connection] = [each for each in service.server.server_state.connections if isinstance(each, HttpProtocol)]
    assert connection._deadline is None  # the next request has not begun, so its client may take its time
