"""What Prometheus reads at /metrics: this process's counters, named by its conventions.

Keeps the promise that a metric never holds a user, a token or a payload: labels are lanes, kinds, codes and statuses, all
from short fixed lists (https://prometheus.io/docs/practices/naming/).
"""

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from notify.tallies import Tally, Timings

disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no types. When each was made: as many series again, which nobody reads

BATCH_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)
"""Items of a statement."""

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Seconds."""

ACCEPTED = Tally("notify_notifications_accepted", "Notifications stored or passed on, each once.")
RECIPIENTS = Tally("notify_recipients_accepted", "Their recipients.")
REFUSED = Counter("notify_requests_refused", "Requests answered with an error.", ["status"])
DELIVERED = Tally("notify_notifications_delivered", "Notifications written to a session, replays included.")
REPLAYED = Tally("notify_notifications_replayed", "Of those, what came before the session had caught up.")
ACKNOWLEDGED = Tally("notify_entries_acknowledged", "Entries that a device acknowledged.")
LATENCY = Timings("notify_delivery_seconds", "From acceptance to a session that had caught up.", LATENCY_BUCKETS)
ACK_LATENCY = Timings(
    "notify_acknowledgement_seconds",
    "From acceptance to the acknowledgement of a device that had caught up.",
    LATENCY_BUCKETS,
)
PENDING = Gauge(
    "notify_pending_notifications",
    "Recipients whose notification no device has acknowledged; of all mailboxes, so every process says the same.",
)
PENDING_MAILBOXES = Gauge("notify_pending_mailboxes", "Mailboxes with anything pending; every process says the same.")
LET_GO = Counter(
    "notify_truncated_notifications",
    "Pending notifications that went because a mailbox was full; every process counts the same.",
)
TRUNCATED = Counter("notify_truncated_frames", "Sessions told that something is gone for good.")
UNREADABLE = Counter("notify_unreadable_entries", "Entries skipped because no codec can encode them.")
OPENED = Counter("notify_sessions_opened", "Sessions opened.")
CLOSED = Counter("notify_sessions_closed", "Sessions that the service closed, by the code that it sent.", ["code"])
SOCKETS_REFUSED = Counter(
    "notify_sockets_refused",
    "WebSockets that got no session, by the close code, or 503 before the handshake.",
    ["code"],
)
SESSIONS = Gauge("notify_sessions", "Sessions open at this moment.")
BATCH_ITEMS = Histogram("notify_batch_items", "Items that went out in one statement.", ["lane"], buckets=BATCH_BUCKETS)
BATCH_SECONDS = Histogram("notify_batch_seconds", "How long a statement took.", ["lane"], buckets=LATENCY_BUCKETS)
WAITING = Gauge("notify_lane_waiting", "Items accepted into a lane and not yet answered.", ["lane"])
BRIDGE_LAG = Gauge("notify_bridge_lag_seconds", "How long the last heartbeat took through LISTEN.")
BRIDGE_UP = Gauge("notify_bridge_up", "1 while the LISTEN link works.")
BRIDGE_RECONNECTS = Counter("notify_bridge_reconnects", "Times the LISTEN link had to be made anew.")
OLDEST_TRANSACTION = Gauge(
    "notify_oldest_transaction_seconds", "Age of the oldest transaction left open: what it sent waits for its commit."
)
DEADLINES = Counter(
    "notify_deadlines_passed",
    "Notifications whose `undelivered_after` passed: called, settled, unwanted (no webhook) or dropped (too many wait).",
    ["result"],
)
WEBHOOK_CALLS = Counter(
    "notify_webhook_calls", "Attempts at webhooks: taken (2xx), refused, unreachable or forbidden.", ["result"]
)
WEBHOOK_GIVEN_UP = Counter(
    "notify_webhook_calls_given_up", "Calls that nobody took for a day, or whose receiver is gone."
)
WAITING_CALLS = Gauge("notify_webhook_calls_waiting", "Calls not taken yet, of all apps; every process says the same.")

PUSHES = Counter("notify_push", "Requests to push services, by how they ended.", ["result"])


def render() -> tuple[bytes, str]:
    """Return all of it as text, and its media type."""
    return generate_latest(REGISTRY), CONTENT_TYPE_LATEST
