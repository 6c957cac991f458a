"""What `make demo` prints: a reader who adds it up by hand comes to what stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest

pytestmark = [pytest.mark.lengthy, pytest.mark.xdist_group("demo")]  # which is run once

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


@pytest.fixture(scope="module")
def printed() -> str:
    """Run the demo as `make demo` does."""
    demo = subprocess.run([sys.executable, DEMO], capture_output=True, text=True, check=False, timeout=120)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    return demo.stdout


def number(text: str) -> Decimal:
    return Decimal(text.replace(",", ""))


def test_events_are_what_the_clients_counted(printed: str) -> None:
    """Each customer and meter is there, and both columns are equal; both customers used something."""
    rows = COUNT.findall(printed)
    assert len(rows) == 8
    assert [row for row in rows if row[2] != row[3]] == []
    assert all(number(units) for _, meter, units, _ in rows if meter == "requests")


def test_the_invoices_add_up_by_hand(printed: str) -> None:
    """A quantity times its price is the line's amount; amounts make the total, quantities are the usage."""
    counted = {(who, meter): number(units) for who, meter, units, _ in COUNT.findall(printed)}
    invoices = INVOICE.findall(printed)
    assert [who for who, *_ in invoices] == ["acme", "globex"]
    for who, lines, total, by_hand in invoices:
        amounts: list[Decimal] = []
        quantities: dict[str, Decimal] = {}
        for line in lines.splitlines():
            _, what, *quantity, amount, arithmetic = re.split(r" {2,}", line)
            assert number(amount) == worked_out(arithmetic)
            amounts.append(number(amount))
            if quantity:
                meter = METERS[what.partition(",")[0]]
                quantities[meter] = quantities.get(meter, Decimal(0)) + number(*quantity)
        assert sum(amounts) == number(total) == sum(map(number, by_hand.split(" + ")))
        assert quantities
        assert quantities == {meter: counted[who, meter] for meter in quantities}


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
