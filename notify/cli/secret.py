"""The JWT secret that `notify dev` makes for itself, so that its tokens outlive a restart."""

import secrets
from pathlib import Path

from notify.errors import ConfigurationError

FILE = "jwt-secret"
SECRET_BYTES = 32  # of randomness; as many as HS256's hash has (RFC 7518, section 3.2)


def find_secret(data_dir: Path) -> str | None:
    """Return the secret kept in `data_dir`; None when there is none. Raises ConfigurationError."""
    path = data_dir.expanduser() / FILE
    try:
        return path.read_text(encoding="ascii").strip() or None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} can't be read: {error}") from None


def keep_secret(data_dir: Path) -> str:
    """Return the secret kept in `data_dir`, made if there is none yet. Only its owner can read the file.

    Raises ConfigurationError.
    """
    if (known := find_secret(data_dir)) is not None:
        return known
    made = secrets.token_urlsafe(SECRET_BYTES)
    path = data_dir.expanduser() / FILE
    # Written aside and renamed: a crash in between leaves no half of a secret behind.
    draft = path.with_suffix(".new")
    try:
        draft.unlink(missing_ok=True)
        draft.touch(mode=0o600, exist_ok=False)
        draft.write_text(made + "\n", encoding="ascii")
        draft.rename(path)
    except OSError as error:
        raise ConfigurationError(f"{path} can't be written: {error.strerror}") from None
    return made
