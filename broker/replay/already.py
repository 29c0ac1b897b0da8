"""Whether a name has been met before: surely not, or perhaps; in memory that doesn't grow with their number."""

from __future__ import annotations

_BITS = 2**24
_SHIFT = 32


class Seen:
    """A Bloom filter of two hashes, 2 MiB: of a million names one in a hundred new ones is taken for one that was met."""

    def __init__(self) -> None:
        self._bits = bytearray(_BITS // 8)

    def add(self, name: str) -> bool:
        """Remembers a name. May it have been met before? ``False`` is certain."""
        number = hash(name)
        one, other = number % _BITS, (number >> _SHIFT) % _BITS
        bits = self._bits
        met = bits[one >> 3] >> (one & 7) & bits[other >> 3] >> (other & 7) & 1
        bits[one >> 3] |= 1 << (one & 7)
        bits[other >> 3] |= 1 << (other & 7)
        return bool(met)
