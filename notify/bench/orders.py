"""What the command tells its loader processes to do. Plain data: it crosses a pipe."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """Where the load goes. `address` and `port` are what to connect to, `host` what the Host header says."""

    address: str
    port: int
    host: str
    tls: bool
    secret: str
    """Mints the tokens of users and of the sending app."""
    issuer: str
    audience: str


@dataclass(frozen=True, slots=True)
class Shape:
    """One loader's share. It sends to its own users only, so that one process sees both ends of every notification."""

    users: tuple[str, ...]
    payload_bytes: int
    path: str = "/v1/ws?device=bench"
    token: bool = True


@dataclass(frozen=True, slots=True)
class Connect:
    """Connect the first `count` users that are not connected, at most `at_once` handshakes in flight."""

    count: int
    at_once: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Cut the connections of the first `count` users."""

    count: int


@dataclass(frozen=True, slots=True)
class Pace:
    """Send at a fixed rate (a second), whatever the answers; `start` in seconds of the monotonic clock."""

    rate: float
    seconds: float
    start: float
    path: str = "/v1/notifications"


@dataclass(frozen=True, slots=True)
class Press:
    """Send as fast as answers come: `connections`, each with one request of `batch` notifications in flight."""

    connections: int
    batch: int
    seconds: float
    path: str = "/v1/notifications"


@dataclass(frozen=True, slots=True)
class Queue:
    """Store `each` notifications for each of the first `count` users, none of whom is connected."""

    count: int
    each: int


@dataclass(frozen=True, slots=True)
class Fill:
    """Store `pending` notifications for users who never come, `each` for each of them."""

    pending: int
    each: int


@dataclass(frozen=True, slots=True)
class Return:
    """Reconnect the first `count` users, at most `at_once` handshakes in flight, and wait for what `Queue` stored."""

    count: int
    at_once: int


@dataclass(frozen=True, slots=True)
class Watch:
    """POST to `path`, which makes a floor server push, and count the sockets' text frames until there are `frames`."""

    frames: int
    path: str


Order = Connect | Drop | Fill | Pace | Press | Queue | Return | Watch
