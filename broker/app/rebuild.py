"""Makes the projections anew from the ledger and what is sealed beside it, compares, and replaces what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from broker.app.comparison import Fix, Found, TableReport, merged, plain, ranked, storable
from broker.app.place import only_broker
from broker.approvals.rebuild import ApprovalRows
from broker.domain.canonical import JsonObject
from broker.domain.ports import StoredEntry, Transaction, Vault
from broker.domain.projection import KEYS, Expected, UnexpectedEntryError
from broker.errors import DataLossError, FailedPreconditionError, InternalError
from broker.identity.rebuild import IdentityRows
from broker.ledger.projections import PROJECTIONS, named_beyond, tiles_beyond
from broker.ledger.rebuild import AgentHeads, index_rows, tile_rows
from broker.ledger.source import Row
from broker.ledger.verdict import Verdict
from broker.ledger.verifier import verify
from broker.pipeline.rebuild import CallRows
from broker.settings import Settings, StatePaths
from broker.store.opening import DatabaseTarget, open_store
from broker.vault.keyfile import read_key_file
from broker.vault.vault import SealedVault
from broker.workspace.rebuild import TreeRows

_PAGE = 2000


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """How the projections compare with a ledger that verifies."""

    entries: int
    head: str
    """Leaf hash of the last entry, hexadecimal."""
    tables: tuple[TableReport, ...]
    beyond: str
    """What names an entry that the ledger doesn't have; empty where nothing does."""
    written: bool = False

    @property
    def wrong(self) -> int:
        """Rows that weren't as they must be."""
        return sum(table.wrong for table in self.tables)

    @property
    def behind(self) -> int:
        """Rows that were still to be made."""
        return sum(table.behind for table in self.tables)


async def rebuild(state: Path, settings: Settings, *, write: bool, ledger_is_whole: bool = False) -> RebuildReport:
    """Compares every projection of a state directory whose broker is stopped with what the ledger says.

    Args:
        state: the state directory.
        settings: where its database is.
        write: replace what is wrong, in one transaction.
        ledger_is_whole: somebody knows from elsewhere that no entry was cut off at the end.

    Raises:
        DataLossError: the ledger doesn't verify (``LEDGER_NOT_VERIFIED``), or says what this version doesn't understand
            (``LEDGER_ENTRY_UNEXPECTED``).
        FailedPreconditionError: a broker serves (``ALREADY_SERVING``); or, to be written, a projection names an entry
            that the ledger doesn't have (``LEDGER_SHORTER``).
        BrokerError: a part of the state is missing or away.
    """
    paths = StatePaths(state)
    with only_broker(paths):
        vault = SealedVault(read_key_file(paths.vault_key))
        target = DatabaseTarget(paths.database, settings.database, settings.database_password)
        async with open_store(target) as store:
            await store.serve_alone()
            if write:
                return await store.write(lambda tx: mend(tx, vault, ledger_is_whole=ledger_is_whole))
            return await store.read(lambda tx: Comparison(tx, vault).report())


def mend(tx: Transaction, vault: Vault, *, ledger_is_whole: bool) -> RebuildReport:
    """Compares, replaces what is wrong, and compares again, in a writing transaction.

    Raises:
        DataLossError, FailedPreconditionError: as ``rebuild``.
    """
    comparison = Comparison(tx, vault)
    report = comparison.report()
    if report.beyond and not ledger_is_whole:
        raise FailedPreconditionError(
            f"{report.beyond}, or somebody changed that row; what is written now would hide which",
            reason="LEDGER_SHORTER",
            hint="Compare the ledger with a checkpoint that was kept elsewhere: broker ledger verify --checkpoint FILE. "
            "If no entry is gone, come back with --ledger-is-whole.",
        )
    if not report.wrong and not report.behind:
        return report
    comparison.write()
    again = Comparison(tx, vault).report()
    if again.wrong:
        named = ", ".join(table.table for table in again.tables if table.wrong)
        raise InternalError(f"rows of {named} differ although they were replaced", reason="REBUILD_FAILED")
    return replace(report, written=True)


class Comparison:
    """What the ledger wants against what there is, inside one transaction."""

    def __init__(self, tx: Transaction, vault: Vault) -> None:
        self._tx = tx
        self._identities = IdentityRows(tx, vault)
        self._calls = CallRows(tx, vault)
        self._approvals = ApprovalRows(tx, vault)
        self._trees = TreeRows()
        self._heads = AgentHeads()
        self._entries = 0
        self._beyond = ""
        self._fixes: dict[str, list[Fix]] = {}

    def report(self) -> RebuildReport:
        """Verifies the ledger, then looks at each table.

        Raises:
            DataLossError: as ``rebuild``.
        """
        found = verify(_rows(self._tx))
        if found.verdict is not Verdict.OK:
            place = found.place
            where = "" if place is None else f" at entry {place.seq}, {place.field}: {place.why}"
            raise DataLossError(
                f"the ledger doesn't verify: {found.verdict.value}{where}",
                reason="LEDGER_NOT_VERIFIED",
                hint="Nothing is made from such a ledger. Keep the file as it is, and look with `broker ledger verify`.",
                metadata={"verdict": found.verdict.value},
            )
        self._entries = found.entries
        try:
            tables = tuple(self._tables())
        except UnexpectedEntryError as error:
            raise DataLossError(
                f"the ledger says what this version doesn't understand: {error}",
                reason="LEDGER_ENTRY_UNEXPECTED",
                hint="Use the version of the broker that wrote the ledger.",
            ) from error
        return RebuildReport(found.entries, found.head_leaf, tables, self._beyond)

    def write(self) -> None:
        """Replaces what ``report`` found wrong."""
        projections, fixes = self._tx.projections, self._fixes
        if fixes["certificate"]:
            self._all_certificates()
        for table in reversed(tuple(KEYS)):
            for fix in fixes[table]:
                if fix.found is None:
                    continue
                if table == "identity" and fix.wanted is not None:
                    # Certificates refer to it: it is changed in place. Names may have been exchanged; each is there once.
                    projections.put(table, {**fix.found, "name": f"{fix.key[0]!r} is made anew"})
                else:
                    projections.delete(table, fix.key)
        for table in KEYS:
            for fix in fixes[table]:
                if fix.wanted is not None:
                    projections.put(table, storable(fix.wanted, fix.found))

    def _all_certificates(self) -> None:
        # Their order is that of their numbers, and the database gives those: all are stored again, in that order.
        found = {row["fingerprint"]: row for row in self._tx.projections.rows("certificate")}
        for fingerprint in found:
            self._tx.projections.delete("certificate", (fingerprint,))
        places = ranked(self._identities.certificates(), frozenset(self._fingerprints()))
        rows = [storable(row, found.get(plain(row["fingerprint"]))) for row in self._identities.certificates()]
        rows.sort(key=lambda row: places[row["fingerprint"]])
        self._fixes["certificate"] = [
            Fix((row["fingerprint"],), {name: row[name] for name in row if name != "number"}, None) for row in rows
        ]

    def _fingerprints(self) -> Iterator[str]:
        return (str(row["fingerprint"]) for row in self._identities.certificates())

    def _tables(self) -> Iterator[TableReport]:
        # The index is compared first, for all entries go by on the way.
        index = self._table("ledger_index", index_rows(self._tx.ledger, self._listen))
        yield self._table("ledger_tile", tile_rows(self._tx.ledger))
        yield self._table("ledger_agent", self._heads.rows())
        yield index
        yield self._table("identity", self._identities.identities())
        yield self._certificates()
        yield self._table("session", self._identities.sessions())
        yield self._table("schedule", self._identities.schedules())
        yield self._table("call", self._calls.rows())
        for table, rows in self._approvals.tables().items():
            yield self._table(table, rows)
        yield self._table("workspace_tree", self._trees.rows())
        yield self._table("effect", self._trees.effects())
        yield self._table("vault_usage", self._tx.projections.usage())

    def _listen(self, row: StoredEntry, entry: JsonObject) -> None:
        self._heads.entry(row, entry)
        self._identities.entry(row, entry)
        self._calls.entry(row, entry)
        self._approvals.entry(row, entry)
        self._trees.entry(row, entry)

    def _certificates(self) -> TableReport:
        there = list(self._tx.projections.rows("certificate"))
        common = frozenset(row["fingerprint"] for row in there).intersection(self._fingerprints())
        wanted = ranked(self._identities.certificates(), common)
        found = ranked(there, common)
        return self._table(
            "certificate",
            ({**row, "number": wanted.get(plain(row["fingerprint"]), 0)} for row in self._identities.certificates()),
            ({**row, "number": found.get(row["fingerprint"], 0)} for row in there),
        )

    def _table(self, table: str, expected: Iterable[Expected], there: Iterable[Found] | None = None) -> TableReport:
        report, fixes = TableReport(table), []
        indexed = self._tx.ledger.indexed() if table == "ledger_index" else None
        for key, wanted, found in merged(table, expected, self._tx.projections.rows(table) if there is None else there):
            if found is not None:
                self._beyond = self._beyond or self._names_beyond(table, found)
            elif indexed is not None and isinstance(key[0], int) and key[0] >= indexed:
                report.behind += 1
                fixes.append(Fix(key, wanted, None))
                continue
            if table == "vault_usage" and wanted is None and found is not None and found["stored"] == 0:
                report.equal += 1  # whoever keeps nothing any more has a row that says so, or none
                continue
            fix = report.take(key, wanted, found)
            if fix is not None:
                fixes.append(fix)
        self._fixes[table] = fixes
        return report

    def _names_beyond(self, table: str, row: Found) -> str:
        if table == "ledger_tile":
            hashes = row["hashes"]
            length = len(hashes) if isinstance(hashes, bytes) else None
            return tiles_beyond([(row["level"], row["idx"], length)], self._entries)
        named = (named_beyond(row[item.column], self._entries, item) for item in PROJECTIONS if item.table == table)
        return next(filter(None, named), "")


def _rows(tx: Transaction) -> Iterator[Row]:
    first = 0
    while page := tx.ledger.entries(first, _PAGE):
        yield from (Row(item.seq, item.prev, item.leaf, item.data) for item in page)
        first = page[-1].seq + 1
