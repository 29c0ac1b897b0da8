"""The policy that the broker ships with."""

from __future__ import annotations

from importlib.resources import files

from broker.domain.ids import NAME_PATTERN
from broker.errors import FieldViolation, InvalidArgumentError


def default_policy(operator: str) -> str:
    """The complete text of the shipped policy, with the operator's role granted to one human.

    Args:
        operator: the human's name, as in ``human:<name>``.

    Raises:
        InvalidArgumentError: it is no name.
    """
    if NAME_PATTERN.fullmatch(operator) is None:
        raise InvalidArgumentError(
            f"{operator!a} is no name: a-z, then up to 62 of a-z 0-9 -",
            violations=(FieldViolation("operator", f"must match {NAME_PATTERN.pattern}"),),
        )
    shipped = files("broker.policy").joinpath("default.csv").read_text("utf-8")
    return f"{shipped}\n# The human whom `broker init` named.\ng, human:{operator}, role:operator, *\n"
