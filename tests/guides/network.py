"""A network of a test's own: every port is free in it, so that guides and proxies use theirs as they are written.

Linux only: a network namespace for the calling thread and whatever it starts (network_namespaces(7)). That needs root.
"""

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

CLONE_NEWNET = 0x40000000  # <linux/sched.h>
SIOCSIFFLAGS = 0x8914  # <linux/sockios.h>
IFF_UP = 1  # netdevice(7)

LIBC = ctypes.CDLL(None, use_errno=True)


@contextmanager
def own_network() -> Iterator[None]:
    """Be in a network of nothing but a loopback device. Raises PermissionError where that is not allowed."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        call(LIBC.unshare(CLONE_NEWNET))
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
                fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
            yield
        finally:
            call(LIBC.setns(home, CLONE_NEWNET))
    finally:
        os.close(home)


def call(result: int) -> None:
    """Raise what a call into the C library says went wrong."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
