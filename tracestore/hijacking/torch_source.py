"""torch as a source of recorded draws: operations that torch itself marks as random are answered by the recorder.

Below autograd, so gradients flow as they do in torch: through reparametrized samples, not through others. What is
drawn is in `torch_operations`. A thread has its own stack of dispatch modes, so threads that the program starts are
given one of ours; draws of a thread that was running before are leaks, which show in the state of torch's generators.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tracestore._extras import extra
from tracestore.errors import InvalidInputError
from tracestore.simulators.runtime import current_recorder

with extra("train"):
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

from tracestore.hijacking.drawing import Leak, draw, recording
from tracestore.hijacking.torch_operations import bind, find_operation, refuse, uses_no_randomness

__all__ = ["TorchSource"]


class TorchSource:
    """Reroutes the random operations of torch.

    Examples
    --------
    >>> source = TorchSource()
    >>> source.install()
    >>> source.remove()
    """

    def __init__(self) -> None:
        self._modes: list[_RecordingMode] = []
        self._replaced: list[tuple[Any, str, object]] = []
        self.is_installed = False

    def install(self) -> None:
        """Answer random operations of this thread, and of those that it starts."""
        self.is_installed = True
        mode = _RecordingMode(self)
        mode.__enter__()
        self._modes.append(mode)
        self._put(threading.Thread, "start", self._rerouted_start(threading.Thread.start))
        for name in ("manual_seed", "seed", "set_rng_state"):
            replacement = _ignored(getattr(torch.random, name))
            self._put(torch.random, name, replacement)
            self._put(torch, name, replacement)

    def remove(self) -> None:
        """Put everything back."""
        for owner, name, kept in reversed(self._replaced):
            setattr(owner, name, kept)
        self._replaced.clear()
        self._modes.pop().__exit__(None, None, None)
        self.is_installed = False

    def watch(self, *, is_first: bool) -> Callable[[], list[Leak]]:
        """Remember the state of every default generator; what is returned tells which have moved."""
        states = [(one, one.get_state()) for one in _generators()]

        def end() -> list[Leak]:
            moved = [one for one, state in states if not torch.equal(state, one.get_state()) and not _is_fresh(one)]
            what = "an operation of torch on {} in compiled code, or in a thread that had been running before"
            return [Leak(what.format(one.device)) for one in moved]

        return end

    def _put(self, owner: Any, name: str, value: object) -> None:  # noqa: ANN401  # a class or a module
        self._replaced.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    def _rerouted_start(self, start: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
        def started(thread: threading.Thread) -> None:
            run = thread.run

            def rerouted() -> None:
                del thread.run  # the one set below; it would keep the thread alive
                with _RecordingMode(self):
                    run()

            thread.run = rerouted  # type: ignore[method-assign]
            start(thread)

        return started


class _RecordingMode(TorchDispatchMode):
    """Answers the random operations of one thread."""

    def __init__(self, source: TorchSource) -> None:
        super().__init__()
        self._source = source

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Leave `__torch_dispatch__` as it is: what torch wraps around it costs time and loads its compiler."""
        return False

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        is_random = _random_operations.get(func)
        if is_random is None:
            is_random = _random_operations[func] = torch.Tag.nondeterministic_seeded in func.tags
        if not is_random or not self._source.is_installed or not recording():
            return func(*args, **(kwargs or {}))
        return _answer(func, args, kwargs or {})


_random_operations: dict[Any, bool] = {}


def _answer(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401
    name = func._schema.name.rpartition("::")[2]
    given = bind(func, args, kwargs)
    operation = find_operation(name)
    if operation is None:
        return _without_draw(func, name, args, kwargs, given, "there is no prior for what it draws")
    try:
        made, target, answer = operation(given)
    except InvalidInputError as error:  # what is no distribution to torch, too, is refused in its words
        return _without_draw(func, name, args, kwargs, given, str(error).removesuffix("."))
    if target.device.type == "meta":
        return func(*args, **kwargs)
    if target.is_complex() or target.layout is not torch.strided:
        raise _fatal(refuse(name, f"its result is {'complex' if target.is_complex() else target.layout}"))
    if target.numel():
        drawn = np.zeros(target.shape) if made.prior is None else np.asarray(draw(made.prior, name, depth=2))
        value = np.asarray(made.finish(drawn), np.float64)
        if value.size == 1:
            target.fill_(value.item())
        else:
            target.copy_(torch.from_numpy(value if value.flags.writeable else value.copy()).reshape(target.shape))
    out = given.get("out")
    if out is not None:
        target = out.resize_(target.shape).copy_(target)
    return target if answer is None else answer(target)


def _without_draw(
    func: Any,  # noqa: ANN401
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    given: dict[str, Any],
    why: str,
) -> Any:  # noqa: ANN401
    """Let an operation be that uses no random numbers this time; refuse others."""
    is_safe = uses_no_randomness(given)
    own = given.get("generator")
    generators = [*_generators(), *([] if own is None else [own])]
    states = [one.get_state() for one in generators]
    result = None if is_safe is False else func(*args, **kwargs)
    moved = [one for one, state in zip(generators, states, strict=True) if not torch.equal(state, one.get_state())]
    if is_safe or (is_safe is None and not moved):
        return result
    for one, state in zip(generators, states, strict=True):
        one.set_state(state)
    raise _fatal(refuse(name, why))


def _fatal(error: Exception) -> Exception:
    """Make an error end the inference, and not only this run, even if the program swallows it."""
    recorder = current_recorder()
    if recorder is not None:
        recorder.fatal = error
    return error


def _ignored(native: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function that does nothing while a run is recorded."""

    def replaced(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if not recording():
            return native(*args, **kwargs)
        return torch.default_generator.initial_seed() if native.__name__ == "seed" else torch.default_generator

    return replaced


def _generators() -> Iterator[torch.Generator]:
    yield torch.default_generator
    if torch.cuda.is_initialized():
        yield from torch.cuda.default_generators


def _is_fresh(generator: torch.Generator) -> bool:
    """Whether a generator was seeded and has not been used since."""
    seeded = torch.Generator(generator.device).manual_seed(generator.initial_seed())
    return torch.equal(seeded.get_state(), generator.get_state())
