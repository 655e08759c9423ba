"""The error tree: one root, builtin parents, and instances that survive a process boundary."""

import copy
import inspect
import pickle

import pytest

from tracestore import errors

CLASSES = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, Exception) and cls.__module__ == errors.__name__
]
ERRORS = [cls for cls in CLASSES if issubclass(cls, errors.TracestoreError)]
MESSAGE = "`num_traces` must be positive; got -1."


@pytest.mark.parametrize("cls", ERRORS)
@pytest.mark.parametrize("clone", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"])
def test_error_survives_with_message_and_fields(cls, clone):
    error = cls(MESSAGE, argument="num_traces", found=-1)
    again = clone(error)
    assert type(again) is cls
    assert str(again) == str(error) == MESSAGE
    assert again.fields == {"argument": "num_traces", "found": -1}
    assert again.kind == error.kind


@pytest.mark.parametrize("cls", ERRORS)
def test_error_without_arguments_has_an_empty_message(cls):
    assert str(cls()) == ""
    assert cls().fields == {}


def test_kinds_are_unique():
    kinds = [cls("").kind for cls in ERRORS]
    assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.InvalidInputError, ValueError),
        (errors.MissingExtraError, ImportError),
        (errors.UnknownAddressError, LookupError),
        (errors.StoreNotFoundError, FileNotFoundError),
        (errors.StoreExistsError, FileExistsError),
        (errors.InsufficientSpaceError, OSError),
        (errors.FormatError, ValueError),
        (errors.SimulatorTimeoutError, TimeoutError),
    ],
    ids=lambda cls: cls.__name__,
)
def test_error_is_caught_as_the_builtin_people_expect(cls, builtin):
    with pytest.raises(builtin, match="positive"):
        raise cls(MESSAGE)


def test_all_lists_every_class_and_the_docstring_draws_it():
    names = {cls.__name__ for cls in CLASSES}
    assert names == set(errors.__all__)
    drawn = errors.__doc__
    assert [cls.__name__ for cls in ERRORS if cls.__name__ not in drawn] == []
