"""A text shown page by page on a terminal, all of it, before anybody is asked what they think of it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator

import typer
from rich.cells import cell_len

_LEAST_ROWS = 5


def page_through(text: str) -> None:
    """Shows a text to its end; the reader goes on with Enter.

    Raises:
        typer.Abort: the reader left before the end.
    """
    columns, rows = shutil.get_terminal_size()
    shown = list(pages(text, columns, max(rows - 1, _LEAST_ROWS)))
    for number, page in enumerate(shown, 1):
        sys.stdout.write("".join(f"{line}\n" for line in page))
        sys.stdout.flush()
        if number < len(shown) and read_line(f"-- page {number} of {len(shown)}: Enter goes on, q leaves -- ") == "q":
            raise typer.Abort


def pages(text: str, columns: int, rows: int) -> Iterator[list[str]]:
    """The lines of a text, as many at a time as fit; one that is longer than a page makes a page of its own."""
    page: list[str] = []
    used = 0
    for line in text.removesuffix("\n").split("\n"):
        needed = max(1, -(-cell_len(line) // max(columns, 1)))
        if page and used + needed > rows:
            yield page
            page, used = [], 0
        page.append(line)
        used += needed
    yield page


def read_line(prompt: str) -> str:
    """What is typed at the terminal, without blanks around it.

    Raises:
        typer.Abort: the terminal was closed.
    """
    sys.stdout.write(prompt)
    sys.stdout.flush()
    line = sys.stdin.readline()
    if not line:
        raise typer.Abort
    return line.strip()
