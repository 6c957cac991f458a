"""Who runs a command, for what is kept on record."""

from __future__ import annotations

import os
import pwd


def user() -> str:
    """Give the name of this system's user, or the number of one without a name, as in a container."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
