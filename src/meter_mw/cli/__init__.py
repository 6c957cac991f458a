"""The command line: `meter-mw`, with one file for each command."""

from __future__ import annotations

from importlib import metadata

import click

from meter_mw.cli.adjust import adjust
from meter_mw.cli.audit import audit
from meter_mw.cli.check import check
from meter_mw.cli.dashboard import dashboard
from meter_mw.cli.export import export
from meter_mw.cli.features import features
from meter_mw.cli.forget import forget
from meter_mw.cli.forward import forward
from meter_mw.cli.invoice import invoice
from meter_mw.cli.journal import journal
from meter_mw.cli.keys import keys
from meter_mw.cli.parked import parked
from meter_mw.cli.price import price
from meter_mw.cli.privacy import privacy
from meter_mw.cli.reconcile import reconcile
from meter_mw.cli.signals import signals
from meter_mw.cli.top import top
from meter_mw.cli.usage import usage


def _version() -> str:
    try:
        return metadata.version("meter-mw")
    except metadata.PackageNotFoundError:
        return "(run from its source, not installed)"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_version(), prog_name="meter-mw")
def main() -> None:
    """Meter HTTP APIs: check a policy, and look after what it counts."""


main.add_command(adjust)
main.add_command(audit)
main.add_command(check)
main.add_command(dashboard)
main.add_command(export)
main.add_command(forget)
main.add_command(features)
main.add_command(forward)
main.add_command(invoice)
main.add_command(journal)
main.add_command(keys)
main.add_command(parked)
main.add_command(price)
main.add_command(privacy)
main.add_command(reconcile)
main.add_command(signals)
main.add_command(top)
main.add_command(usage)
