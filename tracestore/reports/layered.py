"""Draw a directed graph in layers: places for boxes, and the ways of edges. Knows nothing of what the graph means.

The method of Sugiyama, Tagawa and Toda (1981) as Gansner et al. (1993) refined it: edges against the order of the
nodes are turned around, nodes go to layers by longest path, edges over several layers get a dummy in each of them,
layers are ordered by the medians of their neighbors, and coordinates minimize the bending of edges. Every edge has a
dummy between two layers of nodes, which keeps room for its label.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Box", "Edge", "Placement", "place"]

NODE_SPACE = 26.0
DUMMY_SPACE = 12.0
LAYER_SPACE = 15.0
LABEL_HEIGHT = 17.0
DUMMY_WIDTH = 4.0
ORDER_SWEEPS = 16
PLACE_SWEEPS = 24
PORT_SPACE = 16.0
WIDEST = 1000.0
"""Boxes of one layer that are wider together go to several layers."""


@dataclass(frozen=True, slots=True)
class Box:
    """Size of one node; its center line may lie off the middle, so that a loop beside it has room."""

    left: float
    """From the left edge to the center line."""
    right: float
    height: float


@dataclass(frozen=True, slots=True)
class Edge:
    """From one box to another."""

    source: int
    target: int
    label_width: float = 0.0
    """Room for its label; 0 without one."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where everything is; y grows downwards."""

    centers: tuple[tuple[float, float], ...]
    """Center line and top of each box."""
    ways: tuple[tuple[tuple[float, float], ...], ...]
    """Points of each edge from its source to its target: it is vertical at every point."""
    labels: tuple[tuple[float, float], ...]
    """Center of the label of each edge."""
    width: float
    height: float


@dataclass(slots=True)
class _Item:
    """A box or a dummy."""

    left: float
    right: float
    layer: int
    above: list[int]
    below: list[int]
    is_dummy: bool
    x: float = 0.0


def place(boxes: Sequence[Box], edges: Sequence[Edge]) -> Placement:
    """Place the boxes and edges of a graph whose boxes come in the order of its flow.

    Parameters
    ----------
    boxes
        Sizes, the first box at the top. An edge to an earlier box is drawn upwards.
    edges
        Without loops at one box.

    Examples
    --------
    >>> placement = place([Box(20, 20, 10)] * 3, [Edge(0, 1), Edge(1, 2), Edge(0, 2)])
    >>> [round(top) for _, top in placement.centers] == sorted(round(top) for _, top in placement.centers)
    True
    >>> placement.ways[2][0][1] < placement.ways[2][-1][1]
    True
    """
    layers_of = _layers(boxes, edges)
    items = [_Item(box.left, box.right, 2 * layer, [], [], False) for box, layer in zip(boxes, layers_of, strict=True)]
    chains = [_chain(edge, items) for edge in edges]
    layers = _order(items)
    _spread(items, layers)
    tops, heights, total = _rows(boxes, edges, items, layers)
    least = min((item.x - item.left for item in items), default=0.0)
    for item in items:
        item.x -= least
    ways = _ways(edges, chains, items, tops, heights, [box.height for box in boxes])
    labels = []
    for chain in chains:
        # the label stands on the dummy next to the source
        item = items[chain[1]]
        labels.append((item.x, tops[item.layer] + heights[item.layer] / 2))
    centers = tuple((items[place].x, tops[items[place].layer]) for place in range(len(boxes)))
    width = max((item.x + item.right for item in items), default=0.0)
    return Placement(centers, tuple(ways), tuple(labels), width, total)


def _layers(boxes: Sequence[Box], edges: Sequence[Edge]) -> list[int]:
    """Longest path from the top, layers no wider than the page; then boxes without much above move down."""
    down = sorted({(min(e.source, e.target), max(e.source, e.target)) for e in edges})
    layer = [0] * len(boxes)
    filled: dict[int, float] = {}
    arriving: dict[int, list[int]] = {}
    for upper, lower in down:
        arriving.setdefault(lower, []).append(upper)
    widths = [box.left + box.right + NODE_SPACE for box in boxes]
    for box, width in enumerate(widths):
        layer[box] = max((layer[upper] + 1 for upper in arriving.get(box, [])), default=0)
        while filled.get(layer[box], 0.0) + width > WIDEST and layer[box] in filled:
            layer[box] += 1
        filled[layer[box]] = filled.get(layer[box], 0.0) + width
    for box in reversed(range(len(boxes))):
        below = [layer[lower] for upper, lower in down if upper == box]
        lowest = min(below, default=0) - 1
        is_free = lowest > layer[box] and filled.get(lowest, 0.0) + widths[box] <= WIDEST
        if is_free and len(arriving.get(box, [])) < len(below):
            filled[layer[box]] -= widths[box]
            filled[lowest] = filled.get(lowest, 0.0) + widths[box]
            layer[box] = lowest
    return layer


def _chain(edge: Edge, items: list[_Item]) -> list[int]:
    """Add the dummies of an edge; returns its items from source to target."""
    upper, lower = sorted((edge.source, edge.target))
    first, last = items[upper].layer, items[lower].layer
    chain = [upper]
    label_layer = first + 1 if edge.source == upper else last - 1
    for layer in range(first + 1, last):
        half = (edge.label_width if layer == label_layer else 0.0) / 2 + DUMMY_WIDTH / 2
        items.append(_Item(half, half, layer, [], [], True))
        chain.append(len(items) - 1)
    chain.append(lower)
    for one, other in pairwise(chain):
        items[one].below.append(other)
        items[other].above.append(one)
    return chain if edge.source == upper else chain[::-1]


# ------------------------------------------------------------------------------------------------------- order


def _order(items: list[_Item]) -> list[list[int]]:
    """Order the items of each layer so that few edges cross."""
    num_layers = max((item.layer for item in items), default=-1) + 1
    layers: list[list[int]] = [[] for _ in range(num_layers)]
    seen: set[int] = set()
    # depth first from the top, so that what belongs together starts out together
    waiting = [index for index in range(len(items)) if not items[index].above][::-1]
    while waiting:
        index = waiting.pop()
        if index in seen:
            continue
        seen.add(index)
        layers[items[index].layer].append(index)
        waiting.extend(reversed(items[index].below))
    best, fewest = [list(layer) for layer in layers], _crossings(items, layers)
    for sweep in range(ORDER_SWEEPS):
        goes_down = sweep % 2 == 0
        for number in range(1, num_layers) if goes_down else range(num_layers - 2, -1, -1):
            fixed = layers[number - 1 if goes_down else number + 1]
            rank = {index: place for place, index in enumerate(fixed)}
            layers[number] = _by_medians(items, layers[number], rank, goes_down=goes_down)
        found = _crossings(items, layers)
        if found < fewest:
            best, fewest = [list(layer) for layer in layers], found
        if fewest == 0:
            break
    return best


def _by_medians(items: list[_Item], layer: list[int], rank: dict[int, int], *, goes_down: bool) -> list[int]:
    keys: dict[int, float] = {}
    for place, index in enumerate(layer):
        neighbors = sorted(rank[n] for n in (items[index].above if goes_down else items[index].below))
        if not neighbors:
            keys[index] = place * max(len(rank), 1) / max(len(layer), 1)
        else:
            middle = len(neighbors) // 2
            median = neighbors[middle] if len(neighbors) % 2 else (neighbors[middle - 1] + neighbors[middle]) / 2
            # the mean decides between equal medians
            keys[index] = median + 1e-3 * sum(neighbors) / len(neighbors)
    return sorted(layer, key=lambda index: keys[index])


def _crossings(items: list[_Item], layers: list[list[int]]) -> int:
    total = 0
    for layer, below in pairwise(layers):
        rank = {index: place for place, index in enumerate(below)}
        ends: list[int] = []
        for index in layer:
            found = sorted(rank[n] for n in items[index].below)
            total += sum(len(ends) - bisect_left(ends, end + 1) for end in found)
            for end in found:
                insort(ends, end)
    return total


# ------------------------------------------------------------------------------------------------------- coordinates


def _spread(items: list[_Item], layers: list[list[int]]) -> None:
    """Give every item its x: as near to its neighbors as the order and the spaces allow."""
    for layer in layers:
        x = 0.0
        for place, index in enumerate(layer):
            x += _distance(items, layer[place - 1], index) if place else 0.0
            items[index].x = x
        middle = x / 2
        for index in layer:
            items[index].x -= middle
    for sweep in range(PLACE_SWEEPS):
        order = range(len(layers)) if sweep % 2 == 0 else range(len(layers) - 1, -1, -1)
        for number in order:
            # at the end all neighbors pull, at first only those of the layer before
            use_both = sweep >= PLACE_SWEEPS // 2
            _settle(items, layers[number], use_above=use_both or sweep % 2 == 0, use_below=use_both or sweep % 2 == 1)


def _settle(items: list[_Item], layer: list[int], *, use_above: bool, use_below: bool) -> None:
    wishes, weights, offsets = [], [], []
    offset = 0.0
    for place, index in enumerate(layer):
        item = items[index]
        offset += _distance(items, layer[place - 1], index) if place else 0.0
        neighbors = (item.above if use_above else []) + (item.below if use_below else [])
        pulls = [(items[n].x, 6.0 if item.is_dummy and items[n].is_dummy else 1.0) for n in neighbors]
        weight = sum(pull for _, pull in pulls)
        wish = sum(x * pull for x, pull in pulls) / weight if weight else item.x
        wishes.append(wish - offset)
        weights.append(weight or 0.05)
        offsets.append(offset)
    for index, shift, offset in zip(layer, _increasing(wishes, weights), offsets, strict=True):
        items[index].x = shift + offset


def _increasing(wishes: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Return the nondecreasing numbers nearest to the wishes, in weighted squares (pool adjacent violators)."""
    pools: list[tuple[float, float, int]] = []
    for wish, weight in zip(wishes, weights, strict=True):
        pool = (wish, weight, 1)
        while pools and pools[-1][0] >= pool[0]:
            mean, mass, count = pools.pop()
            total = mass + pool[1]
            pool = ((mean * mass + pool[0] * pool[1]) / total, total, count + pool[2])
        pools.append(pool)
    return [mean for mean, _, count in pools for _ in range(count)]


def _distance(items: list[_Item], left: int, right: int) -> float:
    space = DUMMY_SPACE if items[left].is_dummy or items[right].is_dummy else NODE_SPACE
    return items[left].right + space + items[right].left


def _rows(
    boxes: Sequence[Box], edges: Sequence[Edge], items: list[_Item], layers: list[list[int]]
) -> tuple[list[float], list[float], float]:
    """Top and height of each layer, and the height of all."""
    has_labels = any(edge.label_width for edge in edges)
    tops, heights = [], []
    y = 0.0
    for number, layer in enumerate(layers):
        found = [boxes[index].height for index in layer if not items[index].is_dummy]
        height = max(found) if found else (LABEL_HEIGHT if number % 2 and has_labels else 4.0)
        tops.append(y)
        heights.append(height)
        y += height + LAYER_SPACE
    return tops, heights, max(y - LAYER_SPACE, 0.0)


def _ways(
    edges: Sequence[Edge], chains: Sequence[list[int]], items: list[_Item], tops: list[float], heights: list[float],
    box_heights: list[float],
) -> list[tuple[tuple[float, float], ...]]:  # fmt: skip
    ports = _ports(chains, items)
    ways = []
    for number, (edge, chain) in enumerate(zip(edges, chains, strict=True)):
        goes_down = edge.source < edge.target
        chain = chain if goes_down else chain[::-1]
        upper, lower = items[chain[0]], items[chain[-1]]
        points = [(upper.x + ports[number, True], tops[upper.layer] + box_heights[chain[0]])]
        for index in chain[1:-1]:
            item = items[index]
            points += [(item.x, tops[item.layer]), (item.x, tops[item.layer] + heights[item.layer])]
        points.append((lower.x + ports[number, False], tops[lower.layer]))
        ways.append(tuple(points if goes_down else points[::-1]))
    return ways


def _ports(chains: Sequence[list[int]], items: list[_Item]) -> dict[tuple[int, bool], float]:
    """Offset from the center line at which each edge leaves its upper and enters its lower box."""
    ends: dict[tuple[int, bool], list[tuple[float, int]]] = {}
    for number, chain in enumerate(chains):
        down = chain if items[chain[0]].layer <= items[chain[-1]].layer else chain[::-1]
        ends.setdefault((down[0], True), []).append((items[down[1]].x, number))
        ends.setdefault((down[-1], False), []).append((items[down[-2]].x, number))
    offsets = {}
    for (box, is_below), found in ends.items():
        room = 1.6 * min(items[box].left, items[box].right)
        space = min(PORT_SPACE, room / len(found))
        for place, (_, number) in enumerate(sorted(found)):
            offsets[number, is_below] = (place - (len(found) - 1) / 2) * space
    return offsets
