"""What each cell does on its own, given the labels: how often it is hit and how much energy it has on average.

A generator starts from this law, which is fitted and not trained, and learns what is missing: how cells go together.
A cell is the positive part of a Normal number, which can have any probability of being zero and any mean; above a
threshold far away, its energy is exponential, like that of a single spot. Knows nothing of networks.
"""

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["draw_spots", "fit_cell_law", "fit_total_law", "label_basis", "read_level"]

NUM_STEPS = 8
"""Newton steps of the regressions; convergence is quadratic."""
LOWEST_LOG_MEAN = -14.0
"""Natural logarithm of the smallest mean energy in units."""
ENOUGH_HITS = 30.0
"""Hits from which a cell is believed rather than the mean of its neighbors."""
MANY_SPOTS = 4.0
SURELY_HIT = 60.0
"""Spots from which the probability of none is too small for float32, and its Normal number comes from a series."""
MOST_LEVEL = 12.0
"""Highest logarithm of a level; keeps exponentials finite."""
NODES = 64
"""Of the table of `draw_spots`, for each factor e of the mean."""
CELLS_AT_ONCE = 2048
SLOPE_BELOW = 2.0
"""Of the level below zero. There the level falls by two units when the mean falls by a factor e, so that a change of
what is read is the same change of the logarithm of the mean everywhere."""


def read_level(read: Tensor) -> Tensor:
    """Return levels: exponential above zero, linear below.

    Examples
    --------
    >>> read_level(torch.tensor([-1.0, 0.0, 1.0])).tolist()[:2]
    [-2.0, 0.0]
    """
    above = read.clamp(0.0, MOST_LEVEL).exp_()
    return torch.add(above, read.clamp(max=0.0), alpha=SLOPE_BELOW).sub_(1.0)


def draw_spots(log_mean: Tensor, noise: Tensor) -> Tensor:
    """Return the energies of cells that a Poisson number of spots hits, each spot of one unit on average, exponential.

    With ``z = max(level + noise, 0)`` a cell gets ``z (slope + z / 2)``. The level makes the probability of no spot
    right, the slope the mean; that the variance is then nearly twice the mean, as it should be, and the distribution
    nearly that of the spots, is an observation of ours.

    Parameters
    ----------
    log_mean
        Logarithm of the mean number of spots.
    noise
        Standard Normal numbers, of the same shape.

    Examples
    --------
    >>> draw_spots(torch.full((100_000,), math.log(0.5)), torch.randn(100_000)).mean().round(decimals=1)
    tensor(0.5000)
    """
    place = (log_mean.clamp(LOWEST_LOG_MEAN, MOST_LEVEL) - LOWEST_LOG_MEAN) * NODES
    table_K4 = _spot_table(log_mean.device)
    node = place.detach().to(torch.int64).clamp_(max=len(table_K4) - 1)
    rest = place - node
    level, level_step, slope, slope_step = functional.embedding(node, table_K4).unbind(-1)
    z = functional.relu(torch.addcmul(level, rest, level_step) + noise)
    return z * (torch.addcmul(slope, rest, slope_step) + 0.5 * z)


@cache
@torch.inference_mode(mode=False)  # what is made in that mode could not be trained with later
def _spot_table(device: torch.device) -> Tensor:
    """Return level and slope of `draw_spots` by the logarithm of the mean, each with its step to the next."""
    num_nodes = round((MOST_LEVEL - LOWEST_LOG_MEAN) * NODES) + 1
    mean = torch.exp(torch.linspace(LOWEST_LOG_MEAN, MOST_LEVEL, num_nodes, dtype=torch.float64))
    few = -torch.special.ndtri(torch.exp(-mean.clamp(max=SURELY_HIT)))
    far = torch.sqrt(2.0 * mean.clamp(min=0.5 * SURELY_HIT))
    many = far - torch.log(math.sqrt(2.0 * math.pi) * far) / far
    level = torch.where(mean < SURELY_HIT, few, many)
    hit = -torch.expm1(-mean)
    # mean of z, by which that of z squared is ``level * mean_z + hit``
    mean_z = level * hit + torch.exp(-0.5 * level**2) / math.sqrt(2.0 * math.pi)
    slope = ((mean - 0.5 * hit) / mean_z - 0.5 * level).clamp(min=0.0)
    columns = [level[:-1], level.diff(), slope[:-1], slope.diff()]
    return torch.stack(columns, dim=1).to(device, torch.float32)


def label_basis(scaled_NL: Tensor) -> Tensor:
    """Return the monomials up to the second order of scaled labels, shape ``(N, B)``.

    Examples
    --------
    >>> label_basis(torch.tensor([[2.0, 3.0]])).tolist()
    [[1.0, 2.0, 3.0, 4.0, 6.0, 9.0]]
    """
    columns = [torch.ones_like(scaled_NL[:, :1]), scaled_NL]
    columns += [scaled_NL[:, [one]] * scaled_NL[:, one:] for one in range(scaled_NL.shape[1])]
    return torch.cat(columns, dim=1)


def fit_cell_law(units_NX: Tensor, scaled_NL: Tensor, *, is_of_spots: bool = False) -> Tensor:
    """Fit the law of every cell.

    The logarithm of the mean energy of a cell is a polynomial of the labels (`label_basis`), fitted by the likelihood
    of a Poisson regression. A single spot having an energy of one unit turns means into probabilities of a hit.

    Parameters
    ----------
    units_NX
        Images, in units, shape ``(N, x, y, depth)``.
    scaled_NL
        Scaled labels.
    is_of_spots
        Whether cells are drawn by `draw_spots`.

    Returns
    -------
    torch.Tensor
        Coefficients of the level and of the logarithm of the spread, shape ``(B, 2, x, y, depth)``. The level
        is what `read_level` reads. For spots, those of the logarithm of the mean, and zeros.

    Examples
    --------
    >>> images = torch.distributions.Exponential(torch.tensor(0.1)).sample((200, 8, 8, 8))
    >>> law = fit_cell_law(images, torch.randn(200, 1))
    >>> law.shape, bool((law[0, 0].exp().mean() - 11.0).abs() < 1.0)
    (torch.Size([3, 2, 8, 8, 8]), True)
    """
    shape = units_NX.shape[1:]
    basis_NB = label_basis(scaled_NL).double().cpu()
    cells_NX = units_NX.float().cpu()
    hits_C = (cells_NX > 0.0).sum(0).flatten().double()
    smooth_NX = functional.avg_pool3d(cells_NX[:, None], 3, stride=1, padding=1, count_include_pad=False)
    smooth_NX = functional.avg_pool3d(smooth_NX, 3, stride=1, padding=1, count_include_pad=False)[:, 0]
    # projects functions of the labels, given at the labels of the images, on the basis
    project_BN = torch.linalg.pinv(basis_NB)
    law_B2C = torch.empty(basis_NB.shape[1], 2, hits_C.numel(), dtype=torch.float64)
    for start in range(0, hits_C.numel(), CELLS_AT_ONCE):
        block = slice(start, start + CELLS_AT_ONCE)
        trust_C = hits_C[block] / (hits_C[block] + ENOUGH_HITS)
        own_NC, near_NC = (
            _log_means(images.flatten(1)[:, block].double(), basis_NB) for images in (cells_NX, smooth_NX)
        )
        mean_NC = torch.exp(trust_C * own_NC + (1.0 - trust_C) * near_NC)
        if is_of_spots:
            law_B2C[:, 0, block] = project_BN @ torch.log(mean_NC)
            law_B2C[:, 1, block] = 0.0
            continue
        level_NC, spread_NC = _positive_part(mean_NC)
        read_NC = torch.where(level_NC > 0.0, torch.log1p(level_NC.clamp(min=0.0)), level_NC / SLOPE_BELOW)
        law_B2C[:, 0, block] = project_BN @ read_NC
        law_B2C[:, 1, block] = project_BN @ torch.log(spread_NC)
    return law_B2C.to(units_NX.device, torch.float32).reshape(-1, 2, *shape)


def fit_total_law(units_NX: Tensor, scaled_NL: Tensor) -> Tensor:
    """Fit the total energy: the logarithm is Normal, with polynomials of the labels for mean and log of the spread.

    Parameters
    ----------
    units_NX
        Images, in units.
    scaled_NL
        Scaled labels.

    Returns
    -------
    torch.Tensor
        Coefficients of the mean and of the logarithm of the spread, shape ``(B, 2)``.

    Examples
    --------
    >>> images = torch.ones(100, 8, 8, 8) * torch.linspace(1.0, 2.0, 100)[:, None, None, None]
    >>> fit_total_law(images, torch.linspace(-1.0, 1.0, 100)[:, None])[0, 0].exp().round()
    tensor(768.)
    """
    basis_NB = label_basis(scaled_NL).double().cpu()
    logs_N = torch.log(units_NX.double().sum((1, 2, 3)).cpu().clamp(min=1e-3))
    project_BN = torch.linalg.pinv(basis_NB)
    mean_B = project_BN @ logs_N
    # the logarithm of the square of a Normal number is -1.27 on average
    squares_N = (logs_N - basis_NB @ mean_B).square().clamp(min=1e-12)
    spread_B = 0.5 * (project_BN @ torch.log(squares_N))
    spread_B[0] += 0.5 * 1.2704
    return torch.stack([mean_B, spread_B], dim=1).to(units_NX.device, torch.float32)


def _log_means(cells_NC: Tensor, basis_NB: Tensor) -> Tensor:
    """Fit a Poisson regression to each cell and return the logarithm of its mean for every image."""
    size = basis_NB.shape[1]
    mean_C = cells_NC.mean(0).clamp(min=math.exp(LOWEST_LOG_MEAN))
    weights_BC = torch.zeros(size, cells_NC.shape[1], dtype=torch.float64)
    weights_BC[0] = torch.log(mean_C)
    pairs_NBB = basis_NB[:, :, None] * basis_NB[:, None, :]
    # a prior keeps slopes of cells that are hardly ever hit near zero
    prior_BB = torch.diag(torch.tensor([1e-3] + [1.0] * (size - 1), dtype=torch.float64))
    start_BC = weights_BC.clone()
    for _ in range(NUM_STEPS):
        mean_NC = torch.exp((basis_NB @ weights_BC).clamp(LOWEST_LOG_MEAN, 20.0))
        slope_BC = basis_NB.T @ (cells_NC - mean_NC) - prior_BB @ (weights_BC - start_BC)
        curve_CBB = (mean_NC.T @ pairs_NBB.flatten(1)).reshape(-1, size, size) + prior_BB
        step_BC = torch.linalg.solve(curve_CBB, slope_BC.T[:, :, None])[:, :, 0].T
        weights_BC += step_BC.clamp(-1.0, 1.0)
    return (basis_NB @ weights_BC).clamp(LOWEST_LOG_MEAN, 20.0)


def _positive_part(mean_NC: Tensor) -> tuple[Tensor, Tensor]:
    """Return level l and spread s so that ``max(l + s n, 0)`` has a mean, and is zero as a number of spots is."""
    hit_NC = (-torch.expm1(-mean_NC)).clamp(1e-9, 1.0 - 1e-9)
    ratio_NC = torch.special.ndtri(hit_NC)
    density_NC = torch.exp(-0.5 * ratio_NC**2) / math.sqrt(2.0 * math.pi)
    spread_NC = mean_NC / (ratio_NC * hit_NC + density_NC)
    # with many spots, the spread is that of a sum of exponential energies
    is_many_NC = mean_NC > MANY_SPOTS
    spread_NC = torch.where(is_many_NC, torch.sqrt(2.0 * mean_NC), spread_NC)
    return torch.where(is_many_NC, mean_NC, ratio_NC * spread_NC), spread_NC
