# ruff: noqa: INP001 - runs alone inside a sandbox, as `__main__`
"""text.search: finds the lines of the files in the working folder that match a regular expression or a text.

Standard library only. Exit code 1 and a sentence on standard error say what is wrong with the input; no match is no
failure. An expression that takes for ever ends at the call's time limit.
"""

from __future__ import annotations

import codecs
import fnmatch
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

MAX_RESULT_BYTES = 900_000
MAX_LINE = 500
BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class BadInputError(Exception):
    """The pattern or the files can't be used; the text is for the caller."""


def input_files(patterns: list[str]) -> list[Path]:
    """The plain files of the working folder that fit one of the patterns, without what the broker put there.

    Raises:
        BadInputError: there is none.
    """
    own = {os.path.realpath(os.environ[name]) for name in ("BROKER_ARGUMENTS", "BROKER_RESULT") if name in os.environ}
    found = sorted(path for path in Path().rglob("*") if path.is_file() and not path.is_symlink())
    files = [
        path
        for path in found
        if os.path.realpath(path) not in own
        and (not patterns or any(fnmatch.fnmatchcase(path.as_posix(), pattern) for pattern in patterns))
    ]
    if not files:
        raise BadInputError("no file to search; give files with the call, and check `paths`")
    return files


def decode(data: bytes) -> tuple[str, str]:
    """The text and the encoding by which it was read; an empty encoding means that it is no text, and the text why."""
    encoding = next((name for bom, name in BOMS if data.startswith(bom)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            return f"begins as {encoding} and isn't: {error.reason} at byte {error.start}", ""
        encoding = "latin-1"
        text = data.decode(encoding)
    return ("binary: it holds NUL characters", "") if "\x00" in text else (text, encoding.removesuffix("-sig"))


def cut(line: str, column: int = 0) -> str:
    """A line, or the part of a long one around a column, with an ellipsis where it was cut."""
    if len(line) <= MAX_LINE:
        return line
    start = max(0, min(column - MAX_LINE // 4, len(line) - MAX_LINE))
    end = start + MAX_LINE
    return (
        ("\N{HORIZONTAL ELLIPSIS}" if start else "")
        + line[start:end]
        + ("\N{HORIZONTAL ELLIPSIS}" if end < len(line) else "")
    )


def expression(arguments: dict[str, Any]) -> re.Pattern[str]:
    """The compiled pattern.

    Raises:
        BadInputError: it is no regular expression.
    """
    text = arguments["pattern"]
    flags = re.IGNORECASE if arguments.get("ignore_case", False) else re.NOFLAG
    try:
        return re.compile(re.escape(text) if arguments.get("literal", False) else text, flags)
    except (re.error, OverflowError, RecursionError) as error:
        raise BadInputError(
            f"`pattern` is not a regular expression: {error}; set `literal` to search for it as text"
        ) from error


class Search:
    """One search over all files, up to its limits."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.pattern = expression(arguments)
        self.context: int = arguments.get("context", 0)
        self.max_matches: int = arguments.get("max_matches", 200)
        self.matches: list[dict[str, Any]] = []
        self.files: list[dict[str, Any]] = []
        self.skipped: list[dict[str, str]] = []
        self.size = 0
        self.truncated = False

    def file(self, path: Path) -> None:
        """Searches one file."""
        text, encoding = decode(path.read_bytes())
        if not encoding:
            self.skipped.append({"path": path.as_posix(), "reason": text})
            return
        lines = [line.removesuffix("\r") for line in text.split("\n")]
        if not lines[-1]:
            lines.pop()
        self.files.append({"path": path.as_posix(), "encoding": encoding, "lines": len(lines)})
        for index, line in enumerate(lines):
            found = self.pattern.search(line)
            if found and not self._add(path, lines, index, found):
                return

    def _add(self, path: Path, lines: list[str], index: int, found: re.Match[str]) -> bool:
        match: dict[str, Any] = {
            "path": path.as_posix(),
            "line": index + 1,
            "column": found.start() + 1,
            "length": found.end() - found.start(),
            "text": cut(lines[index], found.start()),
        }
        if self.context:
            match["before"] = [cut(line) for line in lines[max(0, index - self.context) : index]]
            match["after"] = [cut(line) for line in lines[index + 1 : index + 1 + self.context]]
        self.size += len(json.dumps(match, ensure_ascii=False).encode()) + 1
        if len(self.matches) == self.max_matches or self.size > MAX_RESULT_BYTES:
            self.truncated = True
            return False
        self.matches.append(match)
        return True

    def result(self) -> dict[str, Any]:
        """What was found."""
        return {
            "matches": self.matches,
            "files": self.files,
            "skipped": self.skipped,
            "truncated": self.truncated,
        }


def show(result: dict[str, Any]) -> None:
    """Prints the matches as ``path:line:column: text``."""
    for match in result["matches"]:
        text = "".join(
            char if char.isprintable() or char == "\t" else "\N{REPLACEMENT CHARACTER}" for char in match["text"]
        )
        sys.stdout.write(f"{match['path']}:{match['line']}:{match['column']}: {text}\n")
    for item in result["skipped"]:
        sys.stderr.write(f"text.search: skipped {item['path']}: {item['reason']}\n")
    more = "; there are more, cut here" if result["truncated"] else ""
    sys.stdout.write(f"({len(result['matches'])} matches in {len(result['files'])} files{more})\n")


def main() -> int:
    """Reads the arguments, searches, writes the result."""
    arguments = json.loads(Path(os.environ["BROKER_ARGUMENTS"]).read_text("utf-8"))
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr] # a real stream outside tests of this line
    try:
        search = Search(arguments)
        for path in input_files(arguments.get("paths", [])):
            if not search.truncated:
                search.file(path)
    except BadInputError as error:
        sys.stderr.write(f"text.search: {error}\n")
        return 1
    result = search.result()
    Path(os.environ["BROKER_RESULT"]).write_text(json.dumps(result, ensure_ascii=False), "utf-8")
    show(result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
