"""What `make demo` prints: a reader who adds it up by hand comes to what stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest

pytestmark = pytest.mark.lengthy

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"
CENT = Decimal("0.01")
SCALES = {"": 1, "MB": 10**6}
METERS = {"requests": "requests", "ingress": "request_bytes", "tokens": "tokens"}

COUNT = re.compile(r"^  (acme|globex) +(\w+) +([\d,]+) +([\d,]+)$", re.MULTILINE)
INVOICE = re.compile(
    r"^\$ meter-mw invoice (\w+) --preview\n.*?"
    r"\n\nplan [^\n]*\n(.*?)\n +total +([\d.]+)  EUR$.*?^By hand: ([^=]*) =",
    re.DOTALL | re.MULTILINE,
)
WORKED = re.compile(
    r"([\d,]+)(?: B)?(?: / ([\d,]+) ?(MB)?)? × ([\d.]+) = ([\d.]+)(?:, rounded ([\d.]+))? EUR"
)


def number(text: str) -> Decimal:
    return Decimal(text.replace(",", ""))


def test_the_demo_adds_up_by_hand() -> None:
    """Events are what the clients counted, and invoices what that costs, worked out from what is printed."""
    demo = subprocess.run([sys.executable, DEMO], capture_output=True, text=True, check=False, timeout=240)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    counted = {}
    for who, meter, client, events in COUNT.findall(demo.stdout):
        assert client == events
        counted[who, meter] = number(client)
    assert len(counted) == 8
    invoices = INVOICE.findall(demo.stdout)
    assert [who for who, *_ in invoices] == ["acme", "globex"]
    for who, lines, total, by_hand in invoices:
        amounts, quantities = added_up(lines)
        assert sum(amounts) == number(total) == sum(map(number, by_hand.split(" + ")))
        assert quantities["requests"] > 0
        assert quantities == {meter: counted[who, meter] for meter in quantities}


def added_up(lines: str) -> tuple[list[Decimal], dict[str, Decimal]]:
    """Give the amounts of lines, and the units of each field; each line comes to what it says."""
    amounts: list[Decimal] = []
    quantities: dict[str, Decimal] = {}
    for line in lines.splitlines():
        _, what, *quantity, amount, arithmetic = re.split(r" {2,}", line)
        assert number(amount) == worked_out(arithmetic)
        amounts.append(number(amount))
        if quantity:
            field = METERS[what.partition(",")[0]]
            quantities[field] = quantities.get(field, Decimal(0)) + number(*quantity)
    return amounts, quantities


def worked_out(arithmetic: str) -> Decimal:
    """Work out what is due from the arithmetic of a line, rounding half up."""
    if arithmetic.endswith(" included"):
        return Decimal(0)
    if not (found := WORKED.fullmatch(arithmetic)):
        return number(arithmetic.removesuffix(" EUR"))
    units, per, scale, price, exact, rounded = found.groups()
    due = number(units) / (number(per or "1") * SCALES[scale or ""]) * number(price)
    assert due == number(exact)
    assert (rounded is None) == (due == due.quantize(CENT))
    return due.quantize(CENT, ROUND_HALF_UP)
