"""`meter-mw dashboard`: pages of usage, bills, signals and delivery, served to a browser."""

from __future__ import annotations

import click

from meter_mw.cli import ledgers, policies
from meter_mw.cli.policies import refuse
from meter_mw.model import MeterError
from meter_mw.policy.problems import quoted


def _address(_: click.Context, param: click.Parameter, text: str) -> tuple[str, int]:
    """Read an address to listen at: `127.0.0.1:9310`, `[::1]:9310`."""
    host, _colon, port = text.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and int(port[:6]) < 1 << 16):
        what = f"found {quoted(text)}; expected an address such as 127.0.0.1:9310"
        raise click.BadParameter(what, param=param)
    return host.removeprefix("[").removesuffix("]"), int(port)


@click.command()
@click.option(
    "--listen",
    default="127.0.0.1:9310",
    show_default=True,
    callback=_address,
    metavar="HOST:PORT",
    help="Where to serve; beyond this machine with a token alone.",
)
@click.option(
    "--token",
    envvar="METER_DASHBOARD_TOKEN",
    help="What readers have to show; rather by the variable METER_DASHBOARD_TOKEN.",
)
@ledgers.option
@policies.option
def dashboard(*, policy: str, ledger: str | None, listen: tuple[str, int], token: str | None) -> None:
    """Serve pages that show usage, customers, bills to come, signals and delivery, until interrupted.

    They are read-only, need no internet, and are for this machine unless a token is set.
    """
    rules = policies.loaded(policy)
    try:
        import uvicorn  # noqa: PLC0415 - an extra of this package

        from meter_mw.dashboard import app  # noqa: PLC0415
        from meter_mw.dashboard.access import is_loopback  # noqa: PLC0415
    except ImportError:
        refuse("the dashboard needs more: pip install 'meter-mw[dashboard]'")
    host, port = listen
    if not token and not is_loopback(host):
        refuse(f"--listen: {host} is reached from elsewhere; expected a token: set METER_DASHBOARD_TOKEN")
    try:
        pages = app(rules, ledger=ledger, token=token)
    except MeterError as fault:
        refuse(str(fault))
    name = f"[{host}]" if ":" in host else host
    click.echo(f"{rules.service}: http://{name}:{port}/{' (with the token)' if token else ''}", err=True)
    # Who asks is the peer, whatever a proxy says of whom it asks for.
    uvicorn.run(pages, host=host, port=port, log_level="warning", proxy_headers=False, server_header=False)
