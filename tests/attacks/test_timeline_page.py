"""Texts that agents choose try to take over the page of a timeline, or to lie in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from broker.replay.timeline.model import CallTexts, Kept, Timeline
from broker.replay.timeline.page import write_page
from tests.pages import Page, browse
from tests.timeline_world import DELETE, Incident, timeline_of

SCRIPT = "</title></style><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
BIDI = "delete \u202eslrig\u202c and\u200b hide"
QUOTE = '" onmouseover="x\' --><![CDATA[ &lt;script&gt; \x00\x1b[31m'
HUGE = "x" * 3_000_000


class Hostile:
    """What is kept of each call is of an agent's making."""

    def __init__(self, text: str) -> None:
        self._text = text

    def calls(self, calls: Iterable[str]) -> Mapping[str, CallTexts]:
        """The same everywhere."""
        text = self._text
        told = CallTexts(Kept.KEPT, text, text, text, text, (text, text), (text,), (f"removed {text}",))
        return dict.fromkeys(calls, told)

    def votes(self, votes: Iterable[tuple[str, int]]) -> Mapping[tuple[str, int], str]:
        """The same as every reason."""
        return dict.fromkeys(votes, self._text)


def hostile(text: str) -> Timeline:
    """A timeline in which it stands in every place, names in the entries too."""
    incident = Incident().tell()
    incident.story.append(
        "outcome",
        {
            "call_id": DELETE,
            "outcome": {"state": text[:500], "cause": text[:500]},
            "egress": [{"host": text[:500], "port": 1}],
        },
    )
    incident.story.append(text[:500], {"call_id": DELETE, "by": text[:500], "agent": {"id": text[:500]}})
    return timeline_of(incident.story, texts=Hostile(text))


@pytest.mark.parametrize("text", [SCRIPT, BIDI, QUOTE, HUGE], ids=["script", "bidi", "quote", "huge"])
def test_no_text_becomes_markup_hides_or_fills_the_page(text: str) -> None:
    made = hostile(text)
    page = write_page(made, lambda identity: f"{identity}{text[:200]}")
    found = Page(page)
    assert {tag for tag, _ in found.tags}.isdisjoint({"script", "img"})
    assert not [key for _, attrs in found.tags for key in attrs if key.startswith("on")]
    assert not set(page) & set("\u202e\u202c\u200b\x00\x1b")
    assert len(page) < 2_000_000
    if text is HUGE:
        assert "(3000000 characters)" in page


def test_a_browser_runs_nothing_of_it(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(write_page(hostile(SCRIPT), lambda identity: f"{identity}{SCRIPT}"), "utf-8")
    shown = browse(file, "--dump-dom")
    assert "<title>Timeline: everything</title>" in shown
    assert "<title>taken" not in shown
    assert "&lt;script&gt;document.title" in shown
