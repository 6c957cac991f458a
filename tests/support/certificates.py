"""Certificates made for a test run; no key is kept anywhere."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import trustme


class Certificate(NamedTuple):
    """The files of a certificate with its key, and of the authority that signed it."""

    chain: Path
    authority: Path


@cache
def certificate_for(host: str) -> Certificate:
    """Make a certificate of `host`, a name or an address."""
    folder = Path(tempfile.mkdtemp(prefix="meter-tls-"))
    authority = trustme.CA()
    chain = folder / "chain.pem"
    authority.issue_cert(host).private_key_and_cert_chain_pem.write_to_path(str(chain))
    trusted = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(trusted))
    return Certificate(chain, trusted)
