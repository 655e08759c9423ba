import pytest

from tracestore.errors import InvalidInputError
from tracestore.samplers import World


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, World()),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, World(1, 2)),
        ({"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"}, World(3, 4)),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, World(0, 2)),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6", "SLURM_NTASKS": "6"}, World(5, 6)),
    ],
    ids=["alone", "torchrun", "open-mpi", "mpich", "srun"],
)
def test_launchers_are_recognized(environment, expected):
    assert World.from_environment(environment) == expected


def test_batch_script_outside_srun_is_alone():
    assert World.from_environment({"SLURM_PROCID": "0", "SLURM_NTASKS": "64"}) == World()


def test_innermost_launcher_wins():
    environment = {"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}
    assert World.from_environment(environment) == World(1, 2)


def test_reads_this_process_by_default(monkeypatch):
    monkeypatch.setenv("RANK", "7")
    monkeypatch.setenv("WORLD_SIZE", "9")
    assert World.from_environment() == World(7, 9)


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"WORLD_SIZE": "2"}, "torchrun set WORLD_SIZE but not RANK"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK must be a whole number; got 'one'"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "`rank` must be from 0 to 1"),
    ],
)
def test_contradicting_variables_are_refused(environment, text):
    with pytest.raises(InvalidInputError, match=text):
        World.from_environment(environment)


@pytest.mark.parametrize("fields", [{"num_ranks": 0}, {"rank": -1}, {"worker_of_rank": 1}, {"workers_per_rank": 0}])
def test_impossible_places_are_refused(fields):
    with pytest.raises(InvalidInputError, match="must be"):
        World(**fields)
