"""The page on privacy says how a tombstone is made, and what may be recorded, as it is."""

from __future__ import annotations

import re
from pathlib import Path

from meter_mw.cli.forget import forget
from meter_mw.policy.evidence import FAMILIES
from meter_mw.privacy.telling import tombstone

PAGE = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text()


def test_its_tombstone_is_ours() -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    namespace: dict[str, object] = {}
    exec(block, namespace)
    made = namespace["tombstone"]
    assert callable(made)
    assert made("a secret of somebody", "jane") == tombstone(b"a secret of somebody", "jane")


def test_the_words_it_shows_are_in_the_list() -> None:
    (row,) = (line for line in PAGE.splitlines() if line.startswith("| `user_agent: family`"))
    assert {"curl", "python-requests", "firefox", "other"} <= set(re.findall("`([^`]*)`", row)) & FAMILIES


def test_it_names_the_options_of_the_command() -> None:
    assert {"is_sure", "dry_run", "by", "policy", "subject"} == {each.name for each in forget.params}
    assert "--dry-run" in PAGE
