"""A founding in words: all that its content covers, and how one content differs from another. Pure.

Names are on the broker's word, since the ledger holds commitments to them; so every name stands beside its id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from broker.domain.canonical import JsonValue, canonical, digest, parse_object
from broker.domain.founding import MAX_CONTENT_BYTES, FoundingContent, FoundingIdentity
from broker.domain.visible import Visible, written_out
from broker.domain.visible import name as char_name
from broker.errors import FieldViolation, InvalidArgumentError

POLICY, SETTINGS, TOOLS = "policy", "settings", "tools"
_HUMAN = "human"


def check_texts(content: FoundingContent, texts: Mapping[str, str]) -> None:
    """Lets pass texts that are those which the content names, all three of them.

    Raises:
        InvalidArgumentError: ``FOUNDING_MALFORMED``; names the text.
    """
    for kind, named in ((POLICY, content.policy), (SETTINGS, content.settings), (TOOLS, content.tools)):
        text = texts.get(kind)
        if text is None or digest(text.encode()) != named:
            why = "is missing" if text is None else f"is not the text of {named}"
            raise InvalidArgumentError(
                f"the {kind} of the founding {why}",
                reason="FOUNDING_MALFORMED",
                violations=(FieldViolation(f"texts.{kind}", why),),
                hint="Nothing was signed. Ask the broker's operator, and the other founders.",
            )


def founding_text(content: FoundingContent, texts: Mapping[str, str], names: Mapping[str, str]) -> str:
    """All that is accepted, for people; ``texts`` have passed ``check_texts``.

    Raises:
        InvalidArgumentError: settings or tools are no JSON object.
    """
    shown = Visible()
    people = [item for item in content.identities if item.kind == _HUMAN]
    agents = [item for item in content.identities if item.kind != _HUMAN]
    sections: tuple[tuple[str, Iterable[str]], ...] = (
        ("PEOPLE WHO APPROVE, by their keys (have each of them read theirs out)", _approvers(content, names)),
        ("PEOPLE, and the keys of the certificates by which each of them calls", _identities(people, names)),
        ("AGENTS, with the person who answers for each", _identities(agents, names)),
        (f"TOOLS and their tiers, {content.tools}", _tools(texts[TOOLS])),
        (f"TIERS, and the settings that weaken the rule, {content.settings}", _settings(texts[SETTINGS])),
        (f"POLICY, whole, {content.policy}", texts[POLICY].removesuffix("\n").split("\n")),
    )
    lines = [
        f"THE FOUNDING COVERS all that follows, as it stands since entry {content.last_seq} of the ledger.",
        "Whoever accepts it agrees to all of it.",
    ]
    for heading, inner in sections:
        # Each line by itself, and indented: what comes with a line break in it can't pass for a line of this text.
        visible = [shown.line(line) for line in inner]
        lines += ["", heading, *(f"  {line}" if line else "" for line in visible)]
    if shown.found:
        lines += ["", "CHARACTERS THAT ARE WRITTEN OUT above"]
        lines += [f"  {written_out(char)} {char_name(char)}, {count} times" for char, count in shown.found]
    return "".join(f"{line}\n" for line in lines)


def differences(before: FoundingContent, after: FoundingContent, names: Mapping[str, str]) -> tuple[str, ...]:
    """What a later content has otherwise, a sentence each; names are made visible."""
    return tuple(Visible().line(item) for item in _differences(before, after, names))


def _differences(before: FoundingContent, after: FoundingContent, names: Mapping[str, str]) -> Iterator[str]:
    if before.genesis != after.genesis:
        yield "the ledger is another one: its first entry differs"
    for item in sorted(set(after.approvers) - set(before.approvers)):
        yield f"{_name(item.person, names)} approves with the key {item.key}, which was not there"
    for item in sorted(set(before.approvers) - set(after.approvers)):
        yield f"{_name(item.person, names)} no longer approves with the key {item.key}"
    old, new = ({item.id: item for item in content.identities} for content in (before, after))
    for which in sorted(old.keys() | new.keys()):
        yield from _changed(old.get(which), new.get(which), names)
    for what, one, other in (
        ("the policy", before.policy, after.policy),
        ("the tiers or the settings that weaken the rule", before.settings, after.settings),
        ("the tools or their tiers", before.tools, after.tools),
    ):
        if one != other:
            yield f"{what}: {other} instead of {one}"
    if before.last_leaf != after.last_leaf:
        yield f"the last change is entry {after.last_seq} of the ledger; when you accepted it was entry {before.last_seq}"


def _changed(old: FoundingIdentity | None, new: FoundingIdentity | None, names: Mapping[str, str]) -> Iterator[str]:
    if old is None and new is not None:
        owner = f", owned by {_name(new.owner, names)}" if new.owner else ""
        yield f"{_name(new.id, names)} is new{owner}, registered by {_name(new.registrar, names)}"
    elif old is not None and new is None:
        yield f"{_name(old.id, names)} was revoked"
    elif old is not None and new is not None and old != new:
        if old.owner != new.owner:
            yield f"{_name(new.id, names)} is owned by {_name(new.owner, names)} instead of {_name(old.owner, names)}"
        if old.registrar != new.registrar:
            yield f"{_name(new.id, names)} is registered by {_name(new.registrar, names)}"
        if old.name_commit != new.name_commit:
            yield f"{_name(new.id, names)} has another name"
        for item in sorted(set(new.certificates) - set(old.certificates)):
            yield f"{_name(new.id, names)} has a further certificate, of the key {item.key}"
        for item in sorted(set(old.certificates) - set(new.certificates)):
            yield f"{_name(new.id, names)} has no certificate of the key {item.key} any more"


def _approvers(content: FoundingContent, names: Mapping[str, str]) -> Iterator[str]:
    for item in content.approvers:
        yield _name(item.person, names)
        yield f"  key {item.key}"


def _identities(found: Sequence[FoundingIdentity], names: Mapping[str, str]) -> Iterator[str]:
    if not found:
        yield "none"
    for item in found:
        owner = f"owned by {_name(item.owner, names)}, " if item.owner else ""
        yield _name(item.id, names)
        yield f"  {owner}registered by {_name(item.registrar, names)}"
        yield from (f"  certificate of the key {one.key}" for one in item.certificates)


def _tools(text: str) -> Iterator[str]:
    for part, value in _object(text, TOOLS):
        if part != TOOLS or not isinstance(value, dict):
            yield f"{part}: {_words(value)}"
        else:
            yield from (f"{name}: tier {_words(tier)}" for name, tier in sorted(value.items()))


def _settings(text: str) -> Iterator[str]:
    for part, value in _object(text, SETTINGS):
        if not isinstance(value, dict):
            yield f"{part}: {_words(value)}"
            continue
        for name, inner in sorted(value.items()):
            if name == "tiers" and isinstance(inner, list):
                for row in inner:
                    yield from _row(row)
            else:
                yield f"{name}: {'on' if inner is True else 'off' if inner is False else _words(inner)}"


def _row(row: JsonValue) -> Iterator[str]:
    if not isinstance(row, dict):
        yield _words(row)
        return
    yield f"tier {_words(row.get('tier'))}"
    yield from (f"  {name}: {_words(value)}" for name, value in sorted(row.items()) if name != "tier")


def _object(text: str, what: str) -> list[tuple[str, JsonValue]]:
    return sorted(parse_object(text.encode(), field=what, max_bytes=MAX_CONTENT_BYTES).items())


def _name(which: str, names: Mapping[str, str]) -> str:
    known = names.get(which, "")
    return f"{known} ({which})" if known and known != which else which or "nobody"


def _words(value: JsonValue) -> str:
    return "nothing" if value is None else value if isinstance(value, str) else canonical(value).decode()
