"""What the commands share that talk to a running broker: how to reach it, and running a request to its end.

The address comes from ``--address``, else from the state directory's ``serve.json``, which a running broker writes. The CA
comes from ``--ca``, else from the state directory. The identity comes from ``--identity``: a folder with ``cert.pem`` and
``key.pem``, or ``agent/NAME`` or ``human/NAME`` in the state directory; where the state directory holds only one, it is
taken.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from broker.client import AsyncBroker, CallContext, RetryPolicy
from broker.errors import FieldViolation, InvalidArgumentError, UnavailableError
from broker.settings import DEFAULT_STATE, StatePaths

T = TypeVar("T")

AddressOption = Annotated[
    str,
    typer.Option(
        "--address",
        envvar="BROKER_ADDRESS",
        help="The broker's host:port. Default: that of the state directory's broker.",
    ),
]
IdentityOption = Annotated[
    str,
    typer.Option(
        "--identity",
        envvar="BROKER_IDENTITY",
        help="Who calls: a folder with cert.pem and key.pem, or agent/NAME or human/NAME of the state directory.",
    ),
]
CaOption = Annotated[
    Path | None,
    typer.Option("--ca", envvar="BROKER_CA", help="The CA's certificate. Default: that of the state directory."),
]
StateOption = Annotated[
    Path, typer.Option("--state", envvar="BROKER_STATE", help="State directory, for what isn't given.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
WorkspaceOption = Annotated[
    str, typer.Option("--workspace", "-w", envvar="BROKER_WORKSPACE", help="Workspace in which it is decided.")
]

_RETRY = RetryPolicy(attempts=4, total_s=15.0)
"""A person or script at a terminal waits less long than an agent."""


@dataclass(frozen=True, slots=True)
class Remote:
    """How to reach a broker, as the options said it."""

    address: str = ""
    identity: str = ""
    ca: Path | None = None
    state: Path = DEFAULT_STATE

    def client(self, context: CallContext | None = None) -> AsyncBroker:
        """A client with everything found.

        Raises:
            InvalidArgumentError: something isn't given and can't be found; the hint says which option gives it.
            UnavailableError: no broker runs on the state directory.
        """
        paths = StatePaths(self.state)
        identity = self._identity(paths)
        ca = self.ca or paths.ca_certificate
        if self.ca is None and not ca.is_file():
            raise _missing("ca", f"there is no CA at {ca}", "Give it with --ca or BROKER_CA, or name the --state.")
        return AsyncBroker.connect(self._address(paths), identity=identity, ca=ca, context=context, retry=_RETRY)

    def run(self, work: Callable[[AsyncBroker], Awaitable[T]], context: CallContext | None = None) -> T:
        """Runs ``work`` with an open client."""

        async def session() -> T:
            async with self.client(context) as broker:
                return await work(broker)

        return asyncio.run(session())

    def _address(self, paths: StatePaths) -> str:
        if self.address:
            return self.address
        try:
            info = json.loads(paths.socket_info.read_text("utf-8"))
            address = info["address"]
        except FileNotFoundError:
            raise UnavailableError(
                f"no broker runs on {paths.root}: there is no {paths.socket_info.name}",
                reason="BROKER_UNREACHABLE",
                hint="Start one with `broker serve`, or give --address or BROKER_ADDRESS.",
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _missing("address", f"{paths.socket_info} can't be read", "Give --address.") from error
        if not isinstance(address, str):
            raise _missing("address", f"{paths.socket_info} holds no address", "Give --address.")
        return address

    def _identity(self, paths: StatePaths) -> Path:
        if self.identity:
            inside = paths.identities / self.identity
            for folder in (Path(self.identity), inside):
                if (folder / "cert.pem").is_file():
                    return folder
            raise _missing(
                "identity",
                f"neither {self.identity} nor {inside} holds a cert.pem",
                "`broker identity issue` writes certificates; " + _known(paths),
            )
        found = sorted(path.parent for path in paths.identities.glob("*/*/cert.pem"))
        if len(found) == 1:
            return found[0]
        raise _missing(
            "identity",
            "is needed: who calls?",
            "Give --identity or BROKER_IDENTITY; " + _known(paths),
        )


def _known(paths: StatePaths) -> str:
    names = sorted(str(path.parent.relative_to(paths.identities)) for path in paths.identities.glob("*/*/cert.pem"))
    if not names:
        return f"{paths.root} has none."
    return f"{paths.root} has " + ", ".join(names[:8]) + (", ..." if len(names) > 8 else ".")


def _missing(field: str, why: str, hint: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{field}: {why}",
        reason="CONNECTION_OPTIONS_INVALID",
        hint=hint,
        violations=(FieldViolation(f"--{field}", why),),
    )
