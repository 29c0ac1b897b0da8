"""The server's text of a statement is read whole, whatever its author named things."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_rows.functions import Uses
from broker_rows.node_tree import Node, numbers, read, walk


def test_nodes_lists_and_words() -> None:
    (found,) = read(
        "({QUERY :commandType 2 :rtable ({RTE :relid 7} {RTE :relid 8 :name a\\ b}) :empty <> :ids (o 1 2)})"
    )
    assert isinstance(found, list)
    (query,) = found
    assert isinstance(query, Node)
    assert (query.tag, query.word("commandType"), query.word("empty"), query.word("none")) == ("QUERY", "2", "<>", "")
    assert [each.word("relid") for each in query.nodes("rtable")] == ["7", "8"]
    assert query.nodes("rtable")[1].word("name") == "a\\ b"
    assert list(numbers(query.fields["ids"])) == [1, 2]


@pytest.mark.parametrize("text", ["(", ")", "{A", "}", "({A)}", "({A})}", "{A :b (}"])
def test_what_is_unbalanced_is_no_tree(text: str) -> None:
    with pytest.raises(ValueError, match="unbalanced"):
        read(text)


def escaped(name: str) -> str:
    """A name as the server writes it (``outToken``)."""
    if not name:
        return "<>" if name is None else '""'
    first = "\\" if name[0] in '<"+-.0123456789' else ""
    return first + "".join(f"\\{char}" if char in " \n\t(){}\\" else char for char in name)


NAMES = st.sampled_from(
    [":expr", ":resname", ":args", ":funcid", ":targetList", ":", "{", "}", ")", "<>", '"', "\\", ""]
)


@given(st.lists(NAMES | st.text(st.characters(exclude_categories=["Cs"])), max_size=6))
def test_no_name_hides_a_call(names: list[str]) -> None:
    calls = "".join(
        f" {{TARGETENTRY :expr {{FUNCEXPR :funcid {number + 100} :args <>}} :resname {escaped(name)} :resno 1}}"
        for number, name in enumerate(names)
    )
    uses = Uses()
    uses.add(read(f"({{QUERY :targetList ({calls}) :sortClause <>}})"))
    assert uses.functions == {number + 100 for number in range(len(names))}


def test_a_tree_as_deep_as_any() -> None:
    depth = 100_000
    tree = read("{A :b " * depth + "1" + "}" * depth)
    assert sum(1 for _ in walk(tree)) == depth
