"""Settings as the commands read them: a mistake in one is told by the name of its variable, without its value."""

from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from notify.cli.secret import keep_secret
from notify.errors import ConfigurationError
from notify.settings import Settings

DATA_DIR = Path(".notify")
"""Where `notify dev` keeps its data unless told otherwise, under the working directory."""

DATABASE = "notify"
"""What `notify dev` calls its database."""


class ClientSettings(BaseSettings):
    """What client commands read. The token is never an option: a command line is there for everyone to see."""

    model_config = SettingsConfigDict(env_prefix="NOTIFY_", env_file=".env", extra="ignore", frozen=True)

    url: str = Field(default="http://127.0.0.1:8000", description="Where the service is.")
    token: SecretStr = Field(default=SecretStr(""), description="Who is calling: what `notify token` prints.")


def read_settings(**overrides: Any) -> Settings:
    """Return the settings of the environment and `.env`, with `overrides`. Raises ConfigurationError."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise ConfigurationError(explain(error)) from None


def complete(settings: Settings, url: str, data_dir: Path) -> Settings:
    """Return the settings with the embedded database, and with a secret kept in `data_dir` if there is no key.

    Raises ConfigurationError.
    """
    additions: dict[str, object] = {"database_url": url, "listen_url": ""}
    if not settings.has_key:
        additions["jwt_secret"] = [keep_secret(data_dir)]
    return read_settings(**additions)


def read_client_settings() -> tuple[str, str]:
    """Return the service's URL and the token. Raises ConfigurationError when there is no token."""
    try:
        settings = ClientSettings()
    except ValidationError as error:
        raise ConfigurationError(explain(error)) from None
    if not settings.token.get_secret_value():
        raise ConfigurationError("NOTIFY_TOKEN is not set: NOTIFY_TOKEN=$(notify token --sub NAME) makes one")
    return settings.url, settings.token.get_secret_value().strip()


def explain(error: ValidationError) -> str:
    """Name each bad setting and what is wrong with it."""
    parts = []
    for wrong in error.errors(include_url=False, include_context=False, include_input=False):
        name = f"NOTIFY_{str(wrong['loc'][0]).upper()}: " if wrong["loc"] else ""
        parts.append(f"{name}{wrong['msg'].removeprefix('Value error, ')}")
    return "; ".join(parts)
