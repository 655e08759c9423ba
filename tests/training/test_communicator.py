"""Sums and byte strings between real processes, over torch.distributed and MPI; errors that end a job."""

from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from torch import distributed

from tests.training.rank_programs import JOBS, run_good_programs, start_ranks
from tracestore.errors import ExecutorError, InvalidInputError
from tracestore.samplers.world import World
from tracestore.training.communicator import SoleProcess, local_device, open_communicator
from tracestore.training.torch_communicator import TorchCommunicator

LAUNCHERS = ("RANK", "WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMI_RANK", "SLURM_STEP_NUM_TASKS")


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module", params=JOBS, ids=lambda job: f"{job[0]}-{job[1]}")
def talked(request):
    return [result["talk"] for result in run_good_programs(*request.param)]


@pytest.mark.processes
def test_each_rank_knows_its_place(talked):
    assert [result["world"] for result in talked] == [(rank, len(talked)) for rank in range(len(talked))]


@pytest.mark.processes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8], ids=str)
def test_sums_of_all_types(talked, dtype):
    factor = sum(range(1, len(talked) + 1))
    expected = torch.arange(5, dtype=dtype) * factor
    assert all(torch.equal(result[str(dtype)], expected) for result in talked)


@pytest.mark.processes
def test_several_sums_are_in_flight_at_once(talked):
    expected = [[len(talked) * 10.0**index] for index in range(4)]
    assert [[found.tolist() for found in result["in flight"]] for result in talked] == [expected] * len(talked)
    assert all(result["asking"] for result in talked)


@pytest.mark.processes
def test_a_part_of_a_tensor_is_summed_in_place(talked):
    count = float(len(talked))
    assert all(result["part"].tolist() == [1, 1, count, count, 1, 1] for result in talked)


@pytest.mark.processes
def test_sums_have_the_same_bits_on_all_ranks(talked):
    assert all(torch.equal(result["bits"], talked[0]["bits"]) for result in talked)


@pytest.mark.processes
def test_byte_strings_of_different_lengths_come_in_the_order_of_ranks(talked):
    expected = [bytes(range(rank * 3)).hex() for rank in range(len(talked))]
    assert all(result["gather"] == expected for result in talked)
    assert all(result["gather nothing"] == [0] * len(talked) for result in talked)
    assert all(result["order"][1] == f"rank 1 of {len(talked)}" for result in talked)


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.processes
@pytest.mark.parametrize("program", ["fail_alone", "fail_in_the_middle"])
def test_a_rank_that_fails_ends_the_others(tmp_path, program):
    first, second = start_ranks("torch", 2, program, tmp_path)
    assert second[0] == 1
    assert "ValueError: this rank alone" in second[2]
    assert first[0] == 1
    assert "tracestore.errors.ExecutorError: Rank 0 has lost another rank" in first[2]


@pytest.mark.processes
def test_a_rank_that_fails_stops_an_mpi_job_and_is_heard(tmp_path):
    ((status, _, errors),) = start_ranks("mpi", 3, "fail_in_the_middle", tmp_path)
    assert status != 0
    assert "ValueError: this rank alone" in errors
    assert "Rank 1 stops the job" in errors


@pytest.mark.processes
@pytest.mark.parametrize("kind", ["torch", "mpi"])
def test_a_rank_that_is_killed_ends_the_job(tmp_path, kind):
    ended = start_ranks(kind, 2, "vanish", tmp_path)
    assert all(status != 0 for status, _, _ in ended)


@pytest.mark.processes
@pytest.mark.parametrize("kind", ["torch", "mpi"])
def test_an_error_of_all_ranks_is_reported_by_each(tmp_path, kind):
    errors = "".join(errors for _, _, errors in start_ranks(kind, 2, "fail_together", tmp_path))
    assert errors.count("tracestore.errors.RankMismatchError: The ranks do not match") == 2
    assert "stops the job" not in errors


# -------------------------------------------------------------------------------------------------------- one process


def test_one_process_needs_nobody():
    with open_communicator() as communicator:
        assert isinstance(communicator, SoleProcess)
        tensor = torch.tensor([1.0, 2.0])
        handle = communicator.sum_(tensor)
        handle.wait()
        communicator.barrier()
        assert (tensor.tolist(), handle.is_done(), communicator.gather(b"x")) == ([1, 2], True, [b"x"])
        assert communicator.world == World()


@pytest.mark.parametrize("launcher", [("RANK", "WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE")], ids=["torchrun", "mpiexec"])
def test_a_launched_job_of_one_rank_needs_nobody(monkeypatch, launcher):
    for name, value in zip(launcher, ("0", "1"), strict=True):
        monkeypatch.setenv(name, value)
    assert isinstance(open_communicator(), SoleProcess)


def test_none_leaves_a_process_alone_that_has_been_launched(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert open_communicator("none").num_ranks == 1


def test_unknown_kinds_are_refused():
    with pytest.raises(InvalidInputError, match="must be 'auto', 'none', 'torch' or 'mpi'; got 'carrier pigeon'"):
        open_communicator("carrier pigeon")  # type: ignore[arg-type]  # what the test is about


def test_torch_without_torchrun_is_refused():
    with pytest.raises(InvalidInputError, match=r"RANK, WORLD_SIZE.* missing: start the program with `torchrun"):
        open_communicator("torch")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInputError, match=r"Rank 0 should use cuda:99|The device cuda:99 is not there"):
        open_communicator("torch", device="cuda:99")


def test_ranks_that_do_not_come_are_named(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ExecutorError, match=r"Rank 1 of 2 does not find the others at 127\.0\.0\.1:1"):
        open_communicator("torch", timeout_seconds=1)


@pytest.mark.processes
@pytest.mark.filterwarnings("ignore:suspicious MPI execution environment")
def test_mpiexec_of_another_library_is_refused(monkeypatch):
    pytest.importorskip("mpi4py")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    with pytest.raises(ExecutorError, match="mpiexec started 4 processes, but each is alone"):
        open_communicator()


@pytest.fixture
def group(tmp_path):
    """A process group of the program's own."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("error", [None, ValueError("wrong")])
def test_the_process_group_of_the_program_is_used_and_kept(error):
    try:
        with open_communicator() as communicator:
            assert isinstance(communicator, TorchCommunicator)
            communicator.sum_(torch.ones(2)).wait()
            if error is not None:
                raise error
    except ValueError:
        pass
    assert distributed.is_initialized()


@pytest.mark.usefixtures("group")
def test_tensors_go_through_a_copy_where_the_group_has_no_backend_for_their_device():
    communicator = TorchCommunicator(owns_group=False)
    communicator._devices = ["meta", "cpu"]  # stands in for a group of NCCL alone
    tensor = torch.ones(3)
    assert communicator.sum_(tensor)._there is tensor
    communicator._devices = ["cpu"]
    # a tensor elsewhere comes back where it was
    elsewhere: Any = _Elsewhere(torch.ones(3))
    handle = communicator.sum_(elsewhere)
    handle.wait()
    assert elsewhere.copied.tolist() == [1, 1, 1]


class _Elsewhere:
    """What the communicator uses of a tensor on another device."""

    def __init__(self, values):
        self.device = torch.device("meta")
        self.values = values
        self.copied = None

    def to(self, device):
        assert device == "cpu"
        return self.values

    def copy_(self, other):
        self.copied = other


# ------------------------------------------------------------------------------------------------------------- devices


@pytest.mark.parametrize(
    ("device", "environment", "expected"),
    [
        ("cpu", {"LOCAL_RANK": "2"}, "cpu"),
        ("cuda", {}, "cuda:0"),
        ("cuda", {"LOCAL_RANK": "2", "SLURM_LOCALID": "5"}, "cuda:2"),
        ("cuda", {"MPI_LOCALRANKID": "1"}, "cuda:1"),
        ("cuda", {"OMPI_COMM_WORLD_LOCAL_RANK": "3"}, "cuda:3"),
        ("cuda", {"SLURM_LOCALID": "5"}, "cuda:5"),
        ("cuda:7", {"LOCAL_RANK": "2"}, "cuda:7"),
    ],
)
def test_each_process_of_a_machine_gets_its_gpu(device, environment, expected):
    assert local_device(device, environment) == torch.device(expected)


def test_a_local_rank_that_is_no_number_is_refused():
    with pytest.raises(InvalidInputError, match="LOCAL_RANK must be a whole number; got 'first'"):
        local_device("cuda", {"LOCAL_RANK": "first"})


@pytest.mark.parametrize(("device", "words"), [("gpu", "There is no device 'gpu'"), ("cuda", "has no CUDA")])
def test_a_device_that_is_not_there_is_refused_in_words(device, words):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("the device is there")
    with pytest.raises(InvalidInputError, match=words):
        open_communicator("none", device=device)
