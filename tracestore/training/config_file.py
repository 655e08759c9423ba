"""Configuration of a training as TOML: files for people, and settings given one by one.

Knows nothing of stores or of the command line. A setting is named as in the file: ``epochs``, ``network.core_size``,
``optimizer.kind``. ``"none"`` stands for None, which TOML does not have.
"""

import dataclasses
import difflib
import json
import tomllib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints, overload

from tracestore.errors import InvalidInputError
from tracestore.networks.config import NETWORKS, Config
from tracestore.training.config import TrainConfig

__all__ = ["read_config", "to_toml"]

PRESET = "preset"
"""Setting of the table ``network`` that names the network from which the others depart."""
NONE = "none"

Fields = dict[str, Any]
ConfigT = TypeVar("ConfigT", bound=Config)


@overload
def read_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> TrainConfig: ...
@overload
def read_config(path: str | Path | None, overrides: Sequence[str], start: ConfigT) -> ConfigT: ...
def read_config(path: str | Path | None = None, overrides: Sequence[str] = (), start: Config | None = None) -> Config:
    r"""Read the configuration of a training from a TOML file and from single settings.

    Fields of the configuration stand at the top, those of its network and optimizer in the tables ``[network]`` and
    ``[optimizer]``. ``network.preset`` names one of `NETWORKS` to begin with. What is not set has its default.

    Parameters
    ----------
    path
        The file; None for defaults.
    overrides
        Settings such as ``network.core=gru``, which go before the file; the last one of a name counts. Values are
        TOML; anything else is text.
    start
        What is not set is as here, and its type is that of the result; a `TrainConfig` with its defaults by default.

    Raises
    ------
    InvalidInputError
        Lists all that is wrong.

    Examples
    --------
    >>> _ = Path("train.toml").write_text('epochs = 5\n[network]\npreset = "paper"\ncore = "gru"\n')
    >>> config = read_config("train.toml", ["network.core_size=64", "optimizer.kind=adam_larc"])
    >>> config.epochs, config.network.core, config.network.core_size, config.network.rows, config.optimizer.kind
    (5, 'gru', 64, 'address', 'adam_larc')
    >>> read_config(overrides=["network.core_sise=64"])
    Traceback (most recent call last):
    ...
    tracestore.errors.InvalidInputError: The settings are not valid: there is no setting `network.core_sise`, the
    closest are `network.core_size` and `network.core`.
    """
    fields = {} if path is None else _read_file(Path(path))
    problems: list[str] = []
    for setting in overrides:
        problems += _override(fields, setting)
    config = _build(TrainConfig() if start is None else start, fields, "", problems)
    if problems:
        where = "The settings are" if path is None else f"The configuration {str(path)!r} is"
        message = f"{where} not valid: {'; '.join(problems)}."
        raise InvalidInputError(message, problems=tuple(problems))
    return config


def to_toml(config: Config) -> str:
    """Write a configuration as TOML, all its settings; `read_config` reads the same again.

    Parameters
    ----------
    config
        The configuration.

    Examples
    --------
    >>> text = to_toml(TrainConfig(epochs=5))
    >>> print(text[:45])
    learning_rate = 0.004
    final_learning_rate = 4
    >>> _ = Path("train.toml").write_text(text)
    >>> read_config("train.toml") == TrainConfig(epochs=5)
    True
    """
    return "\n".join(_table_lines(config, "")) + "\n"


def _read_file(path: Path) -> Fields:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        message = f"The configuration {str(path)!r} cannot be read: {error.strerror}."
        raise InvalidInputError(message, path=str(path)) from error
    except ValueError as error:  # not TOML, or not UTF-8
        message = f"The configuration {str(path)!r} is not TOML: {error}."
        raise InvalidInputError(message, path=str(path)) from error


# ----------------------------------------------------------------------------------------------------- one setting


def _override(fields: Fields, setting: str) -> list[str]:
    """Put one setting into a tree of fields; what is wrong with its form."""
    name, equals, text = (part.strip() for part in setting.partition("="))
    if not equals or not name:
        return [f"a setting is NAME=VALUE, such as network.core=gru; got {setting!r}"]
    *tables, last = name.split(".")
    place: Any = fields
    for table in tables:
        place = place.setdefault(table, {})
        if not isinstance(place, dict):
            return [f"`{name}` cannot be set, because {table} is no table"]
    place[last] = _value(text)
    return []


def _value(text: str) -> object:
    """Read a TOML value; what is not one is text."""
    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return found["value"] if len(found) == 1 else text


# ---------------------------------------------------------------------------------------------------- from a table


def _build(start: Config, table: Fields, prefix: str, problems: list[str], root: type[Config] | None = None) -> Config:
    """Make a configuration of a table; what is wrong is added to the problems, and left out."""
    kind, root = type(start), root or type(start)
    if prefix == "network.":
        start = _preset(table, problems) or start
    types_of = get_type_hints(kind)
    values: Fields = {}
    for name, value in table.items():
        if name == PRESET and prefix == "network.":
            continue
        if name not in _names(kind):
            problems.append(_unknown(prefix + name, root))
        elif name in kind.nested:
            if isinstance(value, dict):
                values[name] = _build(getattr(start, name), value, f"{prefix}{name}.", problems, root)
            else:
                problems.append(f"`{prefix}{name}` must be a table of settings; got {value!r}")
        else:
            _convert(types_of[name], value, prefix + name, values, problems)
    try:
        return dataclasses.replace(start, **values)  # type: ignore[type-var]  # a dataclass
    except InvalidInputError as error:
        found = cast("Sequence[str]", error.fields["problems"])
        problems += [problem.replace("`", f"`{prefix}", 1) for problem in found]
        return start


def _preset(table: Fields, problems: list[str]) -> Config | None:
    name = table.get(PRESET)
    if name is None:
        return None
    if name not in NETWORKS:
        problems.append(f"`network.{PRESET}` must be one of {', '.join(map(repr, NETWORKS))}; got {name!r}")
        return None
    return NETWORKS[name]


def _convert(kind: Any, value: object, name: str, values: Fields, problems: list[str]) -> None:  # noqa: ANN401
    """Convert what TOML has to the type of a field."""
    choices = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    if value == NONE and types.NoneType in choices:
        values[name.rpartition(".")[2]] = None
        return
    expected = [choice for choice in choices if choice is not types.NoneType]
    for choice in expected:
        is_fit, converted = _fit(choice, value)
        if is_fit:
            values[name.rpartition(".")[2]] = converted
            return
    words = [_words(choice) for choice in expected] + ([f'"{NONE}"'] if types.NoneType in choices else [])
    problems.append(f"`{name}` must be {' or '.join(words)}; got {value!r}")


def _fit(kind: Any, value: object) -> tuple[bool, object]:  # noqa: ANN401
    """Tell whether a value is of a type, and what it is then."""
    if get_origin(kind) is Literal:
        return True, value  # the configuration lists its choices itself
    if get_origin(kind) is tuple:
        if isinstance(value, tuple):
            return True, value
        if not isinstance(value, list):
            return False, value
        fits = [_fit(get_args(kind)[0], item) for item in value]
        return all(is_fit for is_fit, _ in fits), tuple(item for _, item in fits)
    if get_origin(kind) is Mapping:
        is_fit = isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
        return is_fit, value
    if kind is float and type(value) is int:
        return True, float(value)
    return type(value) is kind, value


def _words(kind: Any) -> str:  # noqa: ANN401
    if get_origin(kind) is tuple:
        return "a list of words" if get_args(kind)[0] is str else "a list of numbers"
    if get_origin(kind) is Mapping:
        return "a table of words"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]


def _unknown(name: str, root: type[Config]) -> str:
    """Say that there is no such setting, and which ones may be meant."""
    if name == "modules" and root is TrainConfig:
        return (
            "`modules` of your own cannot come from a file; train from Python, with "
            "tracestore.training.train(modules=...)"
        )
    table, _, leaf = name.rpartition(".")
    inner = root
    for part in table.split(".") if table else ():
        inner = inner.nested[part]
    beside = _names(inner)
    if table == "network":
        beside.append(PRESET)
    elsewhere = [one for one in _all_names(root) if one.rpartition(".")[2] == leaf]
    close = difflib.get_close_matches(leaf, beside, n=2)
    nearest = elsewhere or [f"{table}.{one}" if table else one for one in close]
    if not nearest:
        there = f"in the table {table}" if table else "at the top"
        return f"there is no setting `{name}`; {there} there are {', '.join(beside)}"
    verb = "closest is" if len(nearest) == 1 else "closest are"
    return f"there is no setting `{name}`, the {verb} {' and '.join(f'`{one}`' for one in nearest)}"


def _all_names(kind: type[Config]) -> list[str]:
    """All settings, with their tables."""
    names = [name for name in _names(kind) if name not in kind.nested]
    return [*names, *(f"{table}.{name}" for table, inner in kind.nested.items() for name in _all_names(inner))]


def _names(kind: type[Config]) -> list[str]:
    return [field.name for field in kind.fields()]


# -------------------------------------------------------------------------------------------------------- to a text


def _table_lines(config: Config, table: str) -> list[str]:
    lines = [f"\n[{table}]"] if table else []
    later: list[str] = []
    for name in _names(type(config)):
        value = getattr(config, name)
        if isinstance(value, Config):
            later += _table_lines(value, f"{table}.{name}" if table else name)
        elif isinstance(value, Mapping):
            pairs = ", ".join(f"{_text(key)} = {_toml(one)}" for key, one in value.items())
            lines.append(f"{name} = {{{pairs}}}")
        else:
            lines.append(f"{name} = {_toml(value)}")
    return [*lines, *later]


def _toml(value: object) -> str:
    match value:
        case None:
            return _text(NONE)
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case tuple() | list():
            return f"[{', '.join(map(_toml, value))}]"
        case _:
            return _text(str(value))


def _text(text: str) -> str:
    """Write a TOML string: that of JSON, but for one character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
