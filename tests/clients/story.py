"""A served log, told through the public Python client for EventStoreDB and KurrentDB."""

import faulthandler
import sys

from kurrentdbclient import KurrentDBClient, NewEvent, StreamState
from kurrentdbclient.exceptions import (
    AccessDeniedError,
    FailedPreconditionError,
    NotFoundError,
    StreamIsDeletedError,
    WrongCurrentVersionError,
)


def refused(error, call):
    try:
        call()
    except error as seen:
        return seen
    raise AssertionError(f"{error.__name__} was expected")


def event(number, kind="Counted"):
    return NewEvent(type=kind, data=b'{"number": %d}' % number, metadata=b"{}")


def numbers(events):
    return [int(event.data.split(b" ")[1][:-1]) for event in events]


def story(client, reader):
    stream = "python-1"
    refused(NotFoundError, lambda: client.get_stream(stream))

    # Append with an expected revision, by a call and as a batch.
    first = client.append_to_stream(stream, events=event(0), current_version=StreamState.NO_STREAM)
    batch = [event(number) for number in range(1, 5)]
    client.append_to_stream(stream, events=batch, current_version=0)
    for wrong in (event(9), [event(9), event(10)]):
        refused(
            WrongCurrentVersionError,
            lambda wrong=wrong: client.append_to_stream(stream, events=wrong, current_version=2),
        )
    # A retry changes nothing.
    client.append_to_stream(stream, events=batch, current_version=0)
    assert client.get_current_version(stream) == 4

    assert numbers(client.get_stream(stream)) == [0, 1, 2, 3, 4]
    assert numbers(client.get_stream(stream, backwards=True, limit=2)) == [4, 3]
    assert numbers(client.get_stream(stream, stream_position=3)) == [3, 4]

    # All, with filters.
    client.append_to_stream("python-2", events=event(50, "Other"), current_version=StreamState.NO_STREAM)
    prefix = {"filter_include": ["python-1"], "filter_by_stream_name": True, "filter_by_prefix": True}
    assert numbers(client.read_all(**prefix)) == [0, 1, 2, 3, 4]
    assert numbers(client.read_all(backwards=True, **prefix)) == [4, 3, 2, 1, 0]
    assert numbers(client.read_all(filter_include=["Oth.*"])) == [50]

    # From what is stored to what comes.
    with client.subscribe_to_all(commit_position=first, **prefix) as subscription:
        seen = [next(subscription) for _ in range(4)]
        client.append_to_stream(stream, events=event(5), current_version=4)
        seen.append(next(subscription))
    assert numbers(seen) == [1, 2, 3, 4, 5]

    # Who may read only.
    assert numbers(reader.get_stream(stream, limit=1)) == [0]
    refused(
        AccessDeniedError,
        lambda: reader.append_to_stream(stream, events=event(6), current_version=5),
    )

    client.delete_stream(stream, current_version=5)
    refused(NotFoundError, lambda: client.get_stream(stream))
    client.append_to_stream(stream, events=event(6), current_version=StreamState.NO_STREAM)
    assert numbers(client.get_stream(stream)) == [6]
    client.tombstone_stream(stream, current_version=6)
    refused(StreamIsDeletedError, lambda: client.get_stream(stream))
    # The client tells a call's append so, and a batch's as it does a read's.
    for error, late in ((FailedPreconditionError, event(7)), (StreamIsDeletedError, [event(7)])):
        refused(
            error,
            lambda late=late: client.append_to_stream(
                stream, events=late, current_version=StreamState.ANY
            ),
        )


def main():
    writer, reader = sys.argv[1:]
    # Whoever waits in vain fails, and says where.
    faulthandler.dump_traceback_later(60, exit=True)
    with KurrentDBClient(writer) as client, KurrentDBClient(reader) as readonly:
        story(client, readonly)
    print("the story is told")


main()
