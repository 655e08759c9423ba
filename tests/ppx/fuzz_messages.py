"""Fuzzes the decoder of PPX with atheris; run by hand, in an environment of its own.

    python -m venv fuzzing && fuzzing/bin/pip install atheris numpy xxhash
    PYTHONPATH=. fuzzing/bin/python tests/ppx/fuzz_messages.py -max_total_time=300 -max_len=400 corpus/

Starts from the messages that the corpus holds; `--seed corpus/` writes one of each kind. Every frame is read or refused
with `SimulatorProtocolError`, and what is read is written and read again alike.
"""

import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped]  # not a part of the development environment
import numpy as np

with atheris.instrument_imports(include=["tracestore.ppx"]):
    from tracestore.errors import SimulatorProtocolError
    from tracestore.ppx import messages

from tracestore.traces import distributions


def fuzz_one(frame: bytes) -> None:
    """Read a frame without the memory of earlier ones."""
    try:
        message = messages._decode(frame)
    except SimulatorProtocolError:
        return
    written = messages.encode(message)
    assert messages.encode(messages._decode(written)) == written


def write_seeds(folder: Path) -> None:
    """Write one frame of each kind of message and of each family."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("Normal", "Uniform", "Poisson", "Bernoulli", "Beta", "Exponential", "Gamma", "LogNormal", "Weibull")
    two = ("Normal", "Uniform", "Beta", "Gamma", "LogNormal", "Weibull")
    priors = [getattr(distributions, name)(*([0.25, 0.5] if name in two else [0.5])) for name in names]
    priors += [
        distributions.Binomial(3, 0.5),
        distributions.Categorical([0.5, 0.5]),
        distributions.Normal([0.0, 1.0], 1.0),
    ]
    seeds: list[messages.Message] = [messages.Sample("a", "x", prior, control=False) for prior in priors]
    seeds += [messages.Observe("a", "x", prior, 0.5) for prior in priors]
    seeds += [messages.Handshake("a"), messages.HandshakeResult("a", "b"), messages.Run(), messages.Reset()]
    seeds += [messages.RunResult(np.zeros((2, 2))), messages.SampleResult(0.5), messages.ObserveResult(0.5)]
    seeds += [messages.Tag("a", "b", 0.5), messages.TagResult(0.5)]
    for index, message in enumerate(seeds):
        (folder / f"seed{index}").write_bytes(messages.encode(message))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--seed"]:
        write_seeds(Path(sys.argv[2]))
    else:
        atheris.Setup(sys.argv, fuzz_one)
        atheris.Fuzz()
