"""Hamiltonian Monte Carlo and Langevin chains on traces of programs that have gradients."""

from collections.abc import Callable, Mapping

from numpy.typing import ArrayLike

from tracestore.errors import InvalidInputError
from tracestore.events import Observer
from tracestore.inference.gradient_config import GradientConfig, HMCConfig, MALAConfig
from tracestore.inference.gradient_run import run_gradient_chains
from tracestore.posteriors.posterior import Posterior
from tracestore.simulators.base import MAX_SITES, Simulator
from tracestore.store.location import StorePath

__all__ = ["hmc", "mala"]


def hmc(
    simulator: Simulator | Callable[[], object],
    observations: Mapping[str, ArrayLike],
    path: StorePath,
    *,
    num_draws: int,
    chains: int = 4,
    seed: int = 0,
    config: HMCConfig | None = None,
    max_sites: int = MAX_SITES,
    observer: Observer | None = None,
) -> Posterior:
    """Sample the posterior with Hamiltonian Monte Carlo: chains that follow the gradient of the log joint.

    All chains step together, one call of the program a gradient. Draws of bounded support move on the whole real line.
    Step size, scales and length of the trajectories are learned in the warm-up, from all chains together, and stay
    fixed afterwards (Hoffman and Gelman, JMLR 2014; Neal 2011).

    Parameters
    ----------
    simulator
        A batched simulator that computes with torch, declared with ``batched_simulator(arrays="torch")``, whose draws
        are all continuous and the same in every run.
    observations
        Observed values by name.
    path
        Store for the draws. When the same job is there already it is continued, or returned when complete.
    num_draws
        Kept draws of all chains together; a multiple of `chains`.
    chains
        Markov chains, each from a start of its own.
    seed
        Seed of the job.
    config
        Warm-up, thinning, length of the trajectories.
    max_sites
        Length cap of a trace.
    observer
        Told of progress.

    Returns
    -------
    Posterior
        Unweighted draws; `Posterior.diagnose` tells of divergences and energies, too.

    Raises
    ------
    InvalidInputError
        When the simulator has no gradients, the observations do not fit it, or an argument is out of range.
    InferenceError
        When a draw is discrete, or has an influence that no gradient shows; when the draws of runs differ, or a chain
        finds no start. Names the draw.
    MissingExtraError
        When torch is not installed.
    StoreExistsError
        When the path holds another job's output; names the field that differs.
    SimulatorProtocolError
        When the simulator does not reproduce a trace from its draws; says what differs.

    Examples
    --------
    >>> import math, tempfile
    >>> import tracestore as ts
    >>> def program():
    ...     mu = ts.sample(ts.Normal(1.0, math.sqrt(5.0)), name="mu")
    ...     for name in ("obs0", "obs1"):
    ...         ts.observe(ts.Normal(mu, math.sqrt(2.0)), name=name)
    >>> gum = ts.batched_simulator(arrays="torch")(program)
    >>> config = HMCConfig(warmup=100)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     posterior = hmc(
    ...         gum, {"obs0": 8.0, "obs1": 9.0}, folder + "/post", num_draws=2000, chains=20, seed=1, config=config
    ...     )
    ...     bool(abs(posterior.mean("mu") - 7.25) < 0.2)
    True
    """
    return run_gradient_chains(
        "hmc", simulator, observations, path, _read_config(config, HMCConfig),
        num_draws=num_draws, chains=chains, seed=seed, max_sites=max_sites, observer=observer,
    )  # fmt: skip


def mala(
    simulator: Simulator | Callable[[], object],
    observations: Mapping[str, ArrayLike],
    path: StorePath,
    *,
    num_draws: int,
    chains: int = 4,
    seed: int = 0,
    config: MALAConfig | None = None,
    max_sites: int = MAX_SITES,
    observer: Observer | None = None,
) -> Posterior:
    """Sample the posterior with the Metropolis-adjusted Langevin algorithm: random walks that drift up the gradient.

    A step takes one gradient, so that it is cheap, and goes less far than one of `hmc` (Roberts and Tweedie 1996).

    Parameters
    ----------
    simulator, observations, path, num_draws, chains, seed, max_sites, observer
        As in `hmc`.
    config
        Warm-up and thinning.

    Returns
    -------
    Posterior
        As that of `hmc`.

    Raises
    ------
    InvalidInputError, InferenceError, MissingExtraError, StoreExistsError, SimulatorProtocolError
        As in `hmc`.

    Examples
    --------
    >>> import tempfile
    >>> import tracestore as ts
    >>> @ts.batched_simulator(arrays="torch")
    ... def rate(n):
    ...     rate = ts.sample(ts.Gamma(2.0, 1.0), name="rate")
    ...     ts.observe(ts.Poisson(rate), name="count")
    >>> config = MALAConfig(warmup=200)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     posterior = mala(rate, {"count": 4.0}, folder + "/post", num_draws=4000, chains=20, seed=1, config=config)
    ...     bool(abs(posterior.mean("rate") - 3.0) < 0.2)
    True
    """
    return run_gradient_chains(
        "mala", simulator, observations, path, _read_config(config, MALAConfig),
        num_draws=num_draws, chains=chains, seed=seed, max_sites=max_sites, observer=observer,
    )  # fmt: skip


def _read_config(config: GradientConfig | None, kind: type[GradientConfig]) -> GradientConfig:
    """Refuse the settings of the other engine, which would choose its moves."""
    if config is None:
        return kind()
    if not isinstance(config, kind):
        message = f"`config` must be a {kind.__name__}; got a {type(config).__name__}."
        raise InvalidInputError(message, argument="config")
    return config
