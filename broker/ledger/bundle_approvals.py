"""What people were asked to agree to, as a bundle tells it in plain text: of each approval that is asked for in its entries."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TypeAlias

from broker.domain.canonical import JsonObject, canonical
from broker.domain.ports import Transaction
from broker.ledger.bundle_format import MAX_APPROVAL

Disclose: TypeAlias = Callable[[Transaction, str], JsonObject | None]
"""By an approval's id: its sealed texts, as ``broker.approvals.content.disclosed`` gives them."""


class ApprovalTexts:
    """Takes in the entries of a bundle, and then gives the texts that they commit to.

    ``absent`` are the approvals of which there is no text; ``withheld`` those of them that nothing says are erased.
    """

    def __init__(self, disclose: Disclose) -> None:
        self._disclose = disclose
        self._asked: list[str] = []
        self._voted: set[tuple[str, str]] = set()
        self.absent: list[str] = []
        self.withheld: list[str] = []

    def entry(self, entry: JsonObject, *, told: bool) -> None:
        """Takes in an entry; ``told`` means that it is there for itself, and not to prove others."""
        said, vote, kind = entry.get("approval"), entry.get("vote"), entry.get("type")
        which = str(said.get("id")) if isinstance(said, dict) else ""
        if kind == "approval.requested" and told:
            self._asked.append(which)
        elif kind in ("vote", "vote.attested") and isinstance(vote, dict):
            self._voted.add((which, str(vote.get("number"))))

    def members(self, tx: Transaction, erased: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of each member under ``approvals/``.

        Args:
            tx: a transaction.
            erased: approvals of which an entry in the bundle says that they are erased.
        """
        for approval in self._asked:
            texts = self._proved(approval, self._disclose(tx, approval))
            data = b"" if texts is None else canonical(texts)
            if data and len(data) <= MAX_APPROVAL:
                yield f"approvals/{approval}.json", data
                continue
            self.absent.append(approval)
            if data or approval not in erased:
                self.withheld.append(approval)

    def _proved(self, approval: str, texts: JsonObject | None) -> JsonObject | None:
        """The same without the texts of votes that came after the checkpoint: nothing here commits to those."""
        votes = None if texts is None else texts.get("votes")
        if texts is None or not isinstance(votes, dict):
            return texts
        return {**texts, "votes": {number: said for number, said in votes.items() if (approval, number) in self._voted}}
