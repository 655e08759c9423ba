"""Whether a dask cluster can run tasks of this process: workers are there, and all machines have the same packages.

Asks through the client that it is given and imports nothing of dask. What is sent out to be run is made of the
standard library alone, since a worker without tracestore could not even read a function of ours.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from tracestore.errors import ExecutorError

__all__ = ["ClusterClient", "require_equal_packages", "require_worker"]

_UNKNOWN = "0+unknown"
"""Version of a tracestore that is on the path and not installed: nothing to compare."""

_MOST_NAMED = 3


class ClusterClient(Protocol):
    """What is used here of `distributed.Client`."""

    scheduler: Any

    def nthreads(self) -> Mapping[str, int]:
        """Threads by address of worker."""

    def submit(self, function: Callable[..., object], *args: object, key: str, pure: bool) -> Any:  # noqa: ANN401
        """Submit a task."""

    def wait_for_workers(self, n_workers: int, timeout: float) -> None:
        """Wait, or raise TimeoutError."""

    def get_versions(self) -> Mapping[str, Any]:
        """Versions of ``client``, ``scheduler`` and ``workers``."""

    def run(self, function: Callable[[], object], *, on_error: str) -> Mapping[str, object]:
        """Call a function on every worker."""


def require_worker(client: ClusterClient, *, wait_seconds: float) -> None:
    """Wait until a worker is there.

    Parameters
    ----------
    client
        A client of the cluster.
    wait_seconds
        How long to wait.

    Raises
    ------
    ExecutorError
        When there is none by then.
    """
    if client.nthreads():
        return
    # an adaptive cluster starts workers when it has tasks, and only then
    call = client.submit(abs, 0, key="worker-wanted-0", pure=False)
    try:
        client.wait_for_workers(1, timeout=wait_seconds)
    except TimeoutError:
        message = (
            f"The dask cluster at {client.scheduler.address} has had no worker for {wait_seconds:g} s; start some, for "
            f"instance with `dask worker {client.scheduler.address}`, or wait longer with `wait_seconds`."
        )
        raise ExecutorError(message, address=client.scheduler.address) from None
    finally:
        call.release()


def require_equal_packages(client: ClusterClient) -> None:
    """Compare what this process, the scheduler and the workers run.

    Python counts with two numbers, 3.11, since its patches understand each other.

    Parameters
    ----------
    client
        A client of the cluster.

    Raises
    ------
    ExecutorError
        When one has another version of Python, dask or distributed than this process, or a worker another tracestore
        or none that can be imported. The scheduler needs none.
    """
    found = client.get_versions()
    here = _versions(found["client"])
    others = {"the scheduler": _versions(found["scheduler"])}
    others |= {f"worker {address}": _versions(answer) for address, answer in found["workers"].items() if answer}
    # in this order: code of one Python cannot be run by another
    _refuse_differences(here, others)
    answers: dict[str, object] = {}
    for address, answer in client.run(_make_probe(), on_error="return").items():
        if not isinstance(answer, OSError):  # it has left meanwhile
            answers[f"worker {address}"] = answer
    versions = {place: {"tracestore": version} for place, version in _imported(answers).items() if version != _UNKNOWN}
    mine, _ = _make_probe()()
    if mine != _UNKNOWN:
        _refuse_differences({"tracestore": mine}, versions)


def _make_probe() -> Callable[[], tuple[str, str]]:
    # a nested function is sent as code; a function of a module is sent as a name, which the worker could not look up
    def probe() -> tuple[str, str]:
        try:
            import tracestore.executors.packed
        except ImportError as error:
            return "", str(error)
        return tracestore.__version__, ""

    return probe


def _versions(answer: Mapping[str, Any]) -> dict[str, str]:
    packages = answer["packages"]
    python = ".".join(str(packages["python"]).split(".")[:2])
    return {"Python": python, "dask": str(packages["dask"]), "distributed": str(packages["distributed"])}


def _refuse_differences(here: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> None:
    differing = list(_differences(here, others))
    if differing:
        message = (
            f"The dask cluster does not run what this process runs: {'; '.join(differing)}; install the same versions "
            "everywhere."
        )
        raise ExecutorError(message, found=tuple(differing))


def _differences(here: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    for package, mine in here.items():
        by_version: dict[str, list[str]] = {}
        for place, versions in others.items():
            if versions[package] != mine:
                by_version.setdefault(versions[package], []).append(place)
        for version, places in by_version.items():
            yield f"{package} {version} on {_some(places)} (here {mine})"


def _imported(answers: Mapping[str, object]) -> dict[str, str]:
    """Versions of tracestore by place; refuses when a place has none."""
    imported: dict[str, str] = {}
    broken: dict[str, object] = {}
    for place, answer in answers.items():
        match answer:
            case (str(version), ""):
                imported[place] = version
            case (_, reason) | reason:
                broken[place] = reason
    if broken:
        places = list(broken)
        message = (
            f"tracestore cannot be imported on {_some(places)}: {broken[places[0]]}; install it there, or put it on "
            "PYTHONPATH there."
        )
        raise ExecutorError(message, found=tuple(places))
    return imported


def _some(places: list[str]) -> str:
    named = ", ".join(places[:_MOST_NAMED])
    rest = len(places) - _MOST_NAMED
    return f"{named} and {rest} more" if rest > 0 else named
