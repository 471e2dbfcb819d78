"""The socket to accept on, and how many connections there may be."""

import resource
import socket

import pytest

from notify.errors import ConfigurationError
from notify.server import open_listener, raise_file_limit


def test_a_port_that_is_taken_is_reported_in_the_operators_words() -> None:
    with open_listener("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port}.*--port"):
            open_listener("127.0.0.1", port)


def test_a_host_that_is_none_is_reported() -> None:
    with pytest.raises(ConfigurationError, match="can't listen on"):
        open_listener("256.256.256.256", 8000)


def test_a_connection_inherits_the_timeout_for_peers_that_vanish() -> None:
    with open_listener("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()) as _client:
        listener.setblocking(True)  # noqa: FBT003 - how the standard library has it
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_the_file_limit_goes_as_far_up_as_it_can() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
        assert raise_file_limit() == (min(hard, 1024 * 1024) if hard != resource.RLIM_INFINITY else 1024 * 1024)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
