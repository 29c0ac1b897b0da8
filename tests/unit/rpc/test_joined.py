"""Events in one response: all of them, in order, within the limit wherever one alone is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.rpc.tool_broker import joined
from broker.v1 import call_pb2

SIZES = st.lists(st.integers(0, 90), max_size=12)


@given(SIZES, st.integers(0, 200))
def test_groups_hold_all_events_in_order_and_within_the_limit(sizes: list[int], limit: int) -> None:
    messages = [
        call_pb2.ToolCallEvent(number=number, stdout=call_pb2.OutputChunk(data=b"x" * size))
        for number, size in enumerate(sizes, start=1)
    ]
    groups = list(joined(messages, limit))
    assert [message for group in groups for message in group] == messages
    assert all(groups)
    assert all(len(group) == 1 or sum(item.ByteSize() for item in group) <= limit for group in groups)
