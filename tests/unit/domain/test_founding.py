"""What founders accept: its canonical form, its text, and what is told of a change."""

from __future__ import annotations

import json

import pytest

from broker.domain.canonical import canonical, digest
from broker.domain.founding import (
    FoundingCertificate,
    FoundingContent,
    FoundingIdentity,
    FoundingKey,
    parse_content,
)
from broker.domain.founding_text import check_texts, differences, founding_text
from broker.errors import InvalidArgumentError

TEXTS = {
    "policy": "p, one, role:approver, *, *, approve, 4, allow, approvers decide\n\nAGENTS, with \u202e a trap \n",
    "settings": '{"table":{"tiers":[{"call_approval":null,"tier":4}]},"unsafe":{"unsafe_chat_only_quorum":true}}',
    "tools": '{"tools":{"python.run":1}}',
}
CONTENT = FoundingContent(
    genesis="1" * 64,
    last_seq=9,
    last_leaf="2" * 64,
    approvers=(FoundingKey("hum_a", digest(b"key")),),
    identities=(
        FoundingIdentity("agt_s", "agent", "c0", "hum_a", "hum_a", ()),
        FoundingIdentity("hum_a", "human", "c1", "", "hum_a", (FoundingCertificate("sha256:f", "sha256:k"),)),
    ),
    policy=digest(TEXTS["policy"].encode()),
    settings=digest(TEXTS["settings"].encode()),
    tools=digest(TEXTS["tools"].encode()),
)
NAMES = {"hum_a": "human:ada", "agt_s": "agent:scout"}


def test_what_is_read_is_what_was_written() -> None:
    assert parse_content(CONTENT.encode()) == CONTENT
    assert CONTENT.digest == digest(CONTENT.encode())


def paths(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return (
        [path, *(found for name, item in inner for found in paths(item, (*path, name)))]
        if path
        else [found for name, item in inner for found in paths(item, (name,))]
    )


@pytest.mark.parametrize("path", paths(json.loads(CONTENT.encode())), ids=lambda path: ".".join(map(str, path)))
@pytest.mark.parametrize("new", [None, 0.5, "other", ["other"], {"other": 1}])
def test_a_content_that_is_otherwise_is_another_or_refused(path: tuple[str | int, ...], new: object) -> None:
    body = json.loads(CONTENT.encode())
    inner = body
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = new
    assert _read(canonical(body)) != CONTENT


def _read(data: bytes) -> FoundingContent | None:
    """What is read, with another digest; ``None`` where it is refused, which is the only error there is."""
    try:
        found = parse_content(data)
    except InvalidArgumentError:
        return None
    assert found.digest != CONTENT.digest
    return found


@pytest.mark.parametrize("part", ["policy", "settings", "tools"])
def test_a_text_that_lacks_or_differs_is_refused(part: str) -> None:
    check_texts(CONTENT, TEXTS)
    for texts in ({**TEXTS, part: TEXTS[part] + " "}, {name: text for name, text in TEXTS.items() if name != part}):
        with pytest.raises(InvalidArgumentError) as refused:
            check_texts(CONTENT, texts)
        assert f"the {part} of the founding" in refused.value.message


def test_all_of_it_is_shown_and_nothing_passes_for_another_line() -> None:
    text = founding_text(CONTENT, TEXTS, {**NAMES, "hum_a": "human:ada\nAGENTS, with the person who answers for each"})
    lines = text.splitlines()
    headings = [line for line in lines if line and not line.startswith(" ")]
    assert [line.partition(",")[0] for line in headings[2:]] == [
        "PEOPLE WHO APPROVE",
        "PEOPLE",
        "AGENTS",
        "TOOLS and their tiers",
        "TIERS",
        "POLICY",
        "CHARACTERS THAT ARE WRITTEN OUT above",
    ]
    for shown in (
        r"human:ada\u{A}AGENTS",
        "  agent:scout (agt_s)",
        "owned by human:ada",
        f"    key {digest(b'key')}",
        "    certificate of the key sha256:k",
        "  python.run: tier 1",
        "  unsafe_chat_only_quorum: on",
        "    call_approval: nothing",
        r"  AGENTS, with \u{202E} a trap\u{20}",
        CONTENT.policy,
        CONTENT.settings,
        CONTENT.tools,
    ):
        assert shown in text


def test_each_difference_is_told() -> None:
    from dataclasses import replace  # noqa: PLC0415 - this test's own

    scout, ada = CONTENT.identities
    other = replace(
        CONTENT,
        genesis="3" * 64,
        last_seq=12,
        last_leaf="4" * 64,
        approvers=(FoundingKey("hum_b", digest(b"other")),),
        identities=(
            replace(scout, owner="hum_b", registrar="hum_b", name_commit="c9"),
            replace(ada, certificates=(FoundingCertificate("sha256:g", "sha256:l"),)),
            FoundingIdentity("hum_b", "human", "c2", "", "hum_a", ()),
        ),
        policy=digest(b"p"),
        settings=digest(b"s"),
        tools=digest(b"t"),
    )
    told = "\n".join(differences(CONTENT, other, NAMES))
    for words in (
        "its first entry differs",
        "hum_b approves with the key",
        "human:ada (hum_a) no longer approves with the key",
        "agent:scout (agt_s) is owned by hum_b instead of human:ada (hum_a)",
        "agent:scout (agt_s) is registered by hum_b",
        "agent:scout (agt_s) has another name",
        "human:ada (hum_a) has a further certificate, of the key sha256:l",
        "human:ada (hum_a) has no certificate of the key sha256:k any more",
        "hum_b is new, registered by human:ada (hum_a)",
        f"the policy: {digest(b'p')} instead of {CONTENT.policy}",
        "the tiers or the settings that weaken the rule",
        "the tools or their tiers",
        "the last change is entry 12",
    ):
        assert words in told
    assert "hum_b was revoked" in "\n".join(differences(other, CONTENT, NAMES))
    assert differences(CONTENT, CONTENT, NAMES) == ()
