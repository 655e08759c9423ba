"""Places in Python programs: stable under edits elsewhere, distinct for distinct call sites."""

import linecache
import textwrap
from pathlib import Path

import numpy as np
import pytest

import tracestore as ts
from tracestore.simulators import PriorController, run_trace
from tracestore.simulators.addresses import call_labels, source_text

PROGRAM = """
import tracestore as ts

def pair(low):
    x = ts.sample(ts.Uniform(low, 1.0))
    return ts.sample(ts.Uniform(low, x + 2.0))

class Detector:
    def hit(self):
        return [ts.sample(ts.Normal(0.0, 1.0)) for _ in range(2)]

@ts.simulator
def program():
    a = pair(0.0)
    b = pair(0.0)
    total = 2 * pair(0.5)
    x, y = ts.sample(ts.Poisson(3.0)), ts.sample(ts.Poisson(4.0))
    x = ts.sample(ts.Poisson(5.0))
    values = []
    values.append(ts.sample(ts.Normal(0.0, 1.0)))
    values.append(ts.sample(ts.Normal(0.0, 1.0)))
    Detector().hit()
    if (late := ts.sample(ts.Bernoulli(0.5))) >= 0:
        ts.sample(ts.Normal(0.0, 1.0), address="chosen")
"""


def addresses(source: str, folder: Path) -> list[str]:
    """Addresses of one run of a program, from a source file of its own."""
    path = folder / f"program_{len(list(folder.iterdir()))}.py"
    path.write_text(textwrap.dedent(source))
    linecache.checkcache()
    space: dict[str, object] = {"__name__": "program"}
    exec(compile(path.read_text(), str(path), "exec"), space)
    trace = run_trace(space["program"], PriorController(), np.random.default_rng(1))  # type: ignore[arg-type]
    assert trace.status == 0, trace.failure
    return [site.address for site in trace.sites]


def test_places_read_as_the_chain_of_calls(tmp_path: Path) -> None:
    assert addresses(PROGRAM, tmp_path) == [
        "program:a/pair:x~Uniform#1",
        "program:a/pair:return~Uniform#1",
        "program:b/pair:x~Uniform#1",
        "program:b/pair:return~Uniform#1",
        "program:pair(0.5)/pair:x~Uniform#1",
        "program:pair(0.5)/pair:return~Uniform#1",
        "program:x~Poisson#1",
        "program:y~Poisson#1",
        "program:x.2~Poisson#1",
        "program:ts.sample(ts.Normal(0.0,1.0))~Normal#1",
        "program:ts.sample(ts.Normal(0.0,1.0)).2~Normal#1",
        "program:Detector().hit()/Detector.hit:ts.sample(ts.Normal(0.0,1.0))~Normal#1",
        "program:Detector().hit()/Detector.hit:ts.sample(ts.Normal(0.0,1.0))~Normal#2",
        "program:late~Bernoulli#1",
        "chosen~Normal#1",
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("def pair(low):", "def unrelated():\n    return 1\n\n\ndef pair(low):"),
        ("    a = pair(0.0)", "    # a comment\n    unrelated = len('x') + max(1, 2)\n    a = pair(0.0)"),
        ("x + 2.0))", "(x + 2.5)))  # wider"),
        ("    values = []", "    values = list()\n    extra = dict(a=1)"),
    ],
)
def test_unrelated_edits_change_no_address(tmp_path: Path, old: str, new: str) -> None:
    edited = PROGRAM.replace(old, new)
    assert edited != PROGRAM
    assert addresses(edited, tmp_path) == addresses(PROGRAM, tmp_path)


def test_a_draw_inserted_above_changes_only_its_own_address(tmp_path: Path) -> None:
    edited = PROGRAM.replace("    a = pair(0.0)", "    new = ts.sample(ts.Normal(0.0, 1.0))\n    a = pair(0.0)")
    assert set(addresses(edited, tmp_path)) - set(addresses(PROGRAM, tmp_path)) == {"program:new~Normal#1"}


def test_loops_count_instances(tmp_path: Path) -> None:
    source = """
    import tracestore as ts
    @ts.simulator
    def program():
        for _ in range(3):
            x = ts.sample(ts.Normal(0.0, 1.0))
    """
    assert addresses(source, tmp_path) == [f"program:x~Normal#{i}" for i in (1, 2, 3)]


def test_code_without_source_still_has_distinct_places() -> None:
    source = "def program():\n    f(ts.sample(ts.Normal(0.0, 1.0)), ts.sample(ts.Normal(0.0, 1.0)))\n"
    space: dict[str, object] = {"ts": ts, "f": lambda *_: None}
    exec(compile(source, "<typed in>", "exec"), space)
    trace = run_trace(ts.simulators.as_simulator(space["program"]), PriorController(), np.random.default_rng(1))
    assert len({site.base for site in trace.sites}) == 2
    assert all(site.base.startswith("program:line+1:") for site in trace.sites)


def test_source_text_drops_layout_only() -> None:
    assert source_text("a = f( 1,\n   2)  # why\n") == source_text("a=f(1,2)")
    assert source_text("a = f(1, 3)") != source_text("a = f(1, 2)")


def test_labels_count_bytes_as_the_parser_does(tmp_path):
    path = tmp_path / "accents.py"
    path.write_text('def f(g):\n    return ["\u00e9\u4e16", g(1), [g(2,\n        "\u00e9")]]\n', encoding="utf-8")
    labels = call_labels(str(path), 3)
    assert list(labels.values()) == ["g(1)", 'g(2,"\u00e9")']
