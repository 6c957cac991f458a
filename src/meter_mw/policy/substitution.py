"""References in a text, `${ENV}`, `${ENV:-default}` and `${file:/path}`, replaced by what they stand for.

Rule 1: no message holds what a reference stands for, only how it is written.
Rule 2: what is put in is text; it is never read for structure or for references again.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

from meter_mw.model import MeterError
from meter_mw.policy.problems import printable, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

LARGEST_TEXT = 1 << 16
"""Characters of a text once its references are replaced, and bytes of a file that one names."""

_PART = re.compile(
    r"[^$]+|\$\$"
    r"|\$\{file:(?P<file>[^{}$]+)\}"
    r"|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<has_default>:-(?P<default>[^{}$]*))?\}"
)
_REFERENCE = re.compile(r"\$\{[^{}$]*\}")


class UnresolvedReference(MeterError):
    """References that stand for nothing, with a message for each in `faults`."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("; ".join(faults))


def has_reference(text: str) -> bool:
    """Say whether a dollar stands in the text, so that it is not to be taken as it is."""
    return "$" in text


def is_reference(text: str) -> bool:
    """Say whether the text is one reference and nothing else."""
    return _REFERENCE.fullmatch(text) is not None


def substitute(text: str, environ: Mapping[str, str], folder: Path) -> str:
    """Replace every reference; a relative path begins at `folder`, and `$$` is a dollar.

    Raises UnresolvedReference, from a frame that holds no value.
    """
    faults: list[str] = []
    result = "".join(_parts(text, environ, folder, faults))
    if faults:
        del result
        raise UnresolvedReference(faults) from None
    return result


def _parts(text: str, environ: Mapping[str, str], folder: Path, faults: list[str]) -> Iterator[str]:
    position = length = 0
    while position < len(text):
        part = _PART.match(text, position)
        if part is None:
            faults.append(_misread(text[position:]))
            return
        position = part.end()
        piece = _meaning(part, environ, folder, faults)
        length += len(piece)
        if length > LARGEST_TEXT:
            faults.append(
                f"the text is longer than {LARGEST_TEXT} characters once its references are replaced"
            )
            return
        yield piece


def _meaning(part: re.Match[str], environ: Mapping[str, str], folder: Path, faults: list[str]) -> str:
    name = part["name"]
    if part["file"] is not None:
        return _contents(folder / part["file"], part["file"], faults)
    if name is None:
        return "$" if part.group() == "$$" else part.group()
    value = environ.get(name, "")
    if part["has_default"]:
        return value or part["default"]
    if name not in environ:
        faults.append(f"the environment variable {name} is not set")
    return value


def _contents(path: Path, written: str, faults: list[str]) -> str:
    shown = quoted(written)
    if written.startswith("~"):
        faults.append(f"the file {shown} cannot begin with ~; write the whole path")
        return ""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            faults.append(f"{shown} is not a regular file")
            return ""
        with path.open("rb") as file:
            data = file.read(LARGEST_TEXT + 1)
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "not a path"
        faults.append(f"the file {shown} cannot be read: {printable(reason)}")
        return ""
    if len(data) > LARGEST_TEXT:
        faults.append(f"the file {shown} has more than {LARGEST_TEXT} bytes")
        return ""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        faults.append(f"the file {shown} is not UTF-8 text")
        return ""
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


def _misread(rest: str) -> str:
    """Say what is wrong with a dollar that begins no reference; `rest` is from the policy itself."""
    name = re.match(r"\$([A-Za-z_][A-Za-z0-9_]*)", rest)
    if name is not None:
        return f"found {quoted(name.group())}; write ${{{name[1]}}} for the variable, $$ for a dollar"
    if not rest.startswith("${"):
        return "found a lone $; write $$ for a dollar, ${NAME} for an environment variable"
    return "found ${ that begins no reference; write ${NAME}, ${NAME:-default} or ${file:/path}"
