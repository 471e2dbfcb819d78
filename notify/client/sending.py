"""Sending, async and sync: one call of `send`, at most one notification, however often it had to be tried.

Every call carries an `Idempotency-Key`, so trying again after a lost answer gives the first answer. What is not stored
(`ttl=0`) can't have one: it is tried again only where it can't have arrived.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import httpx
import msgspec
import stamina

from notify.client.address import authorize, base_url, is_loopback
from notify.client.calls import (
    ATTEMPTS,
    PATIENCE_SECONDS,
    TIMEOUT,
    Call,
    check,
    give_up,
    read_answer,
    write_batch,
    write_call,
    write_event,
    write_notification,
)


class Sent(msgspec.Struct, frozen=True):
    """What the service says of a notification. `recipients` counts each user once."""

    id: UUID
    recipients: int
    created_at: datetime


class BatchSent(msgspec.Struct, frozen=True):
    """What the service says of a batch."""

    ids: list[UUID]


class AsyncClient:
    """Sends as an app, from asyncio. Use it as an async context manager, or call `close`."""

    def __init__(self, url: str, token: str) -> None:
        """Talk to the service at `url` (http or https) with a token that has `notifications:send`.

        Raises BadData for what is no URL or no token.
        """
        self._base = base_url(url)
        self._http = httpx.AsyncClient(
            base_url=self._base, headers=authorize(token), timeout=TIMEOUT, trust_env=not is_loopback(self._base)
        )

    async def send(  # noqa: PLR0913 - one argument a field of the contract
        self,
        to: str | Sequence[str] | None,
        type: str,  # noqa: A002 - the field's name
        data: Any = None,
        *,
        ttl: int | None = None,
        collapse_key: str | None = None,
        deliver_at: datetime | str | None = None,
        undelivered_after: int | None = None,
        topic: str | None = None,
        idempotency_key: str | None = None,
    ) -> Sent:
        """Send one notification; returns once it is stored.

        `to` is a user or several; None with a `topic`. `data` is anything JSON can hold, or bytes. `ttl` in seconds
        (0: whoever is connected now, or nobody). The app's webhook is told who has not got it after `undelivered_after`
        seconds. Calls with the same `idempotency_key` and content count as one, for 24 hours; by default each call has a
        key of its own.
        Raises BadData, Refused, and Unreachable after half a minute of trying.
        """
        item = write_notification(
            to,
            type,
            data,
            ttl=ttl,
            collapse_key=collapse_key,
            deliver_at=deliver_at,
            undelivered_after=undelivered_after,
            topic=topic,
        )
        return read_answer(await self._post(write_call(item, idempotency_key)), Sent)

    async def send_event(self, event: Mapping[str, Any]) -> Sent:
        """Send a CloudEvent 1.0 to the user who is its `subject`; returns once it is stored.

        `specversion`, and an `id` where there is none, are added. `data` is anything JSON can hold, or bytes. The same
        `source` and `id` count as one event for 24 hours. Raises BadData, Refused, Unreachable.
        """
        return read_answer(await self._post(write_event(event)), Sent)

    async def send_batch(
        self, notifications: Iterable[Mapping[str, Any]], *, idempotency_key: str | None = None
    ) -> list[UUID]:
        """Send up to 1,000 notifications, all or none; returns their ids in order.

        Each is a mapping with arguments of `send`. Raises BadData, Refused, Unreachable.
        """
        return read_answer(await self._post(write_batch(notifications, idempotency_key)), BatchSent).ids

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self.close()

    async def _post(self, call: Call) -> httpx.Response:
        try:
            async for attempt in stamina.retry_context(call.pause, attempts=ATTEMPTS, timeout=PATIENCE_SECONDS):
                with attempt:
                    response = await self._http.post(call.path, content=call.body, headers=call.headers)
                    check(response)
        except httpx.HTTPError as error:
            raise give_up(error, self._base, call) from error
        return response


class Client:
    """The same without asyncio. Threads may share one."""

    def __init__(self, url: str, token: str) -> None:
        """See AsyncClient."""
        self._base = base_url(url)
        self._http = httpx.Client(
            base_url=self._base, headers=authorize(token), timeout=TIMEOUT, trust_env=not is_loopback(self._base)
        )

    def send(  # noqa: PLR0913 - one argument a field of the contract
        self,
        to: str | Sequence[str] | None,
        type: str,  # noqa: A002 - the field's name
        data: Any = None,
        *,
        ttl: int | None = None,
        collapse_key: str | None = None,
        deliver_at: datetime | str | None = None,
        undelivered_after: int | None = None,
        topic: str | None = None,
        idempotency_key: str | None = None,
    ) -> Sent:
        """Send one notification; see AsyncClient.send."""
        item = write_notification(
            to,
            type,
            data,
            ttl=ttl,
            collapse_key=collapse_key,
            deliver_at=deliver_at,
            undelivered_after=undelivered_after,
            topic=topic,
        )
        return read_answer(self._post(write_call(item, idempotency_key)), Sent)

    def send_event(self, event: Mapping[str, Any]) -> Sent:
        """Send a CloudEvent; see AsyncClient.send_event."""
        return read_answer(self._post(write_event(event)), Sent)

    def send_batch(
        self, notifications: Iterable[Mapping[str, Any]], *, idempotency_key: str | None = None
    ) -> list[UUID]:
        """Send up to 1,000 notifications, all or none; see AsyncClient.send_batch."""
        return read_answer(self._post(write_batch(notifications, idempotency_key)), BatchSent).ids

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def _post(self, call: Call) -> httpx.Response:
        try:
            for attempt in stamina.retry_context(call.pause, attempts=ATTEMPTS, timeout=PATIENCE_SECONDS):
                with attempt:
                    response = self._http.post(call.path, content=call.body, headers=call.headers)
                    check(response)
        except httpx.HTTPError as error:
            raise give_up(error, self._base, call) from error
        return response
