"""States that Markov chains committed with their draws, and the moves that they counted."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from tracestore.errors import DiagnosticError
from tracestore.posteriors.summary import AddressAcceptance, MoveAcceptance, Trajectories
from tracestore.store.trace_store import TraceStore

__all__ = ["acceptance_by_address", "acceptance_by_move", "last_states", "trajectories"]


def last_states(store: TraceStore) -> dict[int, dict[str, Any]]:
    """Return the newest committed state of each chain, by number of the chain.

    Parameters
    ----------
    store
        Output of a Markov engine, finished or not.
    """
    last: dict[int, dict[str, Any]] = {}
    for _, document in store.work_states():
        for state in _by_chain(cast("dict[str, Any]", document)):
            found = last.get(state["chain"])
            # receipts of several writers come in no particular order
            if found is None or state["chunk"] > found["chunk"]:
                last[state["chain"]] = state
    return dict(sorted(last.items()))


def _by_chain(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the states of single chains: those that step together commit theirs as one."""
    if "chains" not in state:
        return [state]
    return [{"chain": chain, "chunk": state["chunk"], **each} for chain, each in enumerate(state["chains"])]


def acceptance_by_move(stores: Sequence[TraceStore], first_chain: Sequence[int]) -> tuple[MoveAcceptance, ...]:
    """Return what chains counted, by chain and kind of move.

    Parameters
    ----------
    stores
        Outputs of Markov engines.
    first_chain
        Number of each store's first chain.

    Raises
    ------
    DiagnosticError
        When a store has no states: one that a view of a posterior was saved to.
    """
    rows: list[MoveAcceptance] = []
    for first, store in zip(first_chain, stores, strict=False):
        states = last_states(store)
        if len(store) and not states:
            message = (
                f"The store {store.storage.url} has draws of Markov chains but no states of them; acceptance is"
                " recorded in the store that the chains wrote."
            )
            raise DiagnosticError(message, path=store.storage.url)
        rows += [
            MoveAcceptance(first + chain, move, *counts)
            for chain, state in states.items()
            for move, counts in state["counts"].items()
        ]
    return tuple(rows)


def acceptance_by_address(stores: Sequence[TraceStore]) -> tuple[AddressAcceptance, ...]:
    """Return what chains counted of moves of single draws, summed over chains, the most frequent address first.

    Parameters
    ----------
    stores
        Outputs of Markov engines; those whose chains did not count by address have no part in it.
    """
    proposed: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    for state in (state for store in stores for state in last_states(store).values()):
        for address, counts in state.get("address_counts", {}).items():
            proposed[address] += counts[0]
            accepted[address] += counts[1]
    return tuple(AddressAcceptance(address, count, accepted[address]) for address, count in proposed.most_common())


def trajectories(stores: Sequence[TraceStore], first_chain: Sequence[int]) -> tuple[Trajectories, ...]:
    """Return what chains that follow gradients counted, by chain; nothing for other chains.

    Parameters
    ----------
    stores
        Outputs of Markov engines.
    first_chain
        Number of each store's first chain.
    """
    return tuple(
        _trajectories(first + chain, state)
        for first, store in zip(first_chain, stores, strict=False)
        for chain, state in last_states(store).items()
        if "divergent" in state
    )


def _trajectories(chain: int, state: dict[str, Any]) -> Trajectories:
    (move, (num_steps, _, _)) = next(iter(state["counts"].items()))
    return Trajectories(
        chain=chain,
        move=move,
        num_steps=num_steps,
        num_gradients=state["gradients"],
        num_divergent=state["divergent"],
        acceptance=state["acceptance"] / num_steps if num_steps else math.nan,
        step_size=state["step_size"],
        ebfmi=state["ebfmi"],
    )
