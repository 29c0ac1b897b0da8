"""Where secrets come from, and what a rule gets of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

import structlog

from broker.domain.run import EgressRule, EgressVerdict, SecretUse
from broker.domain.secret import Secret
from broker.errors import BrokerError
from broker.sandbox.egress.refusal import RefusedError

log = structlog.get_logger(__name__)

_VALUE = re.compile(rb"[\x21-\x7e][\x20-\x7e]{6,}[\x21-\x7e]")


class SecretStore(Protocol):
    """Gives secrets to the hosts that they are bound to. Called in a thread."""

    def give(self, name: str, host: str, port: int) -> Secret:
        """The present value of a secret for a host: printable ASCII, 8 bytes at least.

        Raises:
            BrokerError: there is none, it isn't bound to this host and port, or it can't be read.
        """


@dataclass(frozen=True, slots=True)
class Given:
    """A secret and its use in a rule."""

    use: SecretUse
    secret: Secret


async def secrets_for(store: SecretStore, rule: EgressRule, uses: Iterable[SecretUse]) -> tuple[Given, ...]:
    """The secrets of a rule's host, read now.

    Raises:
        RefusedError: ``SECRET_UNAVAILABLE``; says the name. The store's words are for the operator's log.
    """
    given = []
    for use in uses:
        try:
            secret = await asyncio.to_thread(store.give, use.name, rule.host, rule.port)
        except BrokerError as error:
            log.warning("egress_secret_unavailable", secret=use.name, reason=error.reason, error=error.message)
            raise RefusedError(
                EgressVerdict.SECRET_UNAVAILABLE,
                f"the broker has no secret {use.name!r} for {rule.host}:{rule.port} ({error.reason})",
                status=HTTPStatus.BAD_GATEWAY,
                hint="The operator names it under `secrets` in the broker's settings, with this host and port.",
                rule=rule,
            ) from error
        if not _fits(secret.reveal()):
            raise RefusedError(
                EgressVerdict.SECRET_UNAVAILABLE,
                f"the secret {use.name!r} can't be sent",
                status=HTTPStatus.BAD_GATEWAY,
                hint="It must be printable ASCII, 8 bytes at least, without space at its ends.",
                rule=rule,
            )
        given.append(Given(use, secret))
    return tuple(given)


def _fits(value: bytes) -> bool:
    # The HTTP library would refuse it too, but with the value in its error's text.
    return _VALUE.fullmatch(value) is not None
