r"""Text that shows all that it holds: what would hide, disguise or reorder itself is written as ``\u{202E}``.

Judged by Unicode 3.2, which Python carries beside its own, newer tables: they differ from one Python to the next, and two
programs that make a text of the same envelope must come to the same bytes. Whatever is younger than 3.2 is written out.

Shown as it is: printable ASCII, and of the rest only letters, digits, punctuation and symbols that run from left to
right, are in NFC and don't pass for ASCII, and marks behind such a letter. Scripts that run from right to left are written out: they
would move the text around them. Letters that look like another script's are written out within a word that mixes both.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import NamedTuple
from unicodedata import ucd_3_2_0 as unicode

ESCAPE = re.compile(r"\\u\{([0-9A-F]{1,6})\}")
"""A character that is written out. A backslash of the text that could begin one is written out itself."""

_BEGINS_ONE = re.compile(r"\\(?=u\{)")
_PLAIN = re.compile(r"[ -~]*")
_JSON_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}
_JSON_ESCAPED = re.compile(r'([\\"\n\t])')
# Words, in the sense that what stands in one can change how the rest of it looks.
_WORD = re.compile(r"[0-9A-Za-z]*(?:[^ -~][0-9A-Za-z]*)+")
_TRAILING = re.compile(r" +$")

_SHOWN = frozenset({"Lu", "Ll", "Lt", "Lm", "Lo", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po"}) | {
    "Sm",
    "Sc",
    "Sk",
    "So",
}
_MARKS = frozenset({"Mn", "Mc"})
_LEFT_TO_RIGHT = frozenset({"L", "EN", "ES", "ET", "CS", "ON", "NSM"})
_MOST_MARKS = 2
"""Marks behind one letter that are shown; more can cover the lines above and below."""

_BLANK = frozenset("\u00ad\u115f\u1160\u2800\u3164\uffa0\ufffc\U0001d159")
"""Letters, punctuation and symbols that show nothing."""

_LOOSE_MARKS = (
    (0x0300, 0x036F),  # go with every script; with Latin letters they would be one character in NFC
    (0x17B4, 0x17B5),
    (0x180B, 0x180E),
    (0x20D0, 0x20FF),
    (0xFE00, 0xFE0F),
    (0xFE20, 0xFE2F),
    (0x1D165, 0x1D1AD),
)
_LATIN = "LATIN "
_ALIKE = ("CYRILLIC ", "GREEK ", "ARMENIAN ", "CHEROKEE ", "COPTIC ", "LISU ", "DESERET ")
"""Scripts with letters that look like Latin ones, as their characters' names begin."""

_REMEMBERED = 2**16

_NAMES = {
    0x00: "NULL",
    0x07: "BELL",
    0x08: "BACKSPACE",
    0x09: "TABULATION",
    0x0A: "LINE FEED",
    0x0B: "LINE TABULATION",
    0x0C: "FORM FEED",
    0x0D: "CARRIAGE RETURN",
    0x1B: "ESCAPE",
    0x7F: "DELETE",
    0x85: "NEXT LINE",
    0x9B: "CONTROL SEQUENCE INTRODUCER",
    0x061C: "ARABIC LETTER MARK",
    0x2066: "LEFT-TO-RIGHT ISOLATE",
    0x2067: "RIGHT-TO-LEFT ISOLATE",
    0x2068: "FIRST STRONG ISOLATE",
    0x2069: "POP DIRECTIONAL ISOLATE",
}


class Visible:
    """Makes texts visible, and counts which characters it has written out."""

    def __init__(self) -> None:
        self._found: Counter[str] = Counter()

    @property
    def found(self) -> tuple[tuple[str, int], ...]:
        """Each character that was written out, and how many times; in the order of their numbers."""
        return tuple(sorted(self._found.items()))

    def line(self, text: str) -> str:
        """One line: line feeds are written out too."""
        return self._trailing(self.inside(_BEGINS_ONE.sub(lambda match: self.write_out(match[0]), text)))

    def lines(self, text: str) -> list[str]:
        """Each line of a text; what they stand for, joined by line feeds, is the text."""
        return [self.line(line) for line in text.split("\n")]

    def quoted(self, text: str) -> str:
        """A JSON string, which differs from any other only by its written-out characters; ``json.loads`` doesn't read those."""
        parts = _JSON_ESCAPED.split(text)
        return '"' + "".join(_JSON_ESCAPES.get(part) or self.inside(part) for part in parts) + '"'

    def inside(self, text: str) -> str:
        """A text that has its own way with backslashes."""
        if _PLAIN.fullmatch(text):
            return text
        return _WORD.sub(lambda match: self._word(match[0]), text)

    def write_out(self, char: str) -> str:
        """One character in its written-out form, counted."""
        self._found[char] += 1
        return written_out(char)

    def _trailing(self, text: str) -> str:
        return _TRAILING.sub(lambda match: "".join(map(self.write_out, match[0])), text)

    def _word(self, word: str) -> str:
        hidden = _hidden(word)
        return "".join(self.write_out(char) if hide else char for char, hide in zip(word, hidden, strict=True))


def written_out(char: str) -> str:
    r"""``\u{202E}``."""
    return f"\\u{{{ord(char):X}}}"


def restore(text: str) -> str:
    """What ``Visible.line`` was given."""
    return ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)


def name(char: str) -> str:
    """The character's name, as far as Unicode 3.2 has one."""
    number = ord(char)
    known = _NAMES.get(number) or unicode.name(char, "")
    if known:
        return known
    if 0xFE00 <= number <= 0xFE0F or 0xE0100 <= number <= 0xE01EF:
        return "VARIATION SELECTOR"
    kind = unicode.category(char)
    if kind == "Cc":
        return "CONTROL CHARACTER"
    return "PRIVATE USE" if kind == "Co" else "UNASSIGNED IN UNICODE 3.2"


def width(char: str) -> int:
    """Columns that a shown character takes."""
    return _facts(char).width


class _Facts(NamedTuple):
    """What is known of a character by itself."""

    shown: bool
    """Stands for itself where nothing beside it speaks against that; of a mark: behind a letter."""
    mark: bool
    holds_marks: bool
    script: str
    """Of a letter that looks like another script's; else empty."""
    width: int


@lru_cache(_REMEMBERED)
def _facts(char: str) -> _Facts:
    kind = unicode.category(char)
    mark = kind in _MARKS
    letter = kind[0] == "L"
    shown = " " <= char <= "~" or ((mark or kind in _SHOWN) and _stands_for_itself(char))
    wide = unicode.east_asian_width(char) in {"W", "F"}
    return _Facts(
        shown=shown,
        mark=mark,
        holds_marks=shown and letter and char > "~",
        script=_script(char) if letter else "",
        width=0 if kind == "Mn" else 2 if wide else 1,
    )


def _stands_for_itself(char: str) -> bool:
    if char in _BLANK or any(first <= ord(char) <= last for first, last in _LOOSE_MARKS):
        return False
    if unicode.bidirectional(char) not in _LEFT_TO_RIGHT:
        return False
    # Full-width letters, mathematical alphabets, superscripts: one ASCII character under another number.
    plain = unicode.normalize("NFKC", char)
    return not (len(plain) == 1 and plain.isascii()) and unicode.normalize("NFC", char) == char


def _script(char: str) -> str:
    called = unicode.name(char, "")
    return next((script for script in (_LATIN, *_ALIKE) if called.startswith(script)), "")


def _hidden(word: str) -> list[bool]:
    """Which characters of a word to write out."""
    facts = list(map(_facts, word))
    scripts = {item.script for item in facts if item.shown and item.script}
    # A word of two scripts that look alike: only its Latin letters stay.
    alike = scripts - {_LATIN} if len(scripts) > 1 else frozenset[str]()
    hidden: list[bool] = []
    marks = _MOST_MARKS  # behind the present letter; as many as there may be where no letter is
    for item in facts:
        if item.mark:
            shown = item.shown and marks < _MOST_MARKS
            marks = marks + 1 if shown else _MOST_MARKS
        else:
            shown = item.shown and item.script not in alike
            marks = 0 if shown and item.holds_marks else _MOST_MARKS
        hidden.append(not shown)
    if not _normal(word, hidden):
        return [hide or char > "~" for char, hide in zip(word, hidden, strict=True)]
    return hidden


def _normal(word: str, hidden: list[bool]) -> bool:
    # A character that is written out parts those beside it, as they are then seen.
    shown = "".join("\\" if hide else char for char, hide in zip(word, hidden, strict=True))
    return unicode.is_normalized("NFC", shown)
