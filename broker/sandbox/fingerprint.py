"""What makes two containers the same before their call: the key of the warm pool."""

from __future__ import annotations

from dataclasses import asdict
from functools import lru_cache

from broker.domain.canonical import JsonObject, canonical, digest
from broker.domain.run import Profile

_REMEMBERED = 1024


def hardening_digest(body: JsonObject) -> str:
    """The digest of what an engine adds to every profile: the request for a container of one that is fixed."""
    return digest(canonical(body))


@lru_cache(_REMEMBERED)
def fingerprint(profile: Profile, hardening: str) -> str:
    """The digest of everything that a container is made from; each field of a profile counts, those to come as well.

    Args:
        profile: what the present decision resolves to.
        hardening: ``hardening_digest`` of the engine that makes the container.
    """
    return digest(canonical({"hardening": hardening, "profile": asdict(profile)}))
