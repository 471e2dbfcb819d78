"""Documents as YAML that a person can read: in the order they were built, long text in blocks, nothing by alias."""

from collections.abc import Mapping
from typing import Any

import yaml

WIDTH = 120  # characters of a line


class _Dumper(yaml.SafeDumper):
    """The safe dumper, with our taste."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the dumper's interface
        """Write everything out where it belongs: an alias is short, and hard to follow."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - the dumper's interface
        """Indent lists below their key."""
        super().increase_indent(flow, False)  # noqa: FBT003 - the dumper's interface


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else (">" if len(text) > WIDTH // 2 and " " in text else None)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def write_yaml(document: Mapping[str, Any]) -> str:
    """Return a document as YAML."""
    written: str = yaml.dump(
        dict(document), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH, default_flow_style=False
    )
    return written
