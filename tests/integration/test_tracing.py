"""Traces: what a request's trace leads to, nothing where nobody asked, and an exporter that really exports."""

import asyncio
import gzip
import os
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from notify import tracing
from tests.cloudevents import TRACE, event, post
from tests.service import Service, ServiceProcess, until

BODY = {"to": "alice", "type": "t", "data": "a secret"}


class Spans:
    """The spans of a test."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def find(self, name: str) -> list[ReadableSpan]:
        """Return those of a name, in the order in which they ended."""
        return [span for span in self._exporter.get_finished_spans() if span.name == f"notify {name}"]

    def all(self) -> list[ReadableSpan]:
        """Return every span there is."""
        return list(self._exporter.get_finished_spans())


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """Trace into memory."""
    spans = Spans()
    monkeypatch.setattr(tracing, "active", tracing.Tracer(spans.provider))
    yield spans
    spans.provider.shutdown()


def links_of(span: ReadableSpan) -> set[str]:
    """Return the spans that one is linked to."""
    return {f"{link.context.span_id:016x}" for link in span.links}


def name_of(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return f"{context.span_id:016x}"


async def test_a_send_goes_on_in_the_trace_of_its_request_and_the_frame_in_that_of_the_send(
    service: Service, spans: Spans
) -> None:
    async with service.connect("alice") as alice:
        await service.post(BODY, traceparent=TRACE)
        [frame] = await alice.take_notifications(1)
        await alice.ack(frame["seq"])
        await service.wait_for_acks()
        await until(lambda: bool(spans.find("ack")))
    [send], [deposit], [deliver], [ack] = (spans.find(name) for name in ("send", "deposit", "deliver", "ack"))
    assert send.parent is not None
    assert (f"{send.context.trace_id:032x}", f"{send.parent.span_id:016x}") == tuple(TRACE.split("-")[1:3])
    assert (send.kind, deliver.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert frame["traceparent"] == f"00-{TRACE.split('-')[1]}-{name_of(send)}-01"
    assert links_of(deposit) == links_of(deliver) == {name_of(send)}
    assert (send.start_time or 0) <= (deposit.start_time or 0) < (deposit.end_time or 0) <= (send.end_time or 0)
    assert deliver.attributes == {"notify.notification": frame["id"], "notify.seq": frame["seq"]}
    assert ack.attributes == {"notify.cursors": 1}
    told = "".join(span.to_json() for span in spans.all())
    assert "alice" not in told
    assert "secret" not in told


async def test_a_request_without_a_trace_begins_one_and_an_unsampled_one_stays_so(
    service: Service, spans: Spans
) -> None:
    unsampled = TRACE[:-2] + "00"
    async with service.connect("alice") as alice:
        await service.post(BODY)
        await service.post(BODY, traceparent=unsampled)
        await post(service, event(traceparent=TRACE))
        frames = await alice.take_notifications(3)
    [first, second] = spans.find("send")
    assert first.parent is None
    assert frames[0]["traceparent"].split("-")[2] == name_of(first)
    assert frames[1]["traceparent"] == unsampled
    assert frames[2]["traceparent"] == TRACE  # an event's own trace is part of it
    assert [links_of(span) for span in spans.find("deliver")] == [{name_of(first)}, {TRACE.split("-")[2]}]
    assert second.parent is None


async def test_a_refusal_says_so_and_is_no_fault(service: Service, spans: Spans) -> None:
    assert (await service.post({"to": ""})).status_code == 400
    [send] = spans.find("send")
    assert send.attributes == {"notify.app": "shop", "error.type": "invalid-request"}
    assert send.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "notify"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, False),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False),
    ],
)
def test_traces_are_made_only_where_opentelemetrys_variables_ask_for_them(
    environment: Mapping[str, str], *, wanted: bool
) -> None:
    assert tracing.is_wanted(environment) is wanted


class Collector:
    """What OTLP over HTTP is sent to."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.services: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.take(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_arguments: Any) -> None:
                """Stay quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def take(self, body: bytes) -> None:
        """Remember what was exported."""
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.services |= {a.value.string_value for a in resource.resource.attributes if a.key == "service.name"}
            self.names += [span.name for scope in resource.scope_spans for span in scope.spans]


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    """Listen for exports."""
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield collector
    await asyncio.to_thread(collector.server.shutdown)
    thread.join()
    collector.server.server_close()


async def test_a_process_exports_what_it_did_when_it_leaves(
    database_url: str, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server.server_port}")
    async with ServiceProcess(database_url) as process:
        assert [line["event"] for line in process.events("tracing.started")] == ["tracing.started"]
        assert (await process.post(BODY)).status_code == 201
        assert await process.terminate() == 0
    assert set(collector.names) == {"notify send", "notify deposit"}
    assert collector.services == {"notify"}
