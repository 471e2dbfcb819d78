"""Nothing is left out: each block of each guide is run by a test, or held against what can be run in its place.

By its name the last of these files: it looks at what the others have done in the same run.
"""

import os
import re

import pytest

from notify.cli import root
from tests.guides.conftest import ROOT
from tests.guides.guide import Mark, read_blocks
from tests.guides.reader import FOLLOWED

pytestmark = pytest.mark.docs

GUIDES = sorted((ROOT / "docs").glob("*.md"))
README = ROOT / "README.md"

OF_OTHERS = {
    ("README.md", "bash"): "tests/integration/test_readme.py",
    ("README.md", "json"): "tests/integration/test_readme.py",
    ("web-push.md", "js"): "tests/browser/test_push.py",
    ("when-nobody-is-there.md", "json"): "tests/integration/webhooks/calls.py",
    ("when-nobody-is-there.md", "python"): "tests/integration/webhooks/calls.py",
}
"""Guides and languages whose blocks are run beside the tests of their feature, which read them from the guide."""


@pytest.mark.usefixtures("chromium")
def test_every_block_of_every_guide_was_followed(request: pytest.FixtureRequest) -> None:
    files = {item.path for item in request.session.items}
    if "PYTEST_XDIST_WORKER" in os.environ or files < set((ROOT / "tests/guides").glob("test_*.py")):
        pytest.skip("only some of the guides' tests are run: there is nothing to be said of the whole")
    blocks = [block for guide in [README, *GUIDES] for block in read_blocks(guide)]
    # A block of no language is a picture.
    ours = [block for block in blocks if block.language and (block.path.name, block.language) not in OF_OTHERS]
    assert [block.place for block in ours if (block.path, block.line) not in FOLLOWED] == []


@pytest.mark.parametrize(("guide", "test"), sorted({(guide, test) for (guide, _), test in OF_OTHERS.items()}))
def test_what_is_followed_elsewhere_is_read_from_the_guide_there(guide: str, test: str) -> None:
    assert f'"{guide}"' in (ROOT / test).read_text()


def test_every_command_that_a_guide_speaks_of_stands_in_a_block_that_is_run() -> None:
    run = " ".join(block.text for path in [README, *GUIDES] for block in read_blocks(path))
    for path in GUIDES:
        for spoken in re.findall(r"`(?:\.venv/bin/)?notify ([a-z]+)", path.read_text()):
            assert spoken not in root.commands or f"notify {spoken}" in run, f"{path.name} speaks of notify {spoken}"


def test_a_mark_is_read_as_it_is_written() -> None:
    assert Mark.read("Some text.") == Mark()
    assert Mark.read("<!-- check: kubectl -->") == Mark(check="kubectl")
    assert Mark.read('<!-- run: until "ready" -->') == Mark(until="ready")
    mark = Mark.read('<!-- run: background until "ready"; "$NEW" for "old; and older" -->')
    assert mark == Mark(background=True, until="ready", changes={"old; and older": "$NEW"})


@pytest.mark.parametrize("line", ["<!-- skip -->", "<!-- run: sometimes -->", '<!-- run: "a" for -->'])
def test_a_mark_that_says_nothing_known_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="of ours"):
        Mark.read(line)
