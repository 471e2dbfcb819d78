"""Traces for those who ask for them: with the extra `otel` installed and OpenTelemetry's own variables set.

    notify send      POST → commit, in the trace of the request; the frames carry on from it
    notify deposit   one statement that stores many posts, linked to them
    notify deliver   one stored notification written to a session, linked to the send
    notify ack       one statement that moves cursors

Keeps the promise that otherwise it costs nothing: `active` is None, and nothing of OpenTelemetry is imported. Spans hold
ids, seqs, counts and apps; never a user, a token or a payload. Only what belongs to a sampled trace is delivered with a span.

Which variables: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ and the OTLP exporter's
(over HTTP) beside it; sampling, batching, service name and headers are read by the SDK itself.
"""

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from notify import __version__
from notify.context import read_context, read_traceparent
from notify.errors import Problem
from notify.model import Entry

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, SpanContext

log = structlog.get_logger()

MAX_LINKS = 32
"""Sends that a statement's span is linked to: more than are looked at in one trace, fewer than the SDK's limit."""

LAST_SECONDS = 1.0
"""How long the last spans may take to get out when the process leaves."""

SERVER_FAULT = 500
"""The least status that is a fault of the service, and so the span's."""

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
EXPORTER = "OTEL_TRACES_EXPORTER"
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
HTTP = "http/protobuf"
DISABLED = "OTEL_SDK_DISABLED"

_NOTHING = nullcontext()


class Tracer:
    """Makes the spans, out of a provider of OpenTelemetry's."""

    def __init__(self, provider: "TracerProvider") -> None:
        # Here and not above: who does not trace need not have it.
        from opentelemetry import context, trace  # noqa: PLC0415

        self._trace = trace
        self._root = context.Context()
        self._tracer = provider.get_tracer("notify", __version__)

    @contextmanager
    def send(self, headers: dict[str, str], app: str) -> Iterator[None]:
        """Span the handling of a request to send, in the trace that its headers tell of; they lead to the span from then on."""
        trace, parent = self._trace, self._find(read_traceparent(headers.get("traceparent")), sampled=False)
        above = trace.set_span_in_context(trace.NonRecordingSpan(parent), self._root) if parent else self._root
        span = self._tracer.start_span(
            "notify send", above, kind=trace.SpanKind.PRODUCER, attributes={"notify.app": app}
        )
        own = span.get_span_context()
        if own.trace_flags.sampled:
            headers["traceparent"] = f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"
        try:
            yield
        except Exception as error:
            status = error.status if isinstance(error, Problem) else SERVER_FAULT
            span.set_attribute("error.type", error.slug if isinstance(error, Problem) else type(error).__name__)
            if status >= SERVER_FAULT:
                span.set_status(trace.StatusCode.ERROR)
            raise
        finally:
            span.end()

    @contextmanager
    def deposit(self, contexts: Sequence[str | None]) -> Iterator[None]:
        """Span the storing of notifications with these contexts, if any of them belongs to a sampled trace."""
        found = {context: None for context in contexts if context is not None}  # a batch shares one
        links = [link for context in found if (link := self._find(read_context(context).traceparent))][:MAX_LINKS]
        if not links:
            yield
            return
        attributes = {"notify.notifications": len(contexts)}
        with self._end(self._start("notify deposit", links, attributes)):
            yield

    def deliver(self, context: str, notification: UUID | None, seq: int, seconds: float) -> None:
        """Span a frame that was written in the last `seconds`, if its notification belongs to a sampled trace."""
        if (link := self._find(read_context(context).traceparent)) is not None:
            attributes: Mapping[str, str | int] = {"notify.notification": str(notification), "notify.seq": seq}
            self._start("notify deliver", [link], attributes, time.time_ns() - int(seconds * 1e9)).end()

    def ack(self, cursors: int) -> AbstractContextManager[None]:
        """Span the writing down of acknowledgements."""
        return self._end(self._start("notify ack", (), {"notify.cursors": cursors}))

    def _start(
        self, name: str, links: Sequence["SpanContext"], attributes: Mapping[str, str | int], began: int | None = None
    ) -> "Span":
        trace = self._trace
        return self._tracer.start_span(
            name,
            self._root,
            kind=trace.SpanKind.CONSUMER if name == "notify deliver" else trace.SpanKind.INTERNAL,
            links=[trace.Link(link) for link in links],
            attributes=attributes,
            start_time=began,
        )

    @contextmanager
    def _end(self, span: "Span") -> Iterator[None]:
        try:
            yield
        except Exception as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(self._trace.StatusCode.ERROR)
            raise
        finally:
            span.end()

    def _find(self, traceparent: str | None, *, sampled: bool = True) -> "SpanContext | None":
        """Return the span that a valid traceparent names; with `sampled` only if its trace is."""
        if traceparent is None:
            return None
        _version, trace_id, span_id, flags = traceparent.split("-")
        found = self._trace.SpanContext(
            int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=self._trace.TraceFlags(int(flags, 16))
        )
        return None if sampled and not found.trace_flags.sampled else found


active: Tracer | None = None
"""What makes the spans of this process; None while nobody asked for any."""


def spanning_deposit(contexts: Sequence[str | None]) -> AbstractContextManager[None]:
    """Return the span of storing notifications, or nothing."""
    return _NOTHING if active is None else active.deposit(contexts)


def spanning_ack(cursors: int) -> AbstractContextManager[None]:
    """Return the span of writing down acknowledgements, or nothing."""
    return _NOTHING if active is None else active.ack(cursors)


def trace_delivery(entry: Entry, took: float) -> None:
    """Tell of an entry that was written to a socket in so many seconds, if it belongs to a trace and anybody traces."""
    if active is not None and entry.context is not None:
        active.deliver(entry.context, entry.notification_id, entry.seq, took)


@contextmanager
def tracing() -> Iterator[None]:
    """Trace until the end of the block, if the environment asks for it."""
    global active  # noqa: PLW0603 - one a process, as its metrics
    provider = build_provider() if is_wanted(os.environ) else None
    if provider is None:
        yield
        return
    active = Tracer(provider)
    log.info("tracing.started")
    try:
        yield
    finally:
        active = None
        # A thread that nobody waits for: a collector that doesn't answer must not hold up the process.
        last = threading.Thread(target=provider.shutdown, daemon=True, name="tracing shutdown")
        last.start()
        last.join(LAST_SECONDS)


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's variables ask for traces; what they ask for and this can't do is logged."""
    exporter = environment.get(EXPORTER, "")
    if environment.get(DISABLED, "").lower() == "true" or exporter == "none":
        return False
    if not exporter and not any(environment.get(name) for name in ENDPOINTS):
        return False
    protocol = next(filter(None, map(environment.get, PROTOCOLS)), HTTP)
    if exporter not in {"", "otlp"} or protocol != HTTP:
        log.warning("tracing.unavailable", reason=f"only the exporter otlp over {HTTP} is supported")
        return False
    return True


def build_provider() -> "TracerProvider | None":
    """Return what exports as the environment says; None, and a line in the log, without the extra."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - as above
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        log.warning("tracing.unavailable", reason="OTEL_* asks for traces: install notify-service[otel]")
        return None
    named = {} if "OTEL_SERVICE_NAME" in os.environ else {SERVICE_NAME: "notify"}
    provider = TracerProvider(resource=Resource.create({**named, SERVICE_VERSION: __version__}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
