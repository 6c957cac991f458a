"""A bill as a page of HTML: one file that needs nothing else, for a screen and for paper."""

from __future__ import annotations

from collections import defaultdict
from html import escape
from typing import TYPE_CHECKING

from meter_mw.rating.amounts import money

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meter_mw.invoicing.bills import Bill
    from meter_mw.invoicing.previews import Preview
    from meter_mw.rating.invoices import Invoice

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; }
h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; padding: .25rem 0; }
th, td { text-align: left; padding: .35rem .5rem; border-bottom: 1px solid #8886; vertical-align: top; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.how { font-size: .9rem; overflow-wrap: anywhere; }
tfoot th, tfoot td { border-bottom: 0; }
tfoot tr:last-child { font-weight: bold; border-top: 2px solid; }
.open { border: 1px solid; padding: .5rem 1rem; }
@media print {
  body { margin: 0; max-width: none; font-size: 10pt; }
  tr { break-inside: avoid; }
  thead { display: table-header-group; }
}
"""


def page(bill: Bill, *, service: str, preview: Preview | None = None) -> str:
    """Give the page of a bill; of the bill that is expected, where a preview is given."""
    shown = bill if preview is None else preview.expected
    title = f"{'Preview' if preview else 'Invoice'}: {shown.customer.subject}, {shown.period.start:%Y-%m-%d}"
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
            *_head(shown, service),
            *(_preview(preview) if preview else _open(shown)),
            *(part for invoice in shown.invoices for part in _invoice(invoice)),
            *_notes(shown),
            *_usage(preview.so_far if preview else bill),
            "</body>\n</html>\n",
        )
    )


def _head(bill: Bill, service: str) -> Iterator[str]:
    yield f"<h1>{escape(bill.customer.subject)}</h1>"
    yield (
        f"<p>{escape(service)}, from {bill.period.start} up to and not including {bill.period.end}"
        f" ({escape(bill.customer.timezone)})</p>"
    )
    if not bill.invoices:
        yield "<p>Nothing is due: no plan with a price held in this time.</p>"


def _open(bill: Bill) -> Iterator[str]:
    if bill.is_open:
        yield '<p class="open">This period is not over: it shows what is due so far.</p>'


def _preview(preview: Preview) -> Iterator[str]:
    yield '<div class="open"><p>This period is not over. It shows what is expected at its end:'
    yield f"{escape(preview.method)}.</p>\n<table><thead><tr><th scope='col'>Total</th>"
    yield "".join(
        f'<th scope="col" class="number">{each}</th>' for each in ("so far", "low", "expected", "high")
    )
    yield "</tr></thead><tbody>"
    bills = (preview.so_far, preview.low, preview.expected, preview.high)
    for invoice in preview.expected.invoices:
        code = invoice.currency.code
        totals = [
            next((each.total for each in bill.invoices if each.currency.code == code), None) for bill in bills
        ]
        cells = "".join(f'<td class="number">{"" if each is None else f"{each:,f}"}</td>' for each in totals)
        yield f'<tr><th scope="row">{code}</th>{cells}</tr>'
    yield "</tbody></table></div>"


def _invoice(invoice: Invoice) -> Iterator[str]:
    code = invoice.currency.code
    yield f"<h2>{code}</h2>\n<table>\n<thead><tr>"
    yield '<th scope="col">For</th><th scope="col" class="number">Quantity</th>'
    yield '<th scope="col">How it comes about</th><th scope="col" class="number">Amount</th>'
    yield "</tr></thead>\n<tbody>"
    for line in invoice.lines:
        quantity = "" if line.quantity is None else f"{line.quantity:,f}"
        tier = f", {escape(line.tier)}" if line.tier else ""
        plan = f"<br><small>plan {escape(line.plan)}</small>" if line.plan else ""
        yield (
            f'<tr><th scope="row">{escape(line.description)}{tier}{plan}</th>'
            f'<td class="number">{quantity}</td><td class="how">{escape(line.arithmetic)}</td>'
            f'<td class="number">{line.amount:,f}</td></tr>'
        )
    yield "</tbody>\n<tfoot>"
    sums = [("Base and usage", invoice.subtotal)]
    sums += [("Minimum commitment", invoice.minimum)] if invoice.minimum else []
    sums += [("Spend cap", invoice.spend_cap)] if invoice.spend_cap else []
    sums += [("Paid from credits", invoice.credits)] if invoice.credits else []
    for name, amount in (*sums, ("Total", invoice.total)):
        yield f'<tr><th scope="row" colspan="3">{name}</th><td class="number">{money(amount, code)}</td></tr>'
    yield "</tfoot>\n</table>"


def _notes(bill: Bill) -> Iterator[str]:
    if bill.notes:
        yield "<h2>Not billed here</h2>\n<ul>"
        yield from (f"<li>{escape(each)}</li>" for each in bill.notes)
        yield "</ul>"


def _usage(bill: Bill) -> Iterator[str]:
    """Give the usage behind the lines: units by day and field."""
    fields = sorted({each.field for each in bill.usage})
    if not fields:
        return
    days: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(fields, 0))
    for each in bill.usage:
        days[each.day.isoformat()][each.field] += each.units
    yield "<h2>Usage by day</h2>\n<table>\n<thead><tr><th scope='col'>Day</th>"
    yield "".join(f'<th scope="col" class="number">{escape(each)}</th>' for each in fields)
    yield "</tr></thead>\n<tbody>"
    for day, units in days.items():
        cells = "".join(f'<td class="number">{units[each]:,}</td>' for each in fields)
        yield f'<tr><th scope="row">{day}</th>{cells}</tr>'
    yield "</tbody>\n</table>"
