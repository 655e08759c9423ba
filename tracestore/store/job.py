"""Jobs: what a store, network or posterior is the output of, so that only the same call continues it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from typing import cast

from tracestore.errors import InvalidInputError, StoreExistsError
from tracestore.formats.document import JSON, digest

__all__ = ["Job"]

_ABSENT = "absent"


@dataclass(frozen=True)
class Job:
    """A call that makes an output: what it does, and every argument that changes the result.

    Parameters
    ----------
    verb
        What is done: ``simulate``, ``sort``, ``train``, ``infer``.
    fields
        Arguments, as JSON without NaN and infinities; tuples become lists.

    Raises
    ------
    InvalidInputError
        When a field is not JSON.

    Examples
    --------
    >>> job = Job("simulate", {"simulator": "gum", "seed": 1})
    >>> job == Job("simulate", {"seed": 1, "simulator": "gum"}), job.hash[:8]
    (True, 'c248b17b')
    """

    verb: str
    fields: dict[str, JSON]

    def __post_init__(self) -> None:
        try:
            fields = json.loads(json.dumps(self.fields, allow_nan=False))
        except (TypeError, ValueError) as error:
            message = f"The fields of a job must be JSON without NaN and infinities: {error}."
            raise InvalidInputError(message, verb=self.verb) from error
        object.__setattr__(self, "fields", fields)

    def __hash__(self) -> int:
        return hash(self.hash)

    @property
    def hash(self) -> str:
        """Digest of verb and fields, 32 hexadecimal digits."""
        text = json.dumps({"fields": self.fields, "verb": self.verb}, sort_keys=True, separators=(",", ":"))
        return digest(text.encode())

    def require_same(self, found: "Job | None", path: str | PathLike[str]) -> None:
        """Refuse an output that belongs to another job.

        Parameters
        ----------
        found
            The job that the output records.
        path
            Where the output is.

        Raises
        ------
        StoreExistsError
            When the jobs differ; names the first field that does, and both values.

        Examples
        --------
        >>> Job("simulate", {"seed": 2}).require_same(Job("simulate", {"seed": 1}), "traces")
        Traceback (most recent call last):
            ...
        tracestore.errors.StoreExistsError: traces holds the output of another job: `seed` is 1 there and 2 in this \
call. Use another path, or repeat the first call to continue it.
        """
        if found is None:
            message = f"{fspath(path)} exists and records no job, so this call cannot continue it. Use another path."
            raise StoreExistsError(message, path=fspath(path))
        if found == self:
            return
        field, ours, theirs = "verb", cast("JSON", self.verb), cast("JSON", found.verb)
        if ours == theirs:
            field = next(
                name
                for name in {**self.fields, **found.fields}
                if self.fields.get(name, _ABSENT) != found.fields.get(name, _ABSENT)
            )
            ours, theirs = self.fields.get(field, _ABSENT), found.fields.get(field, _ABSENT)
        message = (
            f"{fspath(path)} holds the output of another job: `{field}` is {theirs!r} there and {ours!r} in this "
            "call. Use another path, or repeat the first call to continue it."
        )
        raise StoreExistsError(message, path=fspath(path), field=field, found=theirs, expected=ours)

    def to_json(self) -> dict[str, JSON]:
        """Members of the job."""
        return {"verb": self.verb, "fields": self.fields, "hash": self.hash}

    @staticmethod
    def from_json(document: Mapping[str, JSON]) -> "Job":
        """Job from its members."""
        return Job(cast("str", document["verb"]), cast("dict[str, JSON]", document["fields"]))
