"""People's and bots' own keys: made, kept encrypted in a file, signed with, and verified. Nothing here reaches a broker."""

from broker.signing.keys import Ed25519Signer, Signer, load_key_file, new_key_file, read_public_key, verify
from broker.signing.passphrase import LEAST_PASSPHRASE, MOST_PASSPHRASE, check_passphrase, read_passphrase

__all__ = [
    "LEAST_PASSPHRASE",
    "MOST_PASSPHRASE",
    "Ed25519Signer",
    "Signer",
    "check_passphrase",
    "load_key_file",
    "new_key_file",
    "read_passphrase",
    "read_public_key",
    "verify",
]
