"""The map of agents' heads against a naive one: hashes made from the whole dict, top down."""

from __future__ import annotations

import copy
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.canonical import JsonObject
from broker.tlog import agent_map
from broker.tlog.agent_map import EMPTY_MAP_ROOT, AgentMap, verify_head
from broker.tlog.merkle import ProofError

Heads = dict[str, tuple[int, bytes]]

HEAD = st.tuples(st.integers(0, 2**53 - 1), st.binary(min_size=32, max_size=32))
HEADS = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=12), HEAD, max_size=40)


def key(agent: str) -> str:
    return f"{int.from_bytes(hashlib.sha256(agent.encode()).digest(), 'big'):0256b}"


def naive_root(heads: Heads, prefix: str = "") -> bytes:
    inside = [agent for agent in heads if key(agent).startswith(prefix)]
    if not inside:
        return bytes(32)
    if len(inside) == 1:
        seq, leaf = heads[inside[0]]
        name = hashlib.sha256(inside[0].encode()).digest()
        return hashlib.sha256(b"\x00" + name + seq.to_bytes(8, "big") + leaf).digest()
    left, right = naive_root(heads, prefix + "0"), naive_root(heads, prefix + "1")
    return hashlib.sha256(b"\x01" + left + right).digest()


def build(heads: Heads) -> AgentMap:
    agents = AgentMap()
    for agent, (seq, leaf) in heads.items():
        agents.set(agent, seq, leaf)
    return agents


def refused(root: bytes, agent: str, head: tuple[int, bytes] | None, proof: JsonObject) -> None:
    with pytest.raises(ProofError):
        verify_head(root, agent, head, proof)


@given(HEADS)
def test_root_is_the_naive_one(heads: Heads) -> None:
    agents = build(heads)
    assert agents.root() == naive_root(heads)
    assert len(agents) == len(heads)


@given(HEADS, st.randoms())
def test_order_does_not_matter_nor_what_stood_there_before(heads: Heads, random: object) -> None:
    shuffled = list(heads.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    agents = AgentMap()
    for number, (agent, (seq, leaf)) in enumerate(shuffled):
        agents.set(agent, number, bytes(32))
        if number % 3 == 0:
            agents.root()  # hashes are kept from here on, and must give way
        agents.set(agent, seq, leaf)
    assert agents.root() == naive_root(heads)
    assert len(agents) == len(heads)


@given(HEADS, st.lists(st.tuples(st.integers(0, 60), HEAD), max_size=30))
def test_root_follows_each_change(heads: Heads, changes: list[tuple[int, tuple[int, bytes]]]) -> None:
    agents, model = build(heads), dict(heads)
    for number, head in changes:
        agent = sorted(model)[number] if number < len(model) else f"new {number}"
        model[agent] = head
        agents.set(agent, *head)
        assert agents.root() == naive_root(model)


@given(HEADS, st.lists(st.text(st.characters(codec="utf-8"), max_size=12), max_size=10))
def test_each_agent_is_proved_as_it_is_and_in_no_other_way(heads: Heads, others: list[str]) -> None:
    agents = build(heads)
    root = agents.root()
    for agent in {*heads, *others, "nobody"}:
        head = heads.get(agent)
        proof = json.loads(json.dumps(agents.prove(agent)))
        verify_head(root, agent, head, proof)
        if head is None:
            refused(root, agent, (0, bytes(32)), proof)
        else:
            seq, leaf = head
            wrong_leaf = bytes([leaf[0] ^ 1]) + leaf[1:]
            for wrong in (None, (seq + 1, leaf), (seq - 1, leaf), (seq, wrong_leaf), (seq, leaf[1:]), (2**64, leaf)):
                refused(root, agent, wrong, proof)
        refused(bytes([root[0] ^ 1]) + root[1:], agent, head, proof)
        for spoiled in _spoiled(proof):
            refused(root, agent, head, spoiled)
        for liar in set(heads) - {agent}:
            if agent in heads:
                refused(root, liar, heads[agent], proof)
                refused(root, agent, head, agents.prove(liar))


def _spoiled(proof: JsonObject) -> list[JsonObject]:
    siblings, other = proof["siblings"], proof["other"]
    assert isinstance(siblings, list)
    ways: list[JsonObject] = [
        {},
        {"siblings": siblings},
        {"other": other},
        {**proof, "more": 1},
        {"siblings": None, "other": other},
        {"siblings": [*siblings, "00" * 32], "other": other},
        {"siblings": ["00" * 32, *siblings], "other": other},
        {"siblings": ["00" * 32] * 257, "other": other},
    ]
    if siblings:
        ways += [{"siblings": siblings[1:], "other": other}, {"siblings": siblings[:-1], "other": other}]
    for place, item in enumerate(siblings):
        assert isinstance(item, str)
        flipped = f"{int(item, 16) ^ 1:064x}"
        upper = item.upper() if item.upper() != item else 5
        for wrong in (flipped, upper, item[:-1], item + "\n", item.replace(item[0], "g"), None):
            ways.append({"siblings": [*siblings[:place], wrong, *siblings[place + 1 :]], "other": other})
    if isinstance(other, dict):
        ways.append({"siblings": siblings, "other": None})
        for name, wrongs in (
            ("seq", (other["seq"], None, "1", True, 1.0, -1, 2**53)),
            ("key", (None, "", "00" * 32)),
            ("leaf", (None, "00" * 32, 7)),
        ):
            for value in wrongs[1:] if name == "seq" else wrongs:
                changed = copy.deepcopy(other)
                changed[name] = value
                if changed != other or type(value) is not type(other[name]):
                    ways.append({"siblings": siblings, "other": changed})
        ways.append({"siblings": siblings, "other": {**other, "more": 1}})
    else:
        ways.append({"siblings": siblings, "other": {"key": "11" * 32, "seq": 0, "leaf": "00" * 32}})
        ways.append({"siblings": siblings, "other": []})
    return ways


def test_empty_map() -> None:
    agents = AgentMap()
    assert agents.root() == EMPTY_MAP_ROOT == bytes(32)
    assert agents.prove("x") == {"siblings": [], "other": None}
    verify_head(EMPTY_MAP_ROOT, "x", None, agents.prove("x"))
    refused(EMPTY_MAP_ROOT, "x", (0, bytes(32)), agents.prove("x"))


def test_one_agent_is_the_root() -> None:
    agents = build({"a": (7, b"\x01" * 32)})
    name = hashlib.sha256(b"a").digest()
    assert agents.root() == hashlib.sha256(b"\x00" + name + (7).to_bytes(8, "big") + b"\x01" * 32).digest()
    proof = agents.prove("b")
    assert proof == {"siblings": [], "other": {"key": name.hex(), "seq": 7, "leaf": "01" * 32}}
    verify_head(agents.root(), "b", None, proof)
    refused(agents.root(), "a", None, proof)  # an agent can't be hidden behind its own head


def test_a_head_in_the_wrong_place_hides_nobody() -> None:
    # A root that no honest map has: the leaf of an agent whose way goes right stands on the left.
    right = next(name for name in map(str, range(99)) if key(name)[0] == "1")
    left = next(name for name in map(str, range(99)) if key(name)[0] == "0")
    name = hashlib.sha256(right.encode()).digest()
    leaf = hashlib.sha256(b"\x00" + name + bytes(8) + bytes(32)).digest()
    other = {"key": name.hex(), "seq": 0, "leaf": "00" * 32}
    root = hashlib.sha256(b"\x01" + leaf + b"\x22" * 32).digest()
    refused(root, left, None, {"siblings": ["22" * 32], "other": other})
    root = hashlib.sha256(b"\x01" + b"\x22" * 32 + leaf).digest()
    verify_head(root, right, (0, bytes(32)), {"siblings": ["22" * 32], "other": None})


def test_values_that_are_no_head() -> None:
    agents = build({"a": (0, bytes(32)), "b": (1, bytes(32))})
    root = agents.root()
    for seq, leaf in ((-1, bytes(32)), (2**53, bytes(32)), (0, bytes(31)), (0, b"")):
        with pytest.raises(ValueError, match="can't end"):
            agents.set("a", seq, leaf)
    assert agents.root() == root


def test_only_what_changed_is_hashed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    agents = build({f"agent {number}": (number, bytes(32)) for number in range(2000)})
    agents.root()
    hashed = []
    real = agent_map.node_hash

    def counted(left: bytes, right: bytes) -> bytes:
        hashed.append(1)
        return real(left, right)

    monkeypatch.setattr(agent_map, "node_hash", counted)
    agents.root()
    assert not hashed
    agents.set("agent 5", 6, bytes(32))
    agents.root()
    assert 0 < len(hashed) < 40
