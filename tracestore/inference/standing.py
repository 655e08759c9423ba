"""What is written of the trace at which a chain stands, and how it is brought back: by running it again."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xxhash

from tracestore.errors import SimulatorProtocolError
from tracestore.inference.moves import Entry, Replay
from tracestore.inference.rerun import Target
from tracestore.traces.trace import Trace, TraceStatus

__all__ = ["bring_back", "plain", "standing_to_json"]


def standing_to_json(trace: Trace, entries: Mapping[int, Entry]) -> dict[str, Any]:
    """Return the draws of a trace, with what tells whether a replay is the same trace.

    Parameters
    ----------
    trace
        The trace.
    entries
        Its draws by address identity.
    """
    return {
        "log_joint": trace.log_joint,
        "draws": [[ident, plain(entry.value)] for ident, entry in entries.items()],
        "log_probs": trace.log_probs.tolist(),
        "digest": _digest(trace),
    }


def bring_back(target: Target, state: Mapping[str, Any], chain: int) -> tuple[Trace, dict[int, Entry]]:
    """Run a written trace again.

    Parameters
    ----------
    target
        Simulator and observation.
    state
        What `standing_to_json` returned.
    chain
        Number of the chain, for the message.

    Raises
    ------
    SimulatorProtocolError
        When the simulator does not reproduce the trace; names the first site that differs.
    """
    values = {ident: np.asarray(value) if isinstance(value, list) else value for ident, value in state["draws"]}
    move = Replay(target.joint_names, values)
    # every draw is given, so the random numbers are not used
    trace = target.run(move, np.random.default_rng(0))
    difference = _difference(state, trace, move)
    if difference:
        message = (
            f"The simulator {target.program.name!r} does not reproduce a trace of chain {chain} from its draws:"
            f" {difference}. A simulator must be a function of its draws alone: draw every random number with `sample`,"
            " and keep no state from one run to the next."
        )
        raise SimulatorProtocolError(message, chain=chain)
    return trace, move.entries


def plain(value: Any) -> Any:  # noqa: ANN401  # what JSON holds
    """Turn a value into what JSON holds."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _difference(state: Mapping[str, Any], trace: Trace, move: Replay) -> str:
    if move.is_rejected:
        return f"the replay reached {move.rejected_at!r}, which the chain had not drawn, or not with this support"
    recorded = state["log_probs"]
    for site, score, found in zip(trace.sites, recorded, trace.log_probs.tolist(), strict=False):
        if score != found:
            label = site.name or site.address
            return f"the log probability at {label!r} was {score!r}, in the replay it is {found!r}"
    if trace.status is not TraceStatus.OK:
        return f"the replay ended with {trace.failure!r} after {len(trace)} of {len(recorded)} sites"
    if len(trace) != len(recorded):
        return f"it had {len(recorded)} sites, the replay has {len(trace)}"
    return "" if _digest(trace) == state["digest"] else "a tag, the result or a parameter differs"


def _digest(trace: Trace) -> str:
    """Digest of everything in a trace that its draws decide."""
    content = xxhash.xxh3_128(trace.layout.id.to_bytes(8, "little"))
    for array in (trace.values, trace.parameters, *(trace.observations[name] for name in sorted(trace.observations))):
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()
