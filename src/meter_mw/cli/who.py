"""Who runs a command: for what is kept on record, and for whose the files are that it writes."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

from meter_mw.cli.policies import refuse

if TYPE_CHECKING:
    from pathlib import Path


def user() -> str:
    """Give the name of this system's user, or the number of one without a name, as in a container."""
    return _name(os.geteuid())


def refuse_strangers(journal: Path) -> None:
    """Refuse to write into a journal of somebody else, root being one: the app could not take it up."""
    try:
        owner = journal.stat().st_uid
    except FileNotFoundError:
        return
    except OSError as error:
        refuse(f"{journal}: {error.strerror}")
    if owner != os.geteuid():
        refuse(f"{journal} belongs to {_name(owner)}; run this as {_name(owner)}, not as {user()}")


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
