"""Writes openapi/: the contract in machine-readable form, out of the code.

Keeps the promise that what is published is what runs: the documents are built from the routes, structs, frames and
problems themselves, and a test fails when a written file says anything else.
"""

from pathlib import Path

from notify.api.reference.problems import write_problems
from notify.api.reference.rest import build_openapi
from notify.api.reference.socket import build_asyncapi
from notify.api.reference.text import write_yaml
from notify.app import Application
from notify.settings import Settings

HEADER = "# Written by `notify openapi` from the code. Don't edit it here.\n"


def render() -> dict[str, str]:
    """Return the name and the text of every file of openapi/. Needs neither a database nor a key."""
    # model_construct() takes the defaults and leaves the environment alone: the contract is the same everywhere.
    application = Application(Settings.model_construct())
    return {
        "openapi.yaml": HEADER + write_yaml(build_openapi(application.web)),
        "asyncapi.yaml": HEADER + write_yaml(build_asyncapi()),
        "problems.md": write_problems(),
    }


def write(directory: Path) -> list[Path]:
    """Write the files into `directory`, which is made when it isn't there, and return their paths. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for name, text in render().items():
        path = directory / name
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths
