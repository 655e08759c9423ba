"""Running simulators: random streams, waves of suspended runs, worker processes, prior generation into a store."""

from tracestore.execution.generate import simulate
from tracestore.execution.pieces import Piece, write_pieces
from tracestore.execution.pool import share_out
from tracestore.execution.proposing import Ask, ProposalController
from tracestore.execution.provider import ProposalProvider, ProposalSession
from tracestore.execution.streams import TraceStreams
from tracestore.execution.waves import WaveRun, run_waves
from tracestore.execution.workers import Chunk, plan_chunks, run_chunks

__all__ = [
    "Ask",
    "Chunk",
    "Piece",
    "ProposalController",
    "ProposalProvider",
    "ProposalSession",
    "TraceStreams",
    "WaveRun",
    "plan_chunks",
    "run_chunks",
    "run_waves",
    "share_out",
    "simulate",
    "write_pieces",
]
