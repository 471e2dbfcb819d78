"""Sending CloudEvents: the sending paths with the media types of events.

Keeps the promise that an event is sent once, however often it is posted within 24 hours: alone, in a batch, or in
another batch beside events that are new.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
from litestar.di import NamedDependency

from notify.api.answers import answer
from notify.api.events import (
    HEADER,
    MEDIA_EVENT,
    MEDIA_EVENTS,
    Event,
    EventReader,
    place_in_event,
    place_in_headers,
    relocate,
)
from notify.api.producers import (
    REPLAYED,
    BatchSent,
    Handle,
    Incoming,
    Send,
    Sending,
    Stored,
    answer_sent,
    are_momentary,
    count_recipients,
)
from notify.api.services import Services
from notify.context import read_traceparent
from notify.errors import FieldError, InFlight, InvalidRequest, KeyReused
from notify.model import Notification
from notify.store.database import KeyTaken
from notify.store.notifications import Answer
from notify.store.sends import Claim, Post

MEDIA_HEADERS = "any beside a ce-specversion header"
"""Stands among the media types for binary mode, whose Content-Type is the data's and may be any."""

MARK = f"{HEADER}specversion"
"""The header that says that a request is an event in binary mode."""

MAX_ROUNDS = 3
"""How often a post is tried whose events were sent by somebody else in the meantime: each time there are fewer left."""


class Work(NamedTuple):
    """An event that was not sent before, and the notification that it becomes. `place` is its own among all posted."""

    place: int
    event: Event
    notification: Notification


class EventSending(Sending):
    """The two sending paths, for events as well."""

    def __init__(self, services: NamedDependency[Services]) -> None:
        super().__init__(services)
        self._ones |= {
            MEDIA_EVENT: self._send_event,
            MEDIA_EVENTS: self._send_events,
            MEDIA_HEADERS: self._send_header_event,
        }
        self._batches |= {MEDIA_EVENTS: self._send_events}

    def _choose(self, headers: Mapping[str, str], handles: Mapping[str, Handle]) -> str:
        if MARK in headers and MEDIA_HEADERS in handles:
            media = headers.get("content-type", "").partition(";")[0].strip().lower()
            if media not in {MEDIA_EVENT, MEDIA_EVENTS}:  # a whole event in the body counts more than headers
                return MEDIA_HEADERS
        return super()._choose(headers, handles)

    async def _send_event(self, incoming: Incoming, send: Send) -> None:
        """Send what is in the body (structured mode)."""
        await self._send_single(incoming, send, self._reader(incoming).read_one(incoming.body))

    async def _send_header_event(self, incoming: Incoming, send: Send) -> None:
        """Send what is in the headers, and its data in the body (binary mode)."""
        event = self._reader(incoming).read_headers(incoming.headers, incoming.body)
        try:
            await self._send_single(incoming, send, event)
        except (InvalidRequest, KeyReused) as error:
            raise relocate(error, place_in_headers) from None

    async def _send_single(self, incoming: Incoming, send: Send, event: Event) -> None:
        try:
            stored = await self._store_events(incoming, [event], [""])
        except InvalidRequest as error:
            raise relocate(error, place_in_event) from None
        if isinstance(stored, list):
            [sent] = await self._broadcast(stored)
            await answer(send, 202, sent)
        else:
            await answer_sent(send, stored)

    async def _send_events(self, incoming: Incoming, send: Send) -> None:
        """Send a batch of events, all or nothing (batched mode)."""
        events = self._reader(incoming).read_batch(incoming.body)
        try:
            stored = await self._store_events(incoming, events, [f"/{place}" for place in range(len(events))])
        except InvalidRequest as error:
            raise relocate(error, place_in_event) from None
        if isinstance(stored, list):
            await answer(send, 202, BatchSent([sent.id for sent in await self._broadcast(stored)]))
        else:
            await answer(send, 201, BatchSent(list(stored.ids)), stored.headers)

    def _reader(self, incoming: Incoming) -> EventReader:
        return EventReader(
            max_batch=self._services.settings.max_batch,
            max_data_bytes=self._services.settings.max_data_bytes,
            traceparent=read_traceparent(incoming.headers.get("traceparent")),
        )

    async def _store_events(
        self, incoming: Incoming, events: Sequence[Event], pointers: Sequence[str]
    ) -> Stored | list[Notification]:
        """Store those events that were not sent before; answer as if all of them were new.

        Returns the notifications themselves when none of them is to be stored (`ttl: 0`).
        """
        known = await self._recall_events(incoming.producer, events, pointers)
        works = await self._check_events(incoming, events, pointers, known)
        notifications = [work.notification for work in works]
        if are_momentary(notifications, ""):
            self._quota.take(incoming.producer, count_recipients(notifications))
            return notifications
        return await self._store_new(incoming.producer, events, pointers, known, works)

    async def _check_events(
        self, incoming: Incoming, events: Sequence[Event], pointers: Sequence[str], known: Mapping[str, Answer]
    ) -> Sequence[Work]:
        """Return the work that new events are: each once, under the same rules as any notification."""
        checker = self._checker(incoming)
        works: dict[str, Work] = {}
        for place, (event, pointer) in enumerate(zip(events, pointers, strict=True)):
            momentary = event.request.ttl == 0  # nothing is stored of it, its key included
            if (event.key in known or event.key in works) and not momentary:
                continue
            notification = await checker.check(event.request, pointer, context=event.context)
            if event.data is not None:
                notification = msgspec.structs.replace(notification, data=event.data, codec=event.codec)
            works[f"{place}" if momentary else event.key] = Work(place, event, notification)
        checker.finish()
        return list(works.values())

    async def _store_new(
        self,
        producer: str,
        events: Sequence[Event],
        pointers: Sequence[str],
        known: dict[str, Answer],
        works: Sequence[Work],
    ) -> Stored:
        store = self._services.store
        headers = REPLAYED
        self._quota.take(producer, count_recipients([work.notification for work in works]))
        for _round in range(MAX_ROUNDS):
            works = [work for work in works if work.event.key not in known]
            if not works:
                break
            notifications = [work.notification for work in works]
            claims = [Claim(work.event.key, work.event.digest, place) for place, work in enumerate(works)]
            try:
                moment = await store.sends.send(Post(notifications, claims))
            except KeyTaken as error:
                if error.in_flight:
                    break
                known |= await self._recall_events(producer, events, pointers)
                continue
            headers = {}
            store.activity.count_send(producer, len(works), count_recipients(notifications))
            for work in works:
                n = work.notification
                known[work.event.key] = Answer(work.event.digest, [n.id], len(n.to), moment)
        if any(event.key not in known for event in events):
            raise InFlight("an event with this source and id is being stored; try again in a moment")
        answers = [known[event.key] for event in events]
        return Stored(
            [identifier for each in answers for identifier in each.ids],
            sum(each.recipients for each in answers),
            answers[0].created_at,
            headers,
        )

    async def _recall_events(
        self, producer: str, events: Sequence[Event], pointers: Sequence[str]
    ) -> dict[str, Answer]:
        """Return what is known of these events by key. Raises KeyReused when one of them was another event."""
        keys = list({event.key for event in events if event.request.ttl != 0})
        if not keys:
            return {}
        found = await self._services.store.notifications.find_answers(producer, keys)
        digests = {key: known.digest for key, known in found.items()}
        for event, pointer in zip(events, pointers, strict=True):
            if digests.setdefault(event.key, event.digest) != event.digest:
                raise KeyReused(
                    f"{pointer or 'the event'}: another event had this source and id in the last 24 hours",
                    errors=[FieldError(f"{pointer}/id", "was used for another event")],
                )
        return dict(found)
