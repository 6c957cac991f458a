"""A bill as plain values for JSON: amounts are texts, so that no reader makes floats of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from meter_mw.invoicing.bills import Bill
    from meter_mw.invoicing.previews import Preview
    from meter_mw.rating.invoices import Invoice
    from meter_mw.rating.lines import Line

    Document: TypeAlias = dict[str, object]


def bill_document(bill: Bill) -> Document:
    """Give a bill."""
    return {
        "subject": bill.customer.subject,
        "period": {
            "kind": bill.kind.word,
            "start": bill.period.start.isoformat(),
            "end": bill.period.end.isoformat(),
            "timezone": bill.customer.timezone,
            "is_open": bill.is_open,
        },
        "invoices": [_invoice(each) for each in bill.invoices],
        "notes": list(bill.notes),
        "usage": _usage(bill),
    }


def preview_document(preview: Preview) -> Document:
    """Give a preview: the bill that is expected, its range, what is due so far, and the usage behind that."""
    bounds = {"so_far": preview.so_far, "low": preview.low, "high": preview.high}
    return {
        **bill_document(preview.expected),
        "usage": _usage(preview.so_far),
        "preview": {
            "method": preview.method,
            **{
                name: [{"currency": each.currency.code, "total": str(each.total)} for each in bill.invoices]
                for name, bill in bounds.items()
            },
        },
    }


def _usage(bill: Bill) -> list[Document]:
    return [
        {"day": each.day.isoformat(), "plan": each.plan, "field": each.field, "units": each.units}
        for each in bill.usage
    ]


def _invoice(invoice: Invoice) -> Document:
    return {
        "currency": invoice.currency.code,
        "lines": [_line(each) for each in invoice.lines],
        "subtotal": str(invoice.subtotal),
        "minimum": str(invoice.minimum),
        "spend_cap": str(invoice.spend_cap),
        "due": str(invoice.due),
        "credits": str(invoice.credits),
        "total": str(invoice.total),
    }


def _line(line: Line) -> Document:
    return {
        "kind": line.kind.value,
        "description": line.description,
        "plan": line.plan,
        "meter": line.meter,
        "quantity": None if line.quantity is None else f"{line.quantity:f}",
        "tier": line.tier,
        "unit": None if line.unit is None else f"{line.unit:f}",
        "amount": str(line.amount),
        "arithmetic": line.arithmetic,
        "source": line.source,
    }
