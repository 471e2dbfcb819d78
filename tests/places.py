"""Where throw-away servers live."""

import os
import shutil
from pathlib import Path

MEMORY = Path("/dev/shm")  # noqa: S108 - only directories of our own in it are used
DISK = Path("/tmp")  # noqa: S108 - the same

ROOM_BYTES = 2 * 1024**3
"""What the databases of a whole run need at most, several times over."""


def choose_place() -> Path:
    """Return where a throw-away server may live: in memory where there is room, since a database is 300 files.

    Not under tmp_path: a unix socket's path has at most 107 bytes.
    """
    roomy = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM_BYTES
    return MEMORY if roomy else DISK
