"""Surrogates as simulators: images drawn inside a traced program, and a program of which the image is the observation.

What makes an image random becomes a few draws of the trace, so that a trace can be run again, weighed, and moved by a
Markov chain. Two forms of the draws: one number that stands for a whole pattern of noise, as in
`simulators.shower.draw_shower`, or the latent numbers of the model themselves, near which similar images lie.

Knows nothing of how a surrogate learns. What is inferred with a surrogate in the place of the simulator is as good as
the surrogate; proposals learned on its traces and used with the simulator are exact (importance weights correct them).
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError
from tracestore.simulators.batched import BatchedSimulator
from tracestore.simulators.runtime import fatal, observe, sample
from tracestore.surrogates.gan import AdversarialGenerator
from tracestore.surrogates.model import row_generators
from tracestore.surrogates.persistence import load_surrogate
from tracestore.surrogates.surrogate import Surrogate
from tracestore.traces.distributions import Distribution, Normal, Uniform
from tracestore.traces.distributions.base import plain_array
from tracestore.traces.distributions.point_mass import PointMass

__all__ = ["Latents", "SurrogateSimulator", "draw_surrogate", "surrogate_digest", "surrogate_simulator"]

Latents = Literal["pattern", "values"]

BATCH_SIZE = 64
"""Most images of a call of the network when traces are generated: more are not faster on a processor's core."""
_MOST_AT_ONCE = 512
"""Most images of one call of the network in a larger batch, for the memory of its layers."""
_PATTERNS = 2.0**53
_DRAWN = 2
"""Purpose of a stream of noise that a pattern number stands for."""
_ROUNDING = 0.01
"""Of the highest cell of an image: batches of other sizes and other devices sum in another order, and logarithms of
cells enlarge it. Images of other noise are farther apart than this by far."""
_UNIT = Uniform(0.0, 1.0)


def draw_surrogate(
    surrogate: Surrogate,
    energy: ArrayLike,
    angle: ArrayLike | None = None,
    *,
    name: str = "shower",
    latents: Latents = "pattern",
    control: bool = True,
) -> NDArray[np.float32]:
    """Draw an image from a surrogate inside a larger program, as `draw_shower` does from the simulator.

    The image is a function of the labels and the recorded draws. Run again in the same form (alone, or in a batch of
    the same size, on the same device) it is the same to the last bit; else up to rounding. In a batched program one
    call of the network makes the images of all traces, of each 512 of them.

    Parameters
    ----------
    surrogate
        Makes the images.
    energy
        First label, in the units it was trained with; in a batched program also one a trace, shape ``(n,)``.
    angle
        Second label, for a surrogate that has one.
    name
        Beginning of the names of the draws.
    latents
        ``pattern``: one uniform draw ``NAME.pattern``, the number of a pattern of noise; neighboring numbers have
        nothing in common. ``values``: the numbers that the whole image shares are a standard Normal draw
        ``NAME.latents``, which inference can move bit by bit; noise of single cells stays a number ``NAME.cells``.
        For models with such numbers only (``gan``).
    control
        False keeps inference from proposing the draws: they come from their priors.

    Returns
    -------
    numpy.ndarray
        Float32, shape ``surrogate.shape``; in a batched program ``(n, *surrogate.shape)``.

    Raises
    ------
    InvalidInputError
        When a label is missing, too many, not finite, or outside of the range that the surrogate was trained on; in a
        run, the trace is recorded as failed with this reason. When the model has no latents to be drawn as values.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators import PriorController, run_trace
    >>> from tracestore.surrogates import new_surrogate
    >>> surrogate = new_surrogate((8, 8, 8), ["energy"], "shower", seed=1)
    >>> @ts.simulator
    ... def electron():
    ...     energy = ts.sample(ts.Uniform(10.0, 20.0), name="energy")
    ...     image = draw_surrogate(surrogate, energy)
    ...     ts.observe(ts.Normal(image.sum(axis=(0, 1)), 0.1), name="layers")
    >>> trace = run_trace(electron, PriorController(), np.random.default_rng(1))
    >>> [site.name for site in trace.sites]
    ['energy', 'shower.pattern', 'layers']
    """
    labels = [energy] if angle is None else [energy, angle]
    if len(labels) != len(surrogate.labels):
        message = (
            f"The surrogate is conditioned on {', '.join(surrogate.labels)}; got {len(labels)} of them. Give `angle` "
            "if, and only if, it has a second label."
        )
        raise fatal(InvalidInputError(message, expected=surrogate.labels, found=len(labels)))
    return _draw_image(surrogate, labels, name=name, latents=latents, control=control)


class SurrogateSimulator(BatchedSimulator):
    """A surrogate as a program; made by `surrogate_simulator`.

    Parameters
    ----------
    surrogate
        Makes the images.
    priors
        Of every label, by name.
    latents
        As in `draw_surrogate`.
    batch_size
        Most images of a call of the network.

    Attributes
    ----------
    surrogate, priors
        As given.

    Examples
    --------
    >>> from tracestore.surrogates import new_surrogate
    >>> surrogate = new_surrogate((8, 8, 8), ["energy"], "shower", seed=1)
    >>> SurrogateSimulator(surrogate, {"energy": Uniform(1.0, 2.0)}).name
    "tracestore.surrogates.stand_in:surrogate_simulator(energy=Uniform(low=1.0, high=2.0), latents='pattern')"
    """

    def __init__(
        self,
        surrogate: Surrogate,
        priors: Mapping[str, Distribution],
        *,
        latents: Latents = "pattern",
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self.surrogate, self.priors = surrogate, dict(priors)
        shown = ", ".join([*(f"{name}={prior!r}" for name, prior in priors.items()), f"latents={latents!r}"])
        self._digest = surrogate_digest(surrogate)
        super().__init__(
            partial(_run, surrogate, self.priors, latents),
            name=f"{__name__}:surrogate_simulator({shown})",
            batch_size=batch_size,
        )

    @property
    def fingerprint(self) -> str:
        """Digest of the surrogate, its weights included: traces of other weights belong to another job."""
        return self._digest


def surrogate_simulator(
    surrogate: Surrogate | str | Path,
    priors: Mapping[str, Distribution] | None = None,
    *,
    latents: Latents = "pattern",
    batch_size: int = BATCH_SIZE,
) -> SurrogateSimulator:
    """Return a simulator whose observation is the image of a surrogate.

    Its draws are the labels, by their names, and those of `draw_surrogate`; its observation has the name that the
    surrogate was trained on, float32. Given its draws an image is certain (`PointMass`): there is no likelihood by
    which draws could be compared for an image that something else made, and engines refuse to condition on one. For
    inference write a program with `draw_surrogate` that observes what is measured, with its noise.

    It is a batched simulator: `simulate` calls the network for many traces at a time.

    Parameters
    ----------
    surrogate
        A surrogate, or the folder of one.
    priors
        Of labels, by name; others are uniform over the range that the surrogate was trained on.
    latents
        As in `draw_surrogate`.
    batch_size
        Most images of a call of the network.

    Raises
    ------
    InvalidInputError
        When there is a prior for something that is no label, or one that is no distribution of a number or reaches
        outside of the trained range; when the surrogate was not trained.
    StoreNotFoundError, CheckpointMismatchError
        When there is no surrogate in the folder, or a damaged one.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.surrogates import new_surrogate
    >>> surrogate = new_surrogate((8, 8, 8), ["energy"], "shower", seed=1)
    >>> surrogate.record_labels([[10.0], [500.0]])
    >>> program = surrogate_simulator(surrogate, {"energy": ts.Uniform(100.0, 200.0)})
    >>> store = ts.simulate(program, "showers", num_traces=20, seed=1)
    >>> energies, images = store.as_arrays(["energy"], observations=["shower"])
    >>> images.shape
    (20, 8, 8, 8)
    """
    made = surrogate if isinstance(surrogate, Surrogate) else load_surrogate(surrogate)
    return SurrogateSimulator(made, _all_priors(made, priors or {}), latents=latents, batch_size=batch_size)


def surrogate_digest(surrogate: Surrogate) -> str:
    """Return a digest of what a surrogate is: weights, scalings, labels and their ranges, observation.

    Examples
    --------
    >>> from tracestore.surrogates import new_surrogate
    >>> one, other = (new_surrogate((8, 8, 8), ["energy"], "shower", seed=seed) for seed in (1, 2))
    >>> surrogate_digest(one) == surrogate_digest(other)
    False
    """
    content = hashlib.blake2b(digest_size=8)
    described = (surrogate.config.to_dict(), surrogate.labels, surrogate.label_ranges, surrogate.observation)
    content.update(repr(described).encode())
    for name, tensor in sorted(surrogate.model.state_dict().items()):
        content.update(f"\x1e{name}\x1f{tuple(tensor.shape)}\x1f".encode())
        content.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return content.hexdigest()


def _run(surrogate: Surrogate, priors: Mapping[str, Distribution], latents: Latents) -> None:
    labels = [sample(priors[label], name=label, address=label) for label in surrogate.labels]
    images = _draw_image(surrogate, labels, name=surrogate.observation, latents=latents)
    # batched throughout: the first axis counts traces
    highest = images.max(axis=tuple(range(1, images.ndim)), keepdims=True)
    seen = observe(PointMass(images, _ROUNDING * highest), name=surrogate.observation, dtype=np.float32)
    if not (np.abs(seen - images) <= _ROUNDING * highest).all():
        message = (
            f"A surrogate has no likelihood of {surrogate.observation!r}: given its draws an image is certain, and it "
            "is not the one that was given. Condition on what is measured, such as sums of layers with their noise, in "
            "a program that calls `draw_surrogate`."
        )
        raise fatal(InvalidInputError(message, name=surrogate.observation))


def _draw_image(
    surrogate: Surrogate, labels: list[ArrayLike], *, name: str, latents: Latents, control: bool = True
) -> NDArray[np.float32]:
    """Record the draws of an image and compute it; with a trace axis when the draws have one."""
    if latents not in get_args(Latents):
        message = f"`latents` must be one of {', '.join(map(repr, get_args(Latents)))}; got {latents!r}."
        raise fatal(InvalidInputError(message, argument="latents", found=latents))
    num_latents = _num_latents(surrogate) if latents == "values" else 0
    place = f"{name}.cells" if num_latents else f"{name}.pattern"
    pattern = plain_array(sample(_UNIT, name=place, address=place, control=control))
    is_batch = pattern.ndim > 0  # in a batch, every draw has a first axis that counts traces
    patterns_N = (np.atleast_1d(pattern) * _PATTERNS).astype(np.int64)
    values_NV = None
    if num_latents:
        place = f"{name}.latents"
        prior = Normal(np.zeros((1, num_latents) if is_batch else num_latents), 1.0)
        values = plain_array(sample(prior, name=place, address=place, control=control))
        values_NV = values.reshape(len(patterns_N), num_latents)
    images = _make_images(surrogate, _as_columns(surrogate, labels, len(patterns_N)), patterns_N, values_NV)
    return images if is_batch else images[0]


def _as_columns(surrogate: Surrogate, labels: list[ArrayLike], num_traces: int) -> NDArray[np.float64]:
    """Read labels, one number a trace or the same for all, and refuse those that the surrogate does not know."""
    labels_NL = np.empty((num_traces, len(labels)))
    ranges = surrogate.label_ranges or [(-math.inf, math.inf)] * len(labels)
    for column, (name, label, (low, high)) in enumerate(zip(surrogate.labels, labels, ranges, strict=True)):
        found = plain_array(label)
        if found.shape not in ((), (1,), (num_traces,)) or found.dtype.kind not in "biuf":
            message = (
                f"Label {name!r} must be a number, or one for each trace of a batch; got {found.dtype} of shape "
                f"{found.shape} for {num_traces} images."
            )
            raise fatal(InvalidInputError(message, label=name, found=found.shape))
        labels_NL[:, column] = found
        outside = np.flatnonzero(~((labels_NL[:, column] >= low) & (labels_NL[:, column] <= high)))  # NaN, too
        if len(outside):
            message = (
                f"Label {name!r} is {labels_NL[outside[0], column]:g}, and the surrogate was trained on {low:g} to "
                f"{high:g}: it knows nothing of images outside. Keep to this range, or train on a wider store."
            )
            raise InvalidInputError(message, label=name, lowest=low, highest=high)
    return labels_NL


def _make_images(
    surrogate: Surrogate,
    labels_NL: NDArray[np.float64],
    patterns_N: NDArray[np.int64],
    values_NV: NDArray[np.generic] | None,
) -> NDArray[np.float32]:
    model, images = surrogate.model, np.empty((len(labels_NL), *surrogate.shape), np.float32)
    with torch.inference_mode(), _one_thread():
        for start in range(0, len(labels_NL), _MOST_AT_ONCE):
            part = slice(start, start + _MOST_AT_ONCE)
            noise_NZ = model.draw_noise(len(patterns_N[part]), row_generators(patterns_N[part], _DRAWN))
            if values_NV is not None:
                noise_NZ[:, : values_NV.shape[1]] = torch.from_numpy(values_NV[part]).to(noise_NZ)
            given_NL = torch.from_numpy(labels_NL[part]).to(model.device, torch.float32)
            images[part] = model.generate(given_NL, noise_NZ).cpu().numpy()
    return images


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: a forked worker has lost the others of its parent, and images depend on their number."""
    threads = torch.get_num_threads()
    if threads != 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if threads != 1:
            torch.set_num_threads(threads)


def _num_latents(surrogate: Surrogate) -> int:
    """Return how many numbers at the beginning of the noise are standard Normal and belong to the whole image."""
    if isinstance(surrogate.model, AdversarialGenerator):
        return surrogate.model.config.latent_size
    message = (
        f"The noise of a {surrogate.config.model!r} model belongs to single cells and is no draw that inference could "
        "move; use latents='pattern'."
    )
    raise fatal(InvalidInputError(message, argument="latents", found="values"))


def _all_priors(surrogate: Surrogate, priors: Mapping[str, Distribution]) -> dict[str, Distribution]:
    """Check the priors that were given, and add those that were not."""
    unknown = [name for name in priors if name not in surrogate.labels]
    if unknown:
        message = f"The surrogate has no label {', '.join(unknown)}; its labels are {', '.join(surrogate.labels)}."
        raise InvalidInputError(message, unknown=tuple(unknown))
    if len(surrogate.label_ranges) != len(surrogate.labels):
        message = "The surrogate has no ranges of labels: it was never trained. Train it, or load a trained one."
        raise InvalidInputError(message, argument="surrogate")
    found: dict[str, Distribution] = {}
    for label, (low, high) in zip(surrogate.labels, surrogate.label_ranges, strict=True):
        prior: object = priors[label] if label in priors else Uniform(low, high)
        if not isinstance(prior, Distribution) or prior.shape:
            message = f"The prior of {label!r} must be a distribution of one number; got {prior!r}."
            raise InvalidInputError(message, label=label)
        lowest, highest = prior.support
        if lowest < low or highest > high:
            message = (
                f"The prior of {label!r} reaches from {lowest:g} to {highest:g}, outside of the trained range {low:g} "
                f"to {high:g}; give one inside, or train on a wider store."
            )
            raise InvalidInputError(message, label=label, lowest=low, highest=high)
        found[label] = prior
    return found
