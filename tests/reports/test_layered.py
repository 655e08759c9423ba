"""Places of boxes and edges."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from tracestore.reports.layered import WIDEST, Box, Edge, place

SMALL = Box(30.0, 30.0, 20.0)


def random_graph(seed: int, number: int = 30):
    rng = np.random.default_rng(seed)
    boxes = [
        Box(float(rng.uniform(20, 90)), float(rng.uniform(20, 90)), float(rng.uniform(20, 80))) for _ in range(number)
    ]
    pairs = {(int(a), int(b)) for a, b in rng.integers(0, number, (2 * number, 2)) if a != b}
    return boxes, [Edge(a, b, float(rng.choice([0.0, 30.0]))) for a, b in sorted(pairs)]


def rectangle(box, center):
    x, y = center
    return x - box.left, y, x + box.right, y + box.height


def overlap(first, second):
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


@pytest.mark.parametrize("seed", range(5))
def test_boxes_never_overlap_and_lie_within_the_picture(seed):
    boxes, edges = random_graph(seed)
    placement = place(boxes, edges)
    rectangles = [rectangle(box, center) for box, center in zip(boxes, placement.centers, strict=True)]
    assert not any(overlap(one, other) for one, other in combinations(rectangles, 2))
    for left, top, right, bottom in rectangles:
        assert left >= -1e-6
        assert top >= -1e-6
        assert right <= placement.width + 1e-6
        assert bottom <= placement.height + 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_edges_meet_their_boxes_and_cross_no_other(seed):
    boxes, edges = random_graph(seed)
    placement = place(boxes, edges)
    rectangles = [rectangle(box, center) for box, center in zip(boxes, placement.centers, strict=True)]
    for edge, way in zip(edges, placement.ways, strict=True):
        upper, lower = sorted((edge.source, edge.target))
        ends = way if edge.source == upper else way[::-1]
        assert ends[0][1] == pytest.approx(rectangles[upper][3])
        assert ends[-1][1] == pytest.approx(rectangles[lower][1])
        for point, number in ((ends[0], upper), (ends[-1], lower)):
            assert rectangles[number][0] <= point[0] <= rectangles[number][2]
        # between two layers an edge may bend; beside the boxes of a layer it is straight
        for (x0, y0), (x1, y1) in pairwise(ends[1:-1]):
            if x0 == x1:
                path = (x0 - 1e-3, y0, x1 + 1e-3, y1)
                assert not any(overlap(path, other) for n, other in enumerate(rectangles) if n not in (upper, lower))


@pytest.mark.parametrize("seed", range(3))
def test_labels_have_room(seed):
    boxes, edges = random_graph(seed)
    placement = place(boxes, edges)
    labels = [
        (x - e.label_width / 2, y - 8, x + e.label_width / 2, y + 8)
        for e, (x, y) in zip(edges, placement.labels, strict=True)
        if e.label_width
    ]
    assert not any(overlap(one, other) for one, other in combinations(labels, 2))


def test_edges_go_down_unless_they_lead_back():
    placement = place([SMALL] * 3, [Edge(0, 1), Edge(1, 2), Edge(2, 0)])
    forward, _, back = placement.ways
    assert forward[0][1] < forward[-1][1]
    assert back[0][1] > back[-1][1]


def test_a_diamond_has_no_crossing():
    placement = place([SMALL] * 5, [Edge(0, 1), Edge(0, 2), Edge(1, 3), Edge(2, 4), Edge(3, 4)])
    left, right = placement.centers[1][0], placement.centers[2][0]
    assert (left < right) == (placement.centers[3][0] < right)


def test_many_boxes_side_by_side_go_to_several_layers():
    number = 40
    boxes = [SMALL] * (number + 2)
    edges = [Edge(0, n) for n in range(1, number + 1)] + [Edge(n, number + 1) for n in range(1, number + 1)]
    placement = place(boxes, edges)
    tops = {round(top) for _, top in placement.centers[1:-1]}
    assert len(tops) == -(-number // int(WIDEST // 86))


def test_nothing_and_one_box_have_a_place():
    assert place([], []).width == 0.0
    assert place([SMALL], []).centers == ((30.0, 0.0),)
