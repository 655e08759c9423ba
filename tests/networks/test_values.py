import pytest

pytest.importorskip("torch")
import torch

from tracestore.networks.values import CurveEmbedding, Elements, LinearEmbedding


def elements(site, entry, num_entries, value, discrete, last):
    double = torch.float64
    return Elements(
        torch.tensor(site), torch.tensor(entry), torch.tensor(num_entries), torch.tensor(value, dtype=double),
        torch.tensor(discrete), torch.tensor(last),
    )  # fmt: skip


def test_values_lie_on_a_line_between_knots_or_have_an_entry_of_their_own():
    embedding = CurveEmbedding(1)
    embedding.entries.append(torch.tensor([[0.0], [1.0], [4.0], [10.0], [20.0]]))
    found = embedding(
        elements(
            [0, 1, 2, 3, 4, 5], [0, 0, 0, 3, 3, 3], [3, 3, 3, 2, 2, 2], [0.25, 0.75, 1.0, 0.0, 1.0, 7.0],
            [False, False, False, True, True, True], [2, 2, 2, 4, 4, 4],
        )
    )  # fmt: skip
    # the last is a count beyond the entries
    assert found.squeeze(1).tolist() == [0.5, 2.5, 4.0, 10.0, 20.0, 20.0]


def test_the_elements_of_a_vector_are_added_up():
    embedding = CurveEmbedding(1)
    embedding.entries.append(torch.tensor([[0.0], [1.0], [10.0], [20.0]]))
    found = embedding(elements([1, 1, 0], [0, 2, 0], [2, 2, 2], [0.5, 0.5, 1.0], [False] * 3, [1, 3]))
    assert found.squeeze(1).tolist() == [1.0, 15.5]


def test_a_linear_layer_sees_raw_values_and_one_hot_categories():
    embedding = LinearEmbedding(2)
    # a number: weight, bias; a category of three: a weight each, bias
    embedding.entries.append(torch.tensor([[2.0, -1.0], [0.5, 0.5], [1.0, 0.0], [2.0, -9.0], [3.0, 0.0], [0.25, 1.0]]))
    found = embedding(elements([0, 1], [0, 2], [1, 3], [3.0, 1.0], [False, True], [1, 5]))
    assert found.tolist() == [[6.5, 0.0], [2.25, 0.0]]


def test_close_values_start_with_close_embeddings():
    entries = CurveEmbedding(4).initial_entries(18, 2, torch.Generator().manual_seed(1), is_discrete=False)
    for element in entries.split(9):
        steps = element.diff(dim=0)
        torch.testing.assert_close(steps, steps[:1].expand_as(steps))
    assert not torch.equal(entries[:9], entries[9:])
