"""What operators and the broker itself have written: settings, policy, certificates, the ledger's last entry."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from broker.doctor.finding import Finding, fail, ok, warn
from broker.domain.ports import StoredEntry, Transaction
from broker.errors import BrokerError
from broker.identity import files
from broker.identity.directory import Directory
from broker.identity.validity import Validity, read_validity
from broker.policy.lint import Examined, examine
from broker.settings import Settings, StatePaths, load_settings
from broker.store.opening import DatabaseTarget, open_store_sync

SERVER_WARN = timedelta(days=30)
CLIENT_WARN = timedelta(days=14)


def probe_settings(state: Path) -> tuple[Settings, Finding]:
    """Settings of the state directory under the environment; the defaults go on where they are wrong."""
    try:
        settings = load_settings(state)
    except BrokerError as error:
        mend = f"Mend the field in {StatePaths(state).settings} or in its BROKER_... variable."
        return Settings.model_construct(), fail("settings", error.message, mend)
    changed = sorted(settings.model_fields_set)
    return settings, ok("settings", f"changed: {', '.join(changed)}" if changed else "all defaults")


def judge_policy(examined: Examined, path: Path) -> Finding:
    """Would the broker take this policy?"""
    if examined.errors:
        first = examined.errors[0]
        found = f"{path}:{first.line}:{first.column}: {first.message} ({len(examined.errors)} in all)"
        return fail("policy", found, f"broker policy check {path}")
    count = f"{len(examined.rules)} rules, {len(examined.grants)} grants"
    if examined.warnings:
        first = examined.warnings[0]
        found = f"{count}; {path}:{first.line}:{first.column}: {first.message} ({len(examined.warnings)} in all)"
        return warn("policy", found, f"broker policy check {path}")
    return ok("policy", count)


def probe_policy(state: Path, tools: frozenset[str] | None) -> Finding:
    """Reads the policy as the broker does at its start; ``tools`` are the tools that exist, if known."""
    path = StatePaths(state).policy / "policy.csv"
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return fail("policy", f"{path} can't be read: {error}", "Restore it; without a policy nothing is allowed.")
    return judge_policy(examine(text, tools), path)


def judge_certificate(what: str, validity: Validity, now: datetime, *, warn_before: timedelta, mend: str) -> Finding:
    """Is it valid now, and for how long yet?"""
    left = validity.not_after - now
    until = validity.not_after.date().isoformat()
    if not validity.key_fits:
        return fail("certificates", f"{what}: the key beside it is another one's", "Restore both from the same backup.")
    if now < validity.not_before:
        return fail("certificates", f"{what} isn't valid before {validity.not_before.isoformat()}", "Check the clock.")
    if left <= timedelta(0):
        return fail("certificates", f"{what} expired on {until}", mend)
    found = f"{what} is valid until {until}: {left.days} days"
    return warn("certificates", found, mend) if left < warn_before else ok("certificates", found)


def probe_certificates(state: Path, now: datetime) -> tuple[Finding, ...]:
    """The CA's and the server's certificate, with the keys beside them."""
    paths = StatePaths(state)
    findings = []
    for what, certificate, key, mend in (
        (
            "the CA's certificate",
            paths.ca_certificate,
            paths.ca_key,
            "A new CA means a new state directory: broker init",
        ),
        ("the server's certificate", paths.server_certificate, paths.server_key, "broker identity renew-server"),
    ):
        try:
            validity = read_validity(files.read_pem(certificate, what=what), files.read_pem(key, what="its key"))
        except (BrokerError, OSError) as error:
            findings.append(fail("certificates", f"{what}: {error}", "Restore it from a backup."))
            continue
        findings.append(judge_certificate(what, validity, now, warn_before=SERVER_WARN, mend=mend))
    return tuple(findings)


def judge_expiring(directory: Directory, now: datetime) -> tuple[Finding, ...]:
    """Agents and humans who will soon be without a valid certificate."""
    findings = []
    for identity in directory.identities.values():
        own = [each for each in directory.certificates.values() if each.identity == identity.id and not each.revoked]
        if identity.revoked or not own:
            continue
        left = max(each.not_after for each in own) - now
        if left < CLIENT_WARN:
            when = "has expired" if left <= timedelta(0) else f"expires in {left.days} days"
            findings.append(
                warn(
                    "certificates",
                    f"the last certificate of {identity.kind} {identity.name} {when}",
                    f"broker identity issue {identity.kind} {identity.name}",
                )
            )
    return tuple(findings)


def _last_entry(tx: Transaction) -> StoredEntry | None:
    head = tx.ledger.head()
    return tx.ledger.entries(head.seq, 1)[0] if head else None


def probe_ledger(state: Path, now: datetime) -> tuple[datetime | None, tuple[Finding, ...]]:
    """The time of the last entry, and whether the database opens at all; verifying is ``broker ledger verify``."""
    settings = probe_settings(state)[0]
    path = DatabaseTarget(StatePaths(state).database, settings.database, settings.database_password)
    if not path.is_there or not state.is_dir():
        return None, ()
    try:
        with open_store_sync(path) as database:
            entry = database.read_sync(_last_entry)
            weakness = database.weakness()
            expiring = judge_expiring(database.read_sync(Directory.load), now)
        if entry is None:
            return None, (fail("ledger", f"{path} has no genesis entry", "Restore the database from a backup."),)
        moment = datetime.fromisoformat(str(json.loads(entry.data)["ts"])).astimezone(UTC)
    except (BrokerError, ValueError, KeyError, TypeError) as error:
        return None, (fail("ledger", f"{path}: {error}", "See where it is broken: broker ledger verify"),)
    found = f"{entry.seq + 1} entries, the last of {moment.isoformat(timespec='seconds')}"
    weak = (
        (warn("ledger", weakness, "Give the tables an owner of their own: docs/postgresql.md says how."),)
        if weakness
        else ()
    )
    return moment, (ok("ledger", found), *weak, *expiring)
