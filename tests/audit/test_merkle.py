"""The tree is that of RFC 6962, and a path proves one leaf and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meter_mw.audit import merkle

# The records and roots that implementations of Certificate Transparency check each other with.
RECORDS = [
    bytes.fromhex(each)
    for each in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_those_of_certificate_transparency(size: int) -> None:
    assert merkle.root([merkle.leaf(each) for each in RECORDS[:size]]).hex() == ROOTS[size - 1]


def test_the_root_of_nothing_is_the_hash_of_nothing() -> None:
    assert merkle.root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@given(st.integers(1, 70), st.data())
def test_a_path_proves_its_leaf_at_its_place_alone(size: int, data: st.DataObject) -> None:
    leaves = [merkle.leaf(b"%d" % number) for number in range(size)]
    index = data.draw(st.integers(0, size - 1))
    other = data.draw(st.integers(0, size - 1))
    root, path = merkle.root(leaves), merkle.path(leaves, index)
    assert merkle.leads_to(leaves[index], index, size, path, root)
    assert merkle.leads_to(leaves[other], index, size, path, root) == (other == index)
    assert merkle.leads_to(leaves[index], other, size, path, root) == (other == index)
    assert not merkle.leads_to(leaves[index], index, size, [*path, root], root)
    assert not merkle.leads_to(leaves[index], index, size, path, merkle.leaf(b"another root"))
    if path:
        assert not merkle.leads_to(leaves[index], index, size, path[1:], root)


def test_a_leaf_that_is_not_there_has_no_path() -> None:
    with pytest.raises(IndexError, match="leaf 3 of 3"):
        merkle.path([merkle.leaf(b"")] * 3, 3)
    assert not merkle.leads_to(merkle.leaf(b""), -1, 3, [], merkle.leaf(b""))


def test_an_inner_node_is_no_leaf() -> None:
    """A record made of two hashes cannot pass for the node above them (second preimage)."""
    leaves = [merkle.leaf(b"a"), merkle.leaf(b"b")]
    assert merkle.leaf(leaves[0] + leaves[1]) != merkle.root(leaves)
