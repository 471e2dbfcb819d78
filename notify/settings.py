"""Every knob of the service: its name, its unit, its default.

Each field is the environment variable `NOTIFY_` + its name in capitals; a `.env` file in the working directory is
read too. Anything that has a limit in the service has its number here, so an operator can see all of them at once.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

KIB = 1024
MIB = 1024 * KIB
DAY = 86_400  # seconds


def split_list(value: object) -> object:
    """Turn "a, b" into ["a", "b"], so that a list needs no JSON in the environment."""
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    return value


class Settings(BaseSettings):
    """What an operator can set. Immutable once read."""

    model_config = SettingsConfigDict(env_prefix="NOTIFY_", env_file=".env", extra="ignore", frozen=True)

    database_url: str = Field(default="", description="PostgreSQL 15 or newer, as a libpq URL.")
    listen_url: str = Field(
        default="",
        description="A direct connection for LISTEN, when the first goes through a pooler; by default the same.",
    )

    jwt_secret: Annotated[list[SecretStr], NoDecode] = Field(
        default=[], description="HS256 secrets, comma-separated while rotating; the first one mints."
    )
    jwt_public_key: str = Field(default="", description="A PEM public key (RSA, EC P-256 or Ed25519), or its path.")
    jwt_jwks_url: str = Field(default="", description="A JWKS document: an https, http or file URL.")
    jwt_issuer: str = Field(default="", description="The `iss` every token must carry; unchecked when empty.")
    jwt_audience: str = Field(default="", description="The `aud` every token must carry; unchecked when empty.")
    jwt_private_key: str = Field(
        default="", description="A PEM private key, or its path, for `notify token` alone; the service never reads it."
    )

    allowed_origins: Annotated[list[str], NoDecode] = Field(
        default=[], description="Browser origins that may connect, comma-separated, or `*`; the same origin always may."
    )
    trusted_proxies: Annotated[list[str], NoDecode] = Field(
        default=[], description="Addresses or networks whose forwarded headers count, comma-separated."
    )

    retention: int = Field(default=30 * DAY, ge=60, description="Seconds a stored notification is kept.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least level logged."
    )
    log_format: Literal["json", "console"] = Field(default="json", description="How a log line is written.")

    max_data_bytes: int = Field(default=64 * KIB, ge=1, description="Bytes of one notification's encoded `data`.")
    max_body_bytes: int = Field(default=8 * MIB, ge=KIB, description="Bytes of one request body.")
    max_recipients: int = Field(
        default=10_000, ge=1, description="Recipients of one request, a batch's all together and topics expanded."
    )
    max_batch: int = Field(default=1_000, ge=1, description="Notifications in one batch.")
    max_pending: int = Field(default=10_000, ge=1, description="Entries a mailbox keeps that no device acknowledged.")
    max_sessions: int = Field(default=16, ge=1, description="Open sessions of one user; beyond it the oldest goes.")
    max_unacked: int = Field(default=1_000, ge=1, description="Entries sent to a session and not yet acknowledged.")
    max_unacked_bytes: int = Field(default=MIB, ge=64 * KIB, description="The same, in bytes of frames.")
    max_devices: int = Field(default=32, ge=1, description="Devices of one user; beyond it the longest unseen goes.")
    max_connections: int = Field(
        default=0, ge=0, description="Connections of a process; 0 takes 80 % of its file limit, which it raises."
    )
    max_pending_auth: int = Field(default=1_000, ge=1, description="Sockets of a process not yet authenticated.")
    max_frame_bytes: int = Field(default=16 * KIB, ge=KIB, description="Bytes of one inbound frame.")
    auth_timeout: float = Field(default=10.0, gt=0, description="Seconds a socket has to authenticate.")
    ping_interval: float = Field(default=25.0, gt=0, description="Seconds of silence before a `ping` frame.")
    send_rate: float = Field(
        default=0.0, ge=0, description="Recipients a second a producer may address in one process; 0 is no limit."
    )
    vapid_private_key: SecretStr = Field(
        default=SecretStr(""),
        description="Web Push key: EC P-256 in base64url, a PEM or its path; by default made once and kept in the database.",
    )
    vapid_subject: str = Field(
        default="", description="Whom push services may write to: `mailto:…` or `https://…`; some insist on it."
    )
    webhook_allow_private: bool = Field(
        default=False,
        description="Let webhooks and push endpoints be inside, over plain http too: for development and tests.",
    )
    database_connections: int = Field(default=12, ge=2, le=100, description="Pool connections of a process.")
    drain_seconds: float = Field(default=5.0, ge=0, le=8, description="Seconds over which a drain spreads goodbyes.")

    @field_validator("jwt_secret", "allowed_origins", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return split_list(value)

    @field_validator("vapid_subject")
    @classmethod
    def _check_subject(cls, value: str) -> str:
        if value and not value.startswith(("mailto:", "https://")):
            raise ValueError("NOTIFY_VAPID_SUBJECT begins with mailto: or https://")
        return value

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        if self.jwt_jwks_url and not (self.jwt_issuer or self.jwt_audience):
            raise ValueError("NOTIFY_JWT_JWKS_URL needs NOTIFY_JWT_ISSUER or NOTIFY_JWT_AUDIENCE beside it")
        return self

    @property
    def listener_url(self) -> str:
        """Where the bridge connects: direct, past any pooler."""
        return self.listen_url or self.database_url

    @property
    def has_key(self) -> bool:
        """Whether any token could be verified at all."""
        return bool(self.jwt_secret or self.jwt_public_key or self.jwt_jwks_url)


def read_pem(value: str) -> str:
    """Return the PEM text that `value` is, or that the file it names holds.

    Raises OSError when it is neither.
    """
    return value.replace("\\n", "\n") if "-----BEGIN" in value else Path(value).expanduser().read_text()
