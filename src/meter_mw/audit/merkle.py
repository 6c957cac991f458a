"""The Merkle tree of a segment's records, as RFC 6962, section 2.1, has it. Pure."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZE = 32
"""Bytes of a hash."""


def leaf(record: bytes) -> bytes:
    """Give the hash of a record; a leaf never equals an inner node (the prefix sees to it)."""
    return sha256(b"\x00" + record).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """Give the hash that stands for all leaves, in their order; that of nothing is the hash of nothing."""
    if not leaves:
        return sha256(b"").digest()
    level = list(leaves)
    while len(level) > 1:
        level = _above(level)
    return level[0]


def path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Give the hashes that lead from one leaf to the root, the lowest first.

    Raises `IndexError` for a leaf that is not there.
    """
    if not 0 <= index < len(leaves):
        raise IndexError(f"leaf {index} of {len(leaves)}")
    found, level = [], list(leaves)
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            found.append(level[sibling])
        level = _above(level)
        index //= 2
    return found


def leads_to(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Say whether a leaf at an index of `size` is under the root (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    at, last, node = index, size - 1, leaf
    rest = list(path)
    while last:
        if at % 2 or at != last:
            if not rest:
                return False
            sibling = rest.pop(0)
            node = _node(sibling, node) if at % 2 else _node(node, sibling)
        at, last = at // 2, last // 2
    return not rest and node == root


def _above(level: list[bytes]) -> list[bytes]:
    """Pair the nodes of a level; one without a partner goes up as it is.

    That is the tree of RFC 6962, whose left part has as many leaves as the greatest power of two below.
    """
    paired = [_node(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
    return [*paired, level[-1]] if len(level) % 2 else paired


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()
