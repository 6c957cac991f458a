"""`meter-mw forget`: erase who somebody was, keep what was billed, and tell the sinks."""

from __future__ import annotations

import time

import click

from meter_mw.cli import places, policies
from meter_mw.cli.policies import refuse
from meter_mw.cli.recording import record
from meter_mw.cli.who import user
from meter_mw.events import encode
from meter_mw.policy.problems import printable, quoted
from meter_mw.privacy.forgetting import forget as forget_in
from meter_mw.privacy.forgetting import obstacles
from meter_mw.privacy.telling import ERASED, erasure, tombstone
from meter_mw.rids import new_rid


@click.command()
@click.argument("subject")
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask first.")
@click.option("--dry-run", is_flag=True, help="Say what is held where, and what stands in the way.")
@click.option("--by", metavar="NAME", help="Who erases; without it the user of this system.")
@policies.option
def forget(policy: str, subject: str, by: str | None, *, is_sure: bool, dry_run: bool) -> None:
    """Erase the identity of SUBJECT wherever it is held; amounts stay, under a name that says nothing.

    It cannot be undone. What has to be done first is said, and nothing done then. The sinks are told by an
    event (meter_mw.erasure.v1). What stays for a while, or is not ours to change, is listed in the end.
    """
    rules = policies.loaded(policy)
    if subject.startswith(ERASED):
        refuse(f"{quoted(subject)} stands for somebody who is forgotten already")
    with places.opened(rules, subject) as found:
        counts = {place.name: sum(1 for _ in place.held(subject)) for place in found}
        if not any(counts.values()):
            refuse(f"nothing is held of {quoted(subject)}")
        in_the_way = obstacles(found, subject)
        if dry_run:
            for name, count in counts.items():
                click.echo(f"{printable(name)}: {count} records")
        if in_the_way:
            refuse(*in_the_way)
        if dry_run:
            return
        if not is_sure:
            click.confirm(f"erase who {quoted(subject)} is, for good?", abort=True, err=True)
        now_us = time.time_ns() // 1_000
        secret = rules.identity.keyring.at(now_us)
        name = tombstone(secret.value, subject)
        told = erasure(rules, name, secret.id, rid=new_rid(now_us), time_us=now_us, by=by or user())
        record(rules, [encode(told)])
        for each in forget_in(found, subject, name):
            stays = f"; {each.remaining} stay {each.remains}" if each.remaining else ""
            click.echo(f"{printable(each.place)}: {each.erased} erased{stays}")
        click.echo(name)
