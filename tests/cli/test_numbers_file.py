import numpy as np
import pytest

from tracestore.cli.numbers_file import read_numbers
from tracestore.errors import InvalidInputError


def test_of_numbers_and_lists(tmp_path):
    path = tmp_path / "o.json"
    path.write_text('{"a": 1, "b": [1.5, 2], "c": [[1, 2], [3, 4]], "d": true}')
    found = read_numbers(path)
    assert {name: value.shape for name, value in found.items()} == {"a": (), "b": (2,), "c": (2, 2), "d": ()}
    assert all(value.dtype == np.float64 for value in found.values())


def test_from_npz(tmp_path):
    np.savez(tmp_path / "o.npz", voxels=np.arange(8.0).reshape(2, 2, 2))
    assert read_numbers(tmp_path / "o.npz")["voxels"].shape == (2, 2, 2)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[1, 2]", "one JSON object"),
        ("{}", "one JSON object"),
        ("{,}", "is not JSON"),
        ('{"a": "eight"}', "'a' in .* must be a number"),
        ('{"a": null}', "'a' in .* must be a number"),
        ('{"a": [[1, 2], [3]]}', "'a' in .* must be a number or a rectangular list"),
        ('{"a": {"b": 1}}', "'a' in .* must be a number"),
    ],
)
def test_that_is_not_numbers_is_refused(tmp_path, content, complaint):
    path = tmp_path / "o.json"
    path.write_text(content)
    with pytest.raises(InvalidInputError, match=complaint):
        read_numbers(path)


def test_file_of_another_kind_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="There is no file"):
        read_numbers(tmp_path / "none.json")
    (tmp_path / "o.csv").write_text("1")
    with pytest.raises(InvalidInputError, match=r"the ending '.csv'"):
        read_numbers(tmp_path / "o.csv")
    (tmp_path / "o.npz").write_text("1")
    with pytest.raises(InvalidInputError, match="not an npz archive"):
        read_numbers(tmp_path / "o.npz")


def test_pickled_observation_is_refused(tmp_path):
    np.savez(tmp_path / "o.npz", a=np.array([{"code": 1}], dtype=object))
    with pytest.raises(InvalidInputError, match="not an npz archive of numbers"):
        read_numbers(tmp_path / "o.npz")
