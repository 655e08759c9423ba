"""`PPXSimulator`: a program that speaks PPX, in whatever language it is written, as a simulator."""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import numpy as np

from tracestore.errors import InvalidInputError, SimulatorError, SimulatorProtocolError
from tracestore.ppx.build import build_of, inputs_of
from tracestore.ppx.conversation import Conversation
from tracestore.ppx.program import ProgramSettings
from tracestore.ppx.programs import Programs
from tracestore.simulators.base import BUILD, PriorController, ReplayController, Simulator, run_trace
from tracestore.simulators.replay_check import first_difference
from tracestore.simulators.runtime import fatal
from tracestore.traces.trace import TraceStatus

__all__ = ["PPXSimulator"]

MAX_CHECKS = 8
"""Runs out of which one must end well to be replayed."""


class PPXSimulator(Simulator):
    """A program that speaks PPX 0.1.3 to 1.0.0, in whatever language it is written.

    The program listens at an endpoint (a REP socket) and is told by this side what to draw. It is started when the
    first trace is run and kept for further ones; every process that runs traces (a worker, for example) starts programs
    of its own. A program that dies, hangs or breaks the protocol costs its trace, which is recorded as failed, and is
    started anew. Programs end when `close` is called, when the simulator is not used anymore, and when this process
    ends, however it ends.

    Parameters
    ----------
    command
        The program and its arguments, without a shell. ``{endpoint}`` in them is replaced; where it does not appear,
        the endpoint is added as last argument. None when programs run elsewhere.
    endpoints
        Where programs listen, one endpoint for each: ``tcp://HOST:PORT``, ``ipc://PATH``, ``ipc://@NAME``. Without a
        command they run there already, and are never ended; on one machine, one run at a time talks to each. With a
        command they are optional; a port ``*`` stands for any free one.
    instances
        Programs for each process, so many runs are in flight; as many as endpoints when those are given.
    timeout
        Seconds for which a program may be silent when it is its turn, when it starts, too.
    restart_per_trace
        Start the program anew for each trace, for one that keeps state.
    name
        Identity in jobs; by default ``module:variable`` where this is a variable of a module, else the command.
    environment
        Variables of started programs beside those of this process.
    folder
        Working directory of started programs.
    output
        File to which the standard output of started programs is appended; dropped by default. The end of standard error
        is in the messages of errors.

    Raises
    ------
    InvalidInputError
        When arguments are out of range or contradict each other.

    Examples
    --------
    >>> program = PPXSimulator(["./decay", "--events", "1"], instances=4, timeout=60.0)
    >>> program
    PPXSimulator('ppx:decay --events 1')
    >>> program.max_in_flight
    4
    """

    def __init__(
        self,
        command: Sequence[str] | None = None,
        *,
        endpoints: str | Sequence[str] | None = None,
        instances: int | None = None,
        timeout: float = 30.0,
        restart_per_trace: bool = False,
        name: str | None = None,
        environment: Mapping[str, str] | None = None,
        folder: str | Path | None = None,
        output: str | Path | None = None,
    ) -> None:
        places = (endpoints,) if isinstance(endpoints, str) else tuple(endpoints or ())
        words = () if command is None else tuple(command)
        starts_only = {
            "restart_per_trace": restart_per_trace, "environment": environment, "folder": folder, "output": output,
        }  # fmt: skip
        _check(command, places, instances, timeout, starts_only)
        self.settings = ProgramSettings(
            command=words,
            endpoints=places,
            instances=len(places) or instances or 1,
            timeout=float(timeout),
            restart_per_trace=restart_per_trace,
            environment=dict(environment or {}),
            folder=None if folder is None else Path(folder),
            output=None if output is None else Path(output).absolute(),
        )
        self._programs = Programs(self.settings)
        self._build = ""
        self._name = name
        self._module = _calling_module()
        self._translate = None if type(self).place is PPXSimulator.place else self.place
        super().__init__(self._run, reentrant=True, name=name, max_in_flight=self.settings.instances)
        self._name = name  # the base class has set a name for functions

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, object]:
        dropped = ("_programs", "function", "__wrapped__")  # what belongs to a process
        return {key: value for key, value in vars(self).items() if key not in dropped} | {"_name": self.name}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._programs = Programs(self.settings)
        self.function = self.__wrapped__ = self._run

    def __copy__(self) -> Self:
        copied = type(self).__new__(type(self))
        vars(copied).update(vars(self))  # the same programs
        return copied

    @property
    def name(self) -> str:
        """Identity in jobs."""
        if self._name is not None:
            return self._name
        module = sys.modules.get(self._module)
        variables = {} if module is None else vars(module)
        own = next((name for name, value in variables.items() if value is self), None)
        return f"{self._module}:{own}" if own is not None else f"ppx:{self.settings.label}"

    @name.setter
    def name(self, name: str) -> None:
        self._name = name

    @property
    def build(self) -> str:
        """What fixes the addresses: the build ids of the command's binaries and digests of its scripts.

        Of programs that run elsewhere, what they say of themselves; asks one of them.

        Raises
        ------
        SimulatorError
            When the program cannot be found, or does not answer.
        """
        if not self._build:
            self._build = build_of(self.settings) if self.settings.command else self._ask_for_build()
        return self._build

    @build.setter
    def build(self, build: str) -> None:
        self._build = build

    @property
    def fingerprint(self) -> str:
        """Digest of the build, and of what the command is given: arguments, variables, and files among them."""
        settings = self.settings
        given = inputs_of(settings.command[1:], settings.folder or Path(), settings.environment)
        return BUILD + hashlib.blake2b(f"{self.build} {given}".encode(), digest_size=8).hexdigest()

    def restart(self) -> None:
        """End the programs that this process started; the next run starts them anew."""
        if self.settings.command:
            self._programs.end()

    def close(self) -> None:
        """End the programs that this process started, and let go of others; a later run begins anew."""
        self._programs.end()

    def place(self, address: str) -> str:
        """Turn an address as the program sends it into the one that is recorded; subclasses may translate.

        Parameters
        ----------
        address
            As sent.
        """
        return address

    def require_stable_addresses(self, seed: int) -> None:
        """Refuse a program whose addresses, or draws, differ when a run is done again by a program started anew.

        Load addresses, times and process numbers in addresses show up this way, and random numbers that the program
        draws by itself. Programs that run elsewhere are not started anew, so that only the latter is seen.

        Parameters
        ----------
        seed
            Of the run.

        Raises
        ------
        SimulatorProtocolError
            Naming the first address or value that differs.
        SimulatorError
            When no run ends well.
        """
        for stream in range(MAX_CHECKS):
            rng = np.random.default_rng([abs(seed), stream])
            trace = run_trace(self, PriorController(), rng)
            if trace.status is TraceStatus.OK:
                break
        else:
            message = f"No run of {self.name!r} out of {MAX_CHECKS} ended well, the last with: {trace.failure}"
            raise SimulatorError(message, simulator=self.name)
        self.restart()
        again = run_trace(self, ReplayController(trace), rng, observations=trace.observations)
        difference = first_difference(trace, again)
        if difference:
            message = (
                f"The program {self.name!r} does not repeat a run after it was started anew: {difference}. Addresses"
                " must be the same in every process (offsets from the start of a module, no times, no process numbers),"
                " and every random number must be drawn through PPX."
            )
            raise SimulatorProtocolError(message, simulator=self.name)

    def _run(self) -> object:
        programs = self._programs
        program = programs.take()
        try:
            try:
                link = program.open()
            except InvalidInputError as error:  # of the arguments: no run will go better
                raise fatal(error) from None
            return Conversation(link, self._translate).run()
        finally:
            programs.give_back(program)

    def _ask_for_build(self) -> str:
        program = self._programs.take()
        try:
            link = program.open()
            return f"{link.system_name}; {link.model_name}"
        finally:
            self._programs.give_back(program)


def _check(
    command: Sequence[str] | None,
    endpoints: Sequence[str],
    instances: int | None,
    timeout: float,
    starts_only: Mapping[str, object],
) -> None:
    if isinstance(command, str) or (command is not None and not command):
        message = f"`command` must be a list of words, the program first; got {command!r}."
        raise InvalidInputError(message, argument="command")
    if command is None and not endpoints:
        message = "A PPX program needs a `command` that starts it or the `endpoints` at which it runs already."
        raise InvalidInputError(message, argument="command")
    if instances is not None and (instances < 1 or (endpoints and instances != len(endpoints))):
        wanted = f"{len(endpoints)}, one for each endpoint" if endpoints else "at least 1"
        message = f"`instances` must be {wanted}; got {instances}."
        raise InvalidInputError(message, argument="instances")
    if not timeout > 0.0:
        message = f"`timeout` must be positive, in seconds; got {timeout}."
        raise InvalidInputError(message, argument="timeout")
    if len(set(endpoints)) < len([endpoint for endpoint in endpoints if not endpoint.endswith(":*")]):
        message = f"Each program needs an endpoint of its own; got {', '.join(endpoints)}."
        raise InvalidInputError(message, argument="endpoints")
    given = [argument for argument, value in starts_only.items() if value]
    if command is None and given:
        message = f"`{given[0]}` is for programs that are started here; without a `command` none is."
        raise InvalidInputError(message, argument=given[0])


def _calling_module() -> str:
    """Return the module that makes a simulator: where its variable is looked for."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and str(frame.f_globals.get("__name__")).startswith("tracestore.ppx."):
        frame = frame.f_back
    return "" if frame is None else str(frame.f_globals.get("__name__"))
