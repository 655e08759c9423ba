"""The messages of PPX, the probabilistic programming execution protocol, and their bytes.

Reads what versions 0.1.3 to 1.0.0 write and writes 1.0.0, without a file identifier. Two messages carry more than the
protocol says when both ends are tracestore: `ObserveResult` and `TagResult` may bring a value. Must not know sockets.
"""

import struct
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from tracestore.errors import SimulatorProtocolError
from tracestore.ppx.flatbuffer import Field, Table, Writer, root_table
from tracestore.ppx.message_types import (
    Handshake,
    HandshakeResult,
    Message,
    Observe,
    ObserveResult,
    Reset,
    Run,
    RunResult,
    Sample,
    SampleResult,
    Tag,
    TagResult,
)
from tracestore.ppx.wire_distributions import (
    EXAMPLES,
    distribution_fields,
    distribution_parameters,
    distribution_type,
    read_distribution,
    read_tensor,
    tensor_fields,
)

__all__ = [
    "MAX_FRAME_BYTES",
    "Handshake",
    "HandshakeResult",
    "Message",
    "Observe",
    "ObserveResult",
    "Reset",
    "Run",
    "RunResult",
    "Sample",
    "SampleResult",
    "Tag",
    "TagResult",
    "decode",
    "encode",
]

MAX_FRAME_BYTES = 256 * 2**20
"""Longest frame that is read or written."""
_SUPPORTED = "versions 0.1.3 to 1.0.0 are supported"
MAX_CACHED_BYTES = 1024
"""Longest frame whose message is remembered: programs send the same draws again and again."""
MAX_CACHED = 4096
"""Messages, and templates of frames, that are remembered."""


def decode(frame: bytes | bytearray | memoryview) -> Message:
    """Read a message.

    Parameters
    ----------
    frame
        The bytes, with or without a file identifier, at any alignment.

    Returns
    -------
    Message
        Its arrays are read-only. Tensors of shapes ``[]`` and ``[1]`` are floats, except in `RunResult`.

    Raises
    ------
    SimulatorProtocolError
        When the frame is truncated, malformed, too long, or of another version of the protocol.

    Examples
    --------
    >>> decode(encode(SampleResult(0.5)))
    SampleResult(value=0.5)
    """
    length = len(frame) if isinstance(frame, bytes | bytearray) else frame.nbytes
    if length > MAX_FRAME_BYTES:
        message = f"A PPX frame must have at most {MAX_FRAME_BYTES} bytes; got {length}."
        raise SimulatorProtocolError(message)
    copied = frame if isinstance(frame, bytes) else bytes(frame)
    return _decode_cached(copied) if length <= MAX_CACHED_BYTES else _decode(copied)


def encode(message: Message) -> bytes:
    """Write a message.

    Parameters
    ----------
    message
        The message.

    Returns
    -------
    bytes
        One frame of PPX 1.0.0 without file identifier.

    Raises
    ------
    SimulatorProtocolError
        When PPX lacks the family of a distribution, a string is not Unicode, or the frame would be too long.

    Examples
    --------
    >>> len(encode(Run()))
    32
    """
    kind = type(message)
    if isinstance(message, SampleResult):
        value = message.value
        if isinstance(value, float | int):
            head, tail = _SAMPLE_RESULT
            return head + _F64(value) + tail
    elif isinstance(message, RunResult):
        result = message.result
        if result is not None and result.ndim == 0:
            head, tail = _RUN_RESULT
            return head + _F64(result) + tail
    elif isinstance(message, Sample | Observe):
        return _encode_site(message)
    elif kind in _EMPTY and getattr(message, "value", None) is None:
        return _EMPTY[kind]
    return _write(_NUMBERS[kind], _FIELDS[kind](message))


# ---------------------------------------------------------------------------------------------------------- reading


def _decode(frame: bytes) -> Message:
    root = root_table(frame)
    number = root.byte(0)
    body = root.table(1)
    if not 1 <= number <= len(_READERS) or body is None:
        message = (
            f"The frame is not a PPX message: its body is {'absent' if body is None else 'there'} and of type {number};"
            f" PPX 1.0.0 has the types 1 (Handshake) to {len(_READERS)} (Reset)."
        )
        raise SimulatorProtocolError(message)
    return _READERS[number - 1](body)


_decode_cached = lru_cache(MAX_CACHED)(_decode)


def _read_run(body: Table) -> Run:
    if body.has(0):
        message = f"The peer speaks PPX 0.1.0 or 0.1.1, where Run brings an observation; {_SUPPORTED}."
        raise SimulatorProtocolError(message, version="0.1.0 or 0.1.1")
    return Run()


def _read_run_result(body: Table) -> RunResult:
    table = body.table(0)
    value = read_tensor(table)
    if value is None or table is None:
        return RunResult(None)
    if isinstance(value, float):
        value = np.full(table.integers(1, 1), value)
        value.setflags(write=False)
    return RunResult(value)


def _read_sample(body: Table) -> Sample:
    try:
        address = body.text(0)
        prior = read_distribution(body.byte(2), body.table(3), address)
        return Sample(address, body.text(1), prior, body.byte(4, 1) != 0)
    except SimulatorProtocolError as error:
        _check_version(body, error)
        raise


def _read_sample_result(body: Table) -> SampleResult:
    value = read_tensor(body.table(0))
    if value is None:
        message = "A SampleResult must bring a value; this one has none."
        raise SimulatorProtocolError(message)
    return SampleResult(value)


def _read_observe(body: Table) -> Observe:
    try:
        address = body.text(0)
        likelihood = read_distribution(body.byte(2), body.table(3), address)
        return Observe(address, body.text(1), likelihood, read_tensor(body.table(4)))
    except SimulatorProtocolError as error:
        _check_version(body, error)
        raise


def _read_tag(body: Table) -> Tag:
    if not (body.has(0) or body.has(1) or body.has(2)):
        message = f"The peer speaks PPX 0.1.2 or earlier, where Reset has the number that Tag has now; {_SUPPORTED}."
        raise SimulatorProtocolError(message, version="0.1.2 or earlier")
    return Tag(body.text(0), body.text(1), read_tensor(body.table(2)))


def _check_version(body: Table, error: SimulatorProtocolError) -> None:
    """Refuse a site of PPX 0.1.0, which has the distribution where later versions have the name."""
    try:
        distribution = body.table(2)
        tensor = distribution.table(0) if 1 <= body.byte(1) <= 4 and distribution is not None else None
        is_first = tensor is not None and read_tensor(tensor) is not None
    except SimulatorProtocolError:
        is_first = False
    if is_first:
        message = f"The peer speaks PPX 0.1.0, where sites have no name; {_SUPPORTED}."
        raise SimulatorProtocolError(message, version="0.1.0") from error


_READERS: tuple[Callable[[Table], Message], ...] = (
    lambda body: Handshake(body.text(0)),
    lambda body: HandshakeResult(body.text(0), body.text(1)),
    _read_run,
    _read_run_result,
    _read_sample,
    _read_sample_result,
    _read_observe,
    lambda body: ObserveResult(read_tensor(body.table(0))),
    _read_tag,
    lambda body: TagResult(read_tensor(body.table(0))),
    lambda body: Reset(),
)
"""The types 1, 2, ... of the union `MessageBody`; 0 is none."""


# ---------------------------------------------------------------------------------------------------------- writing

_F64 = struct.Struct("<d").pack
_PUT_F64 = struct.Struct("<d").pack_into

_NUMBERS: dict[type[Message], int] = {
    kind: number
    for number, kind in enumerate(
        (
            Handshake,
            HandshakeResult,
            Run,
            RunResult,
            Sample,
            SampleResult,
            Observe,
            ObserveResult,
            Tag,
            TagResult,
            Reset,
        ),
        start=1,
    )
}
_FIELDS: dict[type[Message], Callable[..., list[Field]]] = {
    Handshake: lambda message: [message.system_name],
    HandshakeResult: lambda message: [message.system_name, message.model_name],
    RunResult: lambda message: [tensor_fields(message.result)],
    SampleResult: lambda message: [tensor_fields(message.value)],
    ObserveResult: lambda message: [tensor_fields(message.value)],
    Tag: lambda message: [message.address, message.name, tensor_fields(message.value)],
    TagResult: lambda message: [tensor_fields(message.value)],
}


def _encode_site(message: Sample | Observe) -> bytes:
    address, name, kind = message.address, message.name, type(message)
    control, value = None, None
    if isinstance(message, Sample):
        distribution = message.prior
        control = None if message.control else 0
    else:
        distribution, value = message.likelihood, message.value
    number = distribution_type(distribution, address)
    is_plain = value is None and not distribution.shape and number in EXAMPLES
    if is_plain and len(address) + len(name) < MAX_CACHED_BYTES:
        template, places = _site_template(_NUMBERS[kind], address, name, number, control)
        frame = bytearray(template)
        for place, parameter in zip(places, distribution_parameters(distribution, number), strict=True):
            _PUT_F64(frame, place, parameter)
        return bytes(frame)
    last = control if value is None else tensor_fields(value)
    return _write(_NUMBERS[kind], [address, name, number, distribution_fields(distribution, number), last])


@lru_cache(MAX_CACHED)
def _site_template(
    kind: int, address: str, name: str, number: int, control: int | None
) -> tuple[bytes, tuple[int, ...]]:
    """Return a frame for a distribution with plain numbers, and where they go."""
    writer = _writer(kind, [address, name, number, distribution_fields(EXAMPLES[number], number), control])
    return writer.frame(), tuple(writer.doubles)


def _writer(number: int, fields: list[Field]) -> Writer:
    try:
        return Writer([number, fields])
    except (UnicodeEncodeError, struct.error) as error:
        message = f"A PPX message cannot be written: {error}; texts must be Unicode and sizes below 2**31."
        raise SimulatorProtocolError(message) from error


def _around_double(number: int, fields: list[Field]) -> tuple[bytes, bytes]:
    """Return what comes before and after the one double of a frame."""
    writer = _writer(number, fields)
    frame, place = writer.frame(), writer.doubles[0]
    return frame[:place], frame[place + 8 :]


def _write(number: int, fields: list[Field]) -> bytes:
    frame = _writer(number, fields).frame()
    if len(frame) > MAX_FRAME_BYTES:
        message = f"A PPX frame must have at most {MAX_FRAME_BYTES} bytes; got {len(frame)}: send a smaller array."
        raise SimulatorProtocolError(message)
    return frame


_EMPTY = {kind: Writer([_NUMBERS[kind], []]).frame() for kind in (Run, Reset, ObserveResult, TagResult)}
_RUN_RESULT = _around_double(_NUMBERS[RunResult], _FIELDS[RunResult](RunResult(np.array(0.0))))
_SAMPLE_RESULT = _around_double(_NUMBERS[SampleResult], _FIELDS[SampleResult](SampleResult(0.0)))
