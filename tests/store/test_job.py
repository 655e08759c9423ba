import numpy as np
import pytest

from tracestore.errors import InvalidInputError, StoreExistsError
from tracestore.store import Job

JOB = Job("simulate", {"simulator": "gum", "seed": 1, "config": {"a": [1, 2]}})


def test_equal_jobs_have_equal_hashes_whatever_the_order():
    again = Job("simulate", {"config": {"a": (1, 2)}, "seed": 1, "simulator": "gum"})
    assert again == JOB
    assert again.hash == JOB.hash
    assert len({again, JOB}) == 1


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (Job("infer", JOB.fields), "`verb` is 'infer' there and 'simulate'"),
        (Job("simulate", {**JOB.fields, "seed": 2}), "`seed` is 2 there and 1"),
        (Job("simulate", {**JOB.fields, "extra": None}), "`extra` is None there and 'absent'"),
        (Job("simulate", {"simulator": "gum", "seed": 1}), "`config` is 'absent' there"),
    ],
    ids=["verb", "value", "extra", "missing"],
)
def test_another_job_is_refused_with_field_and_values(other, named):
    assert other.hash != JOB.hash
    with pytest.raises(StoreExistsError) as caught:
        JOB.require_same(other, "out")
    assert named in str(caught.value)
    assert str(caught.value).startswith("out holds the output of another job")
    assert "another path" in str(caught.value)


def test_output_without_a_job_is_refused():
    with pytest.raises(StoreExistsError, match="records no job"):
        JOB.require_same(None, "out")


def test_same_job_is_accepted():
    JOB.require_same(Job.from_json(JOB.to_json()), "out")


@pytest.mark.parametrize("value", [float("nan"), np.int64(1), object()], ids=["nan", "numpy", "object"])
def test_fields_must_be_json(value):
    with pytest.raises(InvalidInputError, match="must be JSON"):
        Job("simulate", {"seed": value})
