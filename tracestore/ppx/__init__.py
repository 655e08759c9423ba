"""PPX, the probabilistic programming execution protocol: simulators in other processes and languages."""

from tracestore.ppx.messages import (
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
    decode,
    encode,
)

__all__ = [
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
