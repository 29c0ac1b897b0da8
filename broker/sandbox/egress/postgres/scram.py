"""The client's side of SCRAM-SHA-256, bound to the TLS channel where the server can; the arithmetic is scramp's."""

from __future__ import annotations

import ssl
from collections.abc import Collection

from scramp import ScramClient, ScramException

from broker.domain.secret import Secret

PLAIN = "SCRAM-SHA-256"
BOUND = "SCRAM-SHA-256-PLUS"
MAX_ITERATIONS = 1_000_000
"""Of the password's hash, about a third of a second's work."""
_BINDING = "tls-server-end-point"
_USER = "*"
"""PostgreSQL takes the user from the startup message, and ignores this one, which may not be empty."""


class ScramError(ValueError):
    """The server doesn't prove that it knows the password, or can't be talked to; the text has nothing of the password."""


class Scram:
    """One login.

    Args:
        offered: the mechanisms that the server offers.
        password: printable ASCII.
        tls: the channel, whose certificate has been verified.

    Raises:
        ScramError: the server offers no mechanism of this kind, or its certificate can't be bound to.
    """

    def __init__(self, offered: Collection[str], password: Secret, tls: ssl.SSLObject) -> None:
        self.mechanism = next((name for name in (BOUND, PLAIN) if name in offered), "")
        """That was chosen: the bound one wherever it is offered."""
        if not self.mechanism:
            raise ScramError(f"it offers no {PLAIN}")
        certificate = tls.getpeercert(binary_form=True)
        if certificate is None:
            raise ScramError("it has shown no certificate")
        # Unbound, the certificate's bytes only stand for: we could have bound. The server then refuses if it had offered
        # to, and somebody between had struck that out.
        binding = (_BINDING, tls if self.mechanism == BOUND else certificate)
        try:
            self._client = ScramClient([self.mechanism], _USER, password.reveal().decode("ascii"), binding)
        except (ScramException, TypeError):  # the latter where the signature's hash has no length, as that of Ed448
            raise ScramError("the login can't be bound to its certificate, whose signature has no usual hash") from None

    def first(self) -> str:
        """What is said first."""
        return str(self._client.get_client_first())

    def hear_first(self, data: bytes) -> None:
        """The server's challenge.

        Raises:
            ScramError: it is none, or asks for too little or too much work.
        """
        try:
            self._client.set_server_first(data.decode("ascii"))
        except (ScramException, UnicodeDecodeError) as error:
            raise ScramError(f"its challenge isn't accepted: {_why(error)}") from None
        if int(self._client.iterations) > MAX_ITERATIONS:
            raise ScramError(f"it asks for more than {MAX_ITERATIONS} rounds of hashing")

    def final(self) -> str:
        """Our proof. Hashes for up to a third of a second: call it in a thread."""
        return str(self._client.get_client_final())

    def hear_final(self, data: bytes) -> None:
        """The server's own proof.

        Raises:
            ScramError: it doesn't know the password, or refuses ours.
        """
        try:
            self._client.set_server_final(data.decode("ascii"))
        except (ScramException, UnicodeDecodeError) as error:
            raise ScramError(f"it doesn't prove that it knows the password: {_why(error)}") from None


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, ScramException) else "it isn't ASCII"
