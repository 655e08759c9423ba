"""Work that takes both learning and inference: refinement of a network for one observation."""

from tracestore.workflows.refinement import Refinement, Round, refine

__all__ = ["Refinement", "Round", "refine"]
