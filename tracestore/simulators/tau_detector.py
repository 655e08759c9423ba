"""What the bundled tau decays share: products, decay channels, the detector, and what is tagged and observed.

Must not know who decays the tau.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tracestore.simulators.calorimeter import Calorimeter, CalorimeterConfig, Deposit, ShowerKind
from tracestore.simulators.runtime import observe, tag
from tracestore.traces.distributions import Normal, Uniform

__all__ = [
    "CHANNELS",
    "DETECTOR",
    "KINDS",
    "OTHER",
    "POLARIZATION",
    "PX",
    "PY",
    "PZ",
    "TAU_MINUS",
    "Product",
    "channel_code",
    "deposit",
    "observe_products",
]

DETECTOR = CalorimeterConfig()
"""Geometry, shower template and noise with which the decays are seen."""
POLARIZATION = (0.0, 0.0, -1.0)
"""Spin of the tau in its rest frame: left-handed for one that flies along the detector's axis."""
PX = Uniform(-3.0, 3.0)
"""Prior of the tau's momentum along x, in GeV."""
PY = Uniform(-3.0, 3.0)
"""Prior of the tau's momentum along y, in GeV."""
PZ = Uniform(40.0, 50.0)
"""Prior of the tau's momentum along the detector's axis, in GeV."""
TAU_MINUS = 15
"""Particle number of the decaying lepton."""

_NEUTRINOS = frozenset({12, 14, 16})
KINDS = {
    11: ShowerKind.ELECTROMAGNETIC,
    13: ShowerKind.MUON,
    22: ShowerKind.ELECTROMAGNETIC,
    111: ShowerKind.ELECTROMAGNETIC,  # neutral pions and etas reach the detector as photons
    130: ShowerKind.HADRONIC,
    211: ShowerKind.HADRONIC,
    221: ShowerKind.ELECTROMAGNETIC,
    310: ShowerKind.HADRONIC,
    321: ShowerKind.HADRONIC,
}
"""How the visible products deposit their energy, by particle number; decays end with these."""
_SYMBOLS = {
    -321: "K-", -211: "pi-", 11: "e-", 13: "mu-", 22: "gamma", 111: "pi0", 130: "KL", 211: "pi+", 221: "eta",
    310: "KS", 321: "K+",
}  # fmt: skip
# Visible products of every channel that TAUOLA makes, most frequent first. A code is a position in this list plus one:
# append, never reorder.
_CHANNELS: tuple[tuple[int, ...], ...] = (
    (-211, 111), (13,), (11,), (-211,), (-211, -211, 211), (-211, 111, 111), (-211, -211, 111, 211), (11, 22),
    (-211, 111, 111, 111), (-321,), (13, 22), (-321, -211, 211), (-211, 130), (-321, 111), (-211, 310),
    (-211, 111, 130), (-211, 111, 310), (-211, 111, 221), (-321, -211, 321), (-211, 22, 111),
    (-211, -211, 111, 111, 211), (-211, 130, 310), (-321, 111, 310), (-321, 111, 130), (-321, 130), (-321, 111, 111),
    (-321, 310), (-211, -211, 111, 111, 111, 211), (-211, 130, 130), (-211, -211, -211, 211, 211), (-211, 310, 310),
    (-211, -211, -211, 111, 211, 211),
)  # fmt: skip
_CODES = {products: code for code, products in enumerate(_CHANNELS, start=1)}
OTHER = 0
"""Code of a channel that is not in `CHANNELS`."""


def _label(products: tuple[int, ...]) -> str:
    neutrinos = ["nu", "nu"] if products[0] in (11, 13) else ["nu"]
    return " ".join([_SYMBOLS[pid] for pid in products] + neutrinos)


CHANNELS: tuple[str, ...] = ("other", *map(_label, _CHANNELS))
"""Name of every decay channel, by the code that the tag ``channel`` records."""


class Product(NamedTuple):
    """One decay product in the laboratory frame."""

    pid: int
    """Particle number of the Particle Data Group."""
    px: float
    """Momentum along x in GeV."""
    py: float
    """Momentum along y in GeV."""
    pz: float
    """Momentum along the detector's axis in GeV."""
    energy: float
    """Energy in GeV."""

    @property
    def is_visible(self) -> bool:
        """Whether the particle can be detected, that is, it is no neutrino."""
        return abs(self.pid) not in _NEUTRINOS


def channel_code(products: Sequence[Product]) -> int:
    """Return the position in `CHANNELS` of the channel that made these products of a negative tau.

    Examples
    --------
    >>> CHANNELS[channel_code([Product(16, 0.0, 0.0, 20.0, 20.0), Product(-211, 0.0, 0.0, 25.0, 25.0)])]
    'pi- nu'
    """
    return _CODES.get(tuple(sorted(product.pid for product in products if product.is_visible)), OTHER)


def deposit(product: Product) -> Deposit:
    """Describe a visible product that flies forwards as the calorimeter sees it."""
    slope_x, slope_y = product.px / product.pz, product.py / product.pz
    return Deposit(product.energy, slope_x, slope_y, KINDS[abs(product.pid)])


_CALORIMETER = Calorimeter(DETECTOR)


def observe_products(products: Sequence[Product]) -> None:
    """Tag what a decay is, and observe the calorimeter: the second half of a simulator of tau decays.

    Tags: ``channel`` (see `CHANNELS`), ``num_products``, ``energy_1`` and ``energy_2`` (the two most energetic visible
    products, zero when there is none) and ``met`` (missing transverse energy: the transverse momentum of the neutrinos
    together), in GeV. Observation: ``calorimeter``, float32 energies in GeV of shape (20, 35, 35).

    Parameters
    ----------
    products
        All products of the decay, neutrinos included.
    """
    visible = [product for product in products if product.is_visible]
    unseen = [product for product in products if not product.is_visible]
    energies = sorted((product.energy for product in visible), reverse=True)
    tag(channel_code(products), name="channel", address="channel")
    tag(len(products), name="num_products", address="num_products")
    tag(energies[0] if energies else 0.0, name="energy_1", address="energy_1")
    tag(energies[1] if len(energies) > 1 else 0.0, name="energy_2", address="energy_2")
    met = np.hypot(sum(product.px for product in unseen), sum(product.py for product in unseen))
    tag(met, name="met", address="met")
    image = _CALORIMETER.image([deposit(product) for product in visible if product.pz > 0.0])
    observe(Normal(image, DETECTOR.noise_sd), name="calorimeter", address="calorimeter", dtype=np.float32)
