"""The risk tiers as data: what each demands, who approves, what is logged at the least."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from broker.domain.spec_parts import SpecPart, Text, Whole
from broker.domain.tier import Tier
from broker.errors import InvalidArgumentError
from broker.specs.document import DocumentError, read_document
from broker.specs.files import FileRefusedError, read_file
from broker.specs.shipped import shipped_folder

TIERS_FILE = "tiers.yaml"
"""Name of the file, in the folder of the shipped specifications."""

Lines = Annotated[tuple[Annotated[Text, Field(min_length=1)], ...], Field(min_length=1)]


class TierRow(SpecPart):
    """One tier."""

    tier: Annotated[Whole, Field(ge=0, le=4)]
    """Its number."""
    name: Annotated[Text, Field(min_length=1)]
    """Its name."""
    example: Annotated[Text, Field(min_length=1)]
    """What belongs to it."""
    required_controls: Lines
    """What must be in place."""
    approvers: Lines
    """Roles that approve a workflow of this tier."""
    logging_minimum: Lines
    """What is recorded at the least."""


class Tiers(SpecPart):
    """The table: one row for each of the tiers 0 to 4, in order."""

    tiers: tuple[TierRow, ...]
    """The rows."""

    @model_validator(mode="after")
    def _all_in_order(self) -> Self:
        if [row.tier for row in self.tiers] != [int(tier) for tier in Tier]:
            raise ValueError("`tiers` must hold the tiers 0, 1, 2, 3 and 4, once each and in order")
        return self

    def row(self, tier: Tier) -> TierRow:
        """The row of a tier."""
        return self.tiers[tier]


def load_tiers(folder: Path | None = None) -> Tiers:
    """Reads ``tiers.yaml`` of a folder; without one, that of the shipped folder.

    Raises:
        InvalidArgumentError: ``TIERS_INVALID``: it is missing or isn't the table.
    """
    where = folder or shipped_folder()
    try:
        return Tiers.model_validate(read_document(read_file(where, TIERS_FILE)).value)
    except (FileRefusedError, DocumentError, ValidationError) as error:
        raise InvalidArgumentError(f"{where / TIERS_FILE}: {error}", reason="TIERS_INVALID") from error
