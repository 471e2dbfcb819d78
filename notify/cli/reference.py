"""`notify openapi`: writes the machine-readable contract again."""

from pathlib import Path

import rich_click as click

from notify.openapi import write


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False), default=Path("openapi"))
def openapi(directory: Path) -> None:
    """Write openapi.yaml, asyncapi.yaml and problems.md into DIRECTORY (openapi/ by default), out of the code."""
    for path in write(directory):
        click.echo(path)
