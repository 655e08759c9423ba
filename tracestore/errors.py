"""Exceptions and warnings of tracestore; imports nothing.

The tree (builtin parents in brackets)::

    TracestoreError
      InvalidInputError (ValueError)        a caller's argument, configuration field or data
        GeometryMismatchError               images of another shape than a surrogate makes
        MissingLabelsError                  a store without what images are to be conditioned on
      MissingExtraError (ImportError)       an optional dependency is absent
      TraceError                            a trace breaks its own rules
        UnknownAddressError (LookupError)
        TraceTypeMismatchError
        NonFiniteLogProbError
      SimulatorError                        the simulator failed or broke the protocol
        SimulatorNotFoundError (LookupError)
        SimulatorProtocolError
        SimulatorTimeoutError (TimeoutError)
      CompilerError                         a small native library cannot be built
      KernelError                           a native kernel is not what was declared, or fails
        KernelVersionError                  it was built for another version of the interface
      StoreError
        StoreNotFoundError (FileNotFoundError)
        StoreExistsError (FileExistsError)  also: the output belongs to a different job
        ReadOnlyError
        PublishConflictError
        InsufficientSpaceError (OSError)
        FormatError (ValueError)            bytes do not follow the format specification
          UnsupportedVersionError
          ChecksumError
      PlanError                             a sampler or sort plan is impossible
      ExecutorError                         workers cannot run their tasks, or died
      TrainingError
        NonFiniteLossError
        TrainingStoppedError                the same call continues
        NotEnoughMemoryError
        RankMismatchError
        CheckpointMismatchError
      InferenceError
        DegenerateWeightsError              no draw has weight
        DiagnosticError (ValueError)        a diagnostic that does not apply to these draws

Every message is one sentence of what is wrong, then what was found, then what to do. Fields beside the message
are optional keywords, so that every instance survives pickling.
"""

__all__ = [
    "CheckpointMismatchError",
    "ChecksumError",
    "CompilerError",
    "DegenerateWeightsError",
    "DiagnosticError",
    "ExecutorError",
    "FormatError",
    "GeometryMismatchError",
    "InferenceError",
    "InsufficientSpaceError",
    "InvalidInputError",
    "KernelError",
    "KernelVersionError",
    "MissingExtraError",
    "MissingLabelsError",
    "NonFiniteLogProbError",
    "NonFiniteLossError",
    "NotEnoughMemoryError",
    "PlanError",
    "PublishConflictError",
    "RankMismatchError",
    "ReadOnlyError",
    "SimulatorError",
    "SimulatorNotFoundError",
    "SimulatorProtocolError",
    "SimulatorTimeoutError",
    "StoreError",
    "StoreExistsError",
    "StoreNotFoundError",
    "TraceError",
    "TraceTypeMismatchError",
    "TracestoreError",
    "TracestoreWarning",
    "TrainingError",
    "TrainingStoppedError",
    "UnknownAddressError",
    "UnsupportedVersionError",
]


class TracestoreError(Exception):
    """Base of every error that tracestore raises.

    Parameters
    ----------
    message
        What is wrong, what was found, what to do.
    **fields
        Facts for programs (a path, a field name, two values); kept as the ``fields`` mapping.

    Examples
    --------
    >>> error = InvalidInputError("`num_traces` must be positive; got -1.", argument="num_traces")
    >>> error.kind, error.fields["argument"]
    ('InvalidInput', 'num_traces')
    """

    def __init__(self, message: str = "", **fields: object) -> None:
        super().__init__(message)
        self.fields = fields

    @property
    def kind(self) -> str:
        """A stable name of the error for programs: the class name without ``Error``."""
        return type(self).__name__.removesuffix("Error")

    def __str__(self) -> str:
        # KeyError-like and OSError-like builtin parents would print repr() or errno tuples
        return str(self.args[0]) if self.args else ""


class InvalidInputError(TracestoreError, ValueError):
    """A caller's argument, configuration field or data is not acceptable."""


class GeometryMismatchError(InvalidInputError):
    """Images have another shape than those that a surrogate makes."""


class MissingLabelsError(InvalidInputError):
    """A store lacks the draws or tags that images are to be conditioned on."""


class MissingExtraError(TracestoreError, ImportError):
    """An optional dependency is absent; the message names the extra to install."""


class TraceError(TracestoreError):
    """A trace breaks its own rules."""


class UnknownAddressError(TraceError, LookupError):
    """No site carries this address or name."""


class TraceTypeMismatchError(TraceError):
    """Traces of different trace types or layouts meet where one is needed."""


class NonFiniteLogProbError(TraceError):
    """A log probability is NaN or infinite where a finite one is needed."""


class SimulatorError(TracestoreError):
    """A simulator failed or broke the protocol."""


class SimulatorNotFoundError(SimulatorError, LookupError):
    """A simulator name does not resolve."""


class SimulatorProtocolError(SimulatorError):
    """A simulator used `sample`, `observe` or `tag` in a way that cannot be recorded."""


class SimulatorTimeoutError(SimulatorError, TimeoutError):
    """A simulator did not answer in time."""


class CompilerError(TracestoreError):
    """A small native library cannot be built: no compiler, or one that reports an error."""


class KernelError(TracestoreError):
    """A native kernel is not what was declared, or reports a failure."""


class KernelVersionError(KernelError):
    """A native kernel was built for another version of the interface."""


class StoreError(TracestoreError):
    """A store on disk cannot be used as asked."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """The path is not a store."""


class StoreExistsError(StoreError, FileExistsError):
    """The output exists already, or belongs to a different job."""


class ReadOnlyError(StoreError):
    """The store was opened for reading only."""


class PublishConflictError(StoreError):
    """Another writer published the same version first."""


class InsufficientSpaceError(StoreError, OSError):
    """The file system has too little free space for the work asked for."""


class FormatError(StoreError, ValueError):
    """Bytes on disk do not follow the format specification."""


class UnsupportedVersionError(FormatError):
    """The store was written in a format version that this release cannot read."""


class ChecksumError(FormatError):
    """Bytes on disk changed since they were sealed."""


class PlanError(TracestoreError):
    """A sampler or sort plan is impossible; the message lists what would work."""


class ExecutorError(TracestoreError):
    """Workers cannot run the tasks given to them, or died while they did."""


class TrainingError(TracestoreError):
    """Training cannot go on."""


class NonFiniteLossError(TrainingError):
    """The loss of a step is NaN or infinite."""


class TrainingStoppedError(TrainingError):
    """A training was told to stop; its checkpoint is written, and the same call continues."""


class NotEnoughMemoryError(TrainingError):
    """The network does not fit into the memory that is free."""


class RankMismatchError(TrainingError):
    """The ranks of a job differ in code, configuration or data."""


class CheckpointMismatchError(TrainingError):
    """A checkpoint does not fit the network, store or configuration."""


class InferenceError(TracestoreError):
    """Inference cannot go on."""


class DegenerateWeightsError(InferenceError):
    """All importance weights are zero."""


class DiagnosticError(InferenceError, ValueError):
    """A diagnostic does not apply to these draws."""


class TracestoreWarning(UserWarning):
    """Base of every warning that tracestore issues."""
