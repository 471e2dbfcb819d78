"""`notify token`: mints what the service will believe, with the secret or key of whoever runs it."""

from pathlib import Path

import rich_click as click

from notify.auth import mint, mint_with_key
from notify.cli.configuration import DATA_DIR, read_settings
from notify.cli.secret import find_secret
from notify.errors import ConfigurationError
from notify.settings import Settings, read_pem


@click.command()
@click.option("--sub", "subject", required=True, metavar="NAME", help="Whose token: a user's or an app's id.")
@click.option(
    "--scope", default="", help="What it may do, separated by spaces: notifications:send, queues:read, queues:write."
)
@click.option("--ttl", default=3600, show_default=True, type=click.IntRange(min=1), help="Seconds that it is valid.")
@click.option(
    "--data-dir", type=click.Path(path_type=Path, file_okay=False), default=DATA_DIR, show_default=True,
    help="Where `notify dev` keeps the secret that is used when none is configured.",
)  # fmt: skip
def token(subject: str, scope: str, ttl: int, data_dir: Path) -> None:
    """Mint a token and print it.

    Signs with the first of NOTIFY_JWT_SECRET, with NOTIFY_JWT_PRIVATE_KEY, or with the secret of `notify dev`.
    """
    settings = read_settings()
    if not can_mint(settings):
        secret = find_secret(data_dir)
        if secret is None:
            raise ConfigurationError(
                "nothing to sign with: NOTIFY_JWT_SECRET and NOTIFY_JWT_PRIVATE_KEY are not set, "
                f"and `notify dev` has left no secret in {data_dir}"
            )
        settings = read_settings(jwt_secret=[secret])
    click.echo(mint_from(settings, subject=subject, scope=scope, ttl=ttl))


def can_mint(settings: Settings) -> bool:
    """Tell whether the settings have anything to sign with."""
    return bool(settings.jwt_secret or settings.jwt_private_key)


def mint_from(settings: Settings, *, subject: str, scope: str = "", ttl: int) -> str:
    """Mint with what the settings have; the secret comes first. Raises ConfigurationError, InvalidToken."""
    issuer, audience = settings.jwt_issuer, settings.jwt_audience
    if settings.jwt_secret:
        secret = settings.jwt_secret[0].get_secret_value()
        return mint(secret, subject=subject, scope=scope, ttl=ttl, issuer=issuer, audience=audience)
    try:
        pem = read_pem(settings.jwt_private_key)
    except (OSError, ValueError):
        raise ConfigurationError("NOTIFY_JWT_PRIVATE_KEY is neither PEM nor a file to read") from None
    return mint_with_key(pem, subject=subject, scope=scope, ttl=ttl, issuer=issuer, audience=audience)
