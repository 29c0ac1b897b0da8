"""Small things of the wire, checked on the way in: names, times, durations, JSON texts."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from broker.errors import FieldViolation, InternalError, InvalidArgumentError

if TYPE_CHECKING:
    from broker.client.models import Arguments
    from broker.domain.canonical import JsonObject, JsonValue

_MAX_JSON_TEXT = 16 * 2**20


def protocol_error(what: str) -> InternalError:
    """The error for an answer that no broker of this version gives."""
    return InternalError(
        f"the broker's answer can't be used: {what}",
        reason="PROTOCOL_ERROR",
        hint="Client and broker may be of different versions; `broker status` says which the broker has.",
    )


def resource(collection: str, name: str) -> str:
    """``name`` as a resource name of a collection, with or without its prefix given.

    Raises:
        InvalidArgumentError: it is empty or belongs to another collection.
    """
    prefix = f"{collection}/"
    identifier = name.removeprefix(prefix)
    if not identifier or "/" in identifier:
        why = f"must be a name such as `{prefix}...`, not {name!r}"
        raise InvalidArgumentError(
            f"the name {why}", reason="INVALID_RESOURCE_NAME", violations=(FieldViolation("name", why),)
        )
    return prefix + identifier


def timestamp(moment: datetime | None) -> Timestamp | None:
    """An aware datetime on the wire.

    Raises:
        InvalidArgumentError: it has no time zone.
    """
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise InvalidArgumentError(f"the time {moment.isoformat()} has no time zone", reason="TIME_WITHOUT_ZONE")
    result = Timestamp()
    result.FromDatetime(moment.astimezone(UTC).replace(tzinfo=None))
    return result


def duration(seconds: float) -> Duration:
    """Seconds on the wire."""
    result = Duration()
    result.FromNanoseconds(int(seconds * 1e9))
    return result


def moment(message: Message, field: str) -> datetime | None:
    """A time of a message; ``None`` where it is unset.

    Raises:
        InternalError: outside the years 1 to 9999.
    """
    if not message.HasField(field):
        return None
    value = cast("Timestamp", getattr(message, field))
    try:
        return value.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise protocol_error(f"{field} is no valid time") from error


def seconds(value: Duration) -> float:
    """A duration of the wire in seconds."""
    return float(value.seconds) + value.nanos / 1e9


def json_value(text: str, field: str) -> JsonValue:
    """The value of a JSON text that the broker sent.

    Raises:
        InternalError: it isn't JSON.
    """
    if len(text) > _MAX_JSON_TEXT:
        raise protocol_error(f"{field} is {len(text)} characters long")
    try:
        return cast("JsonValue", json.loads(text))
    except (ValueError, RecursionError) as error:
        raise protocol_error(f"{field} is not JSON") from error


def json_object(text: str, field: str) -> JsonObject:
    """Like ``json_value``, and it must be an object."""
    value = json_value(text, field)
    if not isinstance(value, dict):
        raise protocol_error(f"{field} is not a JSON object")
    return value


def arguments_json(arguments: Arguments) -> str:
    """The JSON text of a call's arguments.

    Raises:
        InvalidArgumentError: they hold something that JSON can't say.
    """
    try:
        return json.dumps(dict(arguments), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        why = f"can't be written as JSON: {error}"
        raise InvalidArgumentError(
            f"the arguments {why}", reason="INVALID_JSON", violations=(FieldViolation("arguments", why),)
        ) from error
