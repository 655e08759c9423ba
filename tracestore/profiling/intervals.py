"""The statistical error of a share that was found by sampling."""

import math

__all__ = ["wilson_interval"]

NORMAL_QUANTILE = 1.959964


def wilson_interval(share: float, num_samples: float) -> tuple[float, float]:
    """Return the 95 % interval of a binomial probability.

    The score interval (Wilson 1927, J. Am. Stat. Assoc. 22, 209): never outside of 0 to 1, and right for small shares.

    Parameters
    ----------
    share
        Found share.
    num_samples
        Independent samples; need not be whole.

    Examples
    --------
    >>> low, high = wilson_interval(0.5, 100)
    >>> round(low, 3), round(high, 3)
    (0.404, 0.596)
    """
    if num_samples <= 0.0:
        return 0.0, 1.0
    z2 = NORMAL_QUANTILE**2
    center = share + z2 / (2.0 * num_samples)
    spread = NORMAL_QUANTILE * math.sqrt(share * (1.0 - share) / num_samples + z2 / (4.0 * num_samples**2))
    scale = 1.0 + z2 / num_samples
    return max((center - spread) / scale, 0.0), min((center + spread) / scale, 1.0)
