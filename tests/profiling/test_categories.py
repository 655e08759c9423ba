"""Rules from stacks to categories, on stacks made by hand."""

import os

import numpy as np
import pytest

from tracestore.profiling.categories import CATEGORIES, RULES, Frame, classify, is_program

PROGRAM = Frame("shop", "sell", "/home/me/shop.py", 7)
NUMPY = Frame("numpy._core.fromnumeric", "sort", np.__file__, 1)
JSON = Frame("json", "dumps", os.__file__, 1)
CALL = Frame("tracestore.simulators.base", "_call", "base.py", 290)
ENGINE = Frame("tracestore.execution.generate", "simulate", "generate.py", 130)


def ours(module, function="f"):
    return Frame(f"tracestore.{module}", function, "", 1)


def numbered(cases):
    return [f"{category}-{number}" for number, (_, category) in enumerate(cases)]


INSIDE = [
    ([PROGRAM], "simulator"),
    ([PROGRAM, NUMPY], "simulator"),
    ([NUMPY], "simulator"),  # a program that is part of an installed library
    ([ours("simulators.shower", "shower")], "simulator"),
    ([PROGRAM, ours("native.kernel", "Kernel.call"), ours("native.kernel_library")], "simulator"),
    ([ours("hijacking.context", "Hijack.__call__.<locals>.hijacked"), NUMPY], "simulator"),
    ([PROGRAM, ours("hijacking.random_methods", "RandomMethods.random")], "hook"),
    ([PROGRAM, ours("native.callback_library", "CallbackLibrary.place")], "hook"),
    ([PROGRAM, ours("simulators.native_draws")], "hook"),
    ([ours("ppx.conversation", "Conversation.run")], "hook"),
    ([ours("ppx.conversation", "Conversation.run"), ours("simulators.outside", "wait_for")], "waiting"),
    ([ours("ppx.link", "Arrival.wait_any"), ours("ppx.sockets", "wait_sources"), JSON], "waiting"),
    ([PROGRAM, ours("simulators.runtime", "sample"), ours("simulators.addresses", "current_place")], "address"),
    ([PROGRAM, ours("native.call_stack")], "address"),
    ([PROGRAM, ours("simulators.recorder", "Recorder.sample"), NUMPY], "recording"),
    ([PROGRAM, ours("simulators.batch_recorder", "BatchRecorder.sample")], "recording"),
    ([PROGRAM, ours("traces.distributions.continuous", "Normal.__init__")], "recording"),
    ([ours("simulators.recorder"), ours("traces.distributions.continuous", "Normal.sample")], "drawing"),
    ([ours("traces.distributions.row_draws", "sample_rows"), ours("traces.distributions.special")], "drawing"),
    ([ours("simulators.recorder"), ours("traces.distributions.counts", "Poisson.log_prob"), NUMPY], "scoring"),
]


@pytest.mark.parametrize(("inner", "category"), INSIDE, ids=numbered(INSIDE))
def test_innermost_frame_with_a_category_decides_within_a_run(inner, category):
    assert classify([ENGINE, CALL, *inner]) == category


OUTSIDE = [
    ([], "engine"),
    ([ours("store.writer", "StoreWriter.write"), ours("traces.batch", "TraceBatch.concatenate")], "writing"),
    ([ours("formats.arrow"), NUMPY], "writing"),
    ([ours("storage.local")], "writing"),
    ([ours("networks.session"), Frame("torch.nn.modules.linear", "Linear.forward", np.__file__, 1)], "network"),
    ([ours("execution.proposing")], "network"),
    ([ours("inference.mixture")], "engine"),
    ([ours("traces.batch", "TraceBatch.from_traces")], "recording"),
]


@pytest.mark.parametrize(("outer", "category"), OUTSIDE, ids=numbered(OUTSIDE))
def test_categories_outside_of_a_run(outer, category):
    assert classify([ENGINE, *outer]) == category


def test_every_rule_names_a_category():
    assert set(RULES.values()) <= {category.name for category in CATEGORIES}


def test_every_rule_names_a_module_that_exists():
    from importlib.util import find_spec

    # a parent with a missing extra cannot be looked into
    light = [module for module, _ in RULES if not module.startswith(("tracestore.networks", "tracestore.training"))]
    assert [module for module in light if module.count(".") < 2 and find_spec(module) is None] == []


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (PROGRAM, True),
        (NUMPY, False),
        (CALL, False),
        (ours("simulators.toys", "gum"), True),
        (ours("native.kernel", "Kernel.call"), False),
    ],
    ids=["own", "library", "caller", "bundled", "kernel"],
)
def test_lines_of_the_program(frame, expected):
    assert is_program(frame) is expected
