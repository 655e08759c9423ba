"""Queues of unmodified ciw as probabilistic programs, and the example that infers with one."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tracestore.errors import SimulatorProtocolError
from tracestore.hijacking import hijack
from tracestore.simulators import PriorController, ReplayController, Simulator, run_trace
from tracestore.simulators.replay_check import require_deterministic, require_reproducible
from tracestore.traces import TraceStatus

ciw = pytest.importorskip("ciw")

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "queue_inference.py"


def run_network(horizon=20.0):
    """Two nodes with blocking, feedback and two classes of doors."""
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Exponential(2.5), ciw.dists.Gamma(2.0, 0.5)],
        service_distributions=[ciw.dists.Exponential(3.0), ciw.dists.Lognormal(-1.0, 0.5)],
        routing=[[0.0, 0.7], [0.2, 0.0]],
        number_of_servers=[1, 2],
        queue_capacities=[float("inf"), 2],
    )
    queue = ciw.Simulation(network)
    queue.simulate_until_max_time(horizon)
    return [
        (visit.id_number, visit.node, visit.arrival_date, visit.time_blocked, visit.exit_date)
        for visit in queue.get_all_records()
    ]


def network_program():
    """The unmodified simulation; returns numbers that depend on everything in it."""
    with hijack("random"):
        visits = run_network()
    return float(sum(visit[4] for visit in visits))


network = Simulator(network_program)


def simulate(seed, **options):
    return run_trace(network, PriorController(), np.random.default_rng(seed), **options)


def test_draws_have_the_families_of_the_methods_and_places_in_the_program():
    trace = simulate(1)
    kinds = {site.address.rpartition("/")[2].partition("~")[0]: site.family for site in trace.sites if site.name == ""}
    assert kinds == {
        "expovariate": "Exponential",
        "gammavariate": "Gamma",
        "lognormvariate": "LogNormal",
        "random": "Uniform",
    }
    assert any("ArrivalNode.have_event" in site.address for site in trace.sites)


def test_recorded_draws_in_any_order_reproduce_every_visit():
    visits: list[object] = []

    def program():
        with hijack("random"):
            visits.append(run_network(8.0))

    short = Simulator(program)
    traces = [run_trace(short, PriorController(), np.random.default_rng(seed)) for seed in range(20)]
    order = np.random.default_rng(0).permutation(20).tolist()
    for number in order:
        run_trace(short, ReplayController(traces[number]), np.random.default_rng(99))
    assert visits[20:] == [visits[number] for number in order]
    assert len({trace.layout.trace_type for trace in traces}) == 20


def test_a_trace_is_a_function_of_its_draws():
    trace = simulate(2)
    assert trace.failure == ""
    require_deterministic(network, trace)
    require_reproducible(network, seed=3)


def test_nearly_every_long_trace_is_of_a_type_of_its_own():
    traces = [simulate(seed) for seed in range(12)]
    assert 150 < sum(map(len, traces)) / 12 < 600
    assert len({trace.layout.trace_type for trace in traces}) == 12


def test_a_cap_is_a_recorded_failure_and_the_next_run_is_clean():
    capped = simulate(4, max_sites=50)
    assert (capped.status, len(capped)) == (TraceStatus.CAPPED, 50)
    again = simulate(5)
    assert again.failure == ""
    require_deterministic(network, again)


def test_a_draw_that_escapes_is_reported():
    kept = [random.random]  # where no module holds it

    class Routing(ciw.routing.NodeRouting):  # type: ignore[name-defined]  # ciw has no types
        def next_node(self, ind):
            kept[0]()
            return self.simulation.nodes[-1]

    def program():
        with hijack("random"):
            queue = ciw.Simulation(
                ciw.create_network(
                    arrival_distributions=[ciw.dists.Exponential(2.0)],
                    service_distributions=[ciw.dists.Exponential(3.0)],
                    routing=ciw.routing.NetworkRouting(routers=[Routing()]),
                    number_of_servers=[1],
                )
            )
            queue.simulate_until_max_time(5.0)

    with pytest.raises(SimulatorProtocolError, match="a method of Python's `random`"):
        run_trace(Simulator(program), PriorController(), np.random.default_rng(1))


def test_names_that_ciw_imported_are_its_own_again_after_a_run():
    before = ciw.dists.distributions.expovariate, ciw.arrival_node.random
    simulate(6)
    assert (ciw.dists.distributions.expovariate, ciw.arrival_node.random) == before


ADDRESSES = """
import sys
sys.path.insert(0, "tests/hijacking")
from test_ciw import simulate
for seed in range(3):
    for site in simulate(seed).sites:
        print(site.address)
"""


def run_python(arguments, hash_seed="random"):
    """Run the interpreter in the root of the project; return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=250, cwd=ROOT,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.processes
def test_addresses_and_their_order_do_not_depend_on_the_process():
    first, second = (run_python(["-c", ADDRESSES], hash_seed) for hash_seed in ("1", "2"))
    assert len(first.splitlines()) > 300
    assert first == second


@pytest.mark.processes
@pytest.mark.slow
def test_the_example_agrees_with_plain_runs_of_ciw_weighted_by_hand():
    table = run_python([str(EXAMPLE), "--workers", "1", "--reduced"])
    rows = {line[:28].strip(): line[28:].split() for line in table.splitlines()[2:7]}
    for question in ("patients per hour", "doctor's patients per hour"):
        numbers = [float(cell) for cell in rows[question] if cell != "+-"]
        by_hand, error, sampled, other_error = numbers[:4]
        assert abs(by_hand - sampled) <= 4.0 * (error + other_error)


def test_functions_that_networkx_compiles_are_no_places():
    networkx = pytest.importorskip("networkx")  # comes with ciw

    def program():
        with hijack("random"):
            return networkx.gnp_random_graph(4, 0.4, seed=7).number_of_edges()

    trace = run_trace(Simulator(program), PriorController(), np.random.default_rng(1))
    places = {site.address for site in trace.sites if site.family}
    assert len(places) == 6
    assert not any("argmap" in place for place in places)  # they are numbered as they come
