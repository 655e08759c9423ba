"""The public names: what the facade offers, and that each module keeps the promise of its `__all__`."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import tracestore as ts

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "tracestore").rglob("*.py")
)
ROOMS = sorted(path.parent.name for path in (ROOT / "tracestore").glob("*/__init__.py"))


def test_table_is_all():
    assert sorted({*ts._TABLE, "__version__"}) == ts.__all__


@pytest.mark.parametrize("name", ts.__all__)
def test_public_name_resolves(name, import_or_skip):
    if not ts._TABLE.get(name, "room"):
        import_or_skip(f"tracestore.{name}")
    value = getattr(ts, name)
    assert value is not None
    assert name in dir(ts)
    if ts._TABLE.get(name):
        assert value is getattr(importlib.import_module(ts._TABLE[name]), name)


def test_every_room_is_reachable():
    assert [room for room in ROOMS if room not in (*ts.__all__, "cli")] == []


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'sampel'"):
        getattr(ts, "sampel")  # noqa: B009  # a type checker finds the plain form


@pytest.mark.parametrize("name", MODULES)
def test_all_names_exist_and_are_documented(name, import_or_skip):
    module = import_or_skip(name)
    for public in getattr(module, "__all__", []) if module is not ts else []:
        value = getattr(module, public)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{name}.{public} has no docstring"
    assert module.__doc__ or not inspect.getsource(module).strip()


@pytest.mark.parametrize("name", MODULES)
def test_parameters_are_documented_without_types(name, import_or_skip):
    # the signature has the types; a second copy in the docstring goes stale
    module = import_or_skip(name)
    for public in getattr(module, "__all__", []) if module is not ts else []:
        value = getattr(module, public)
        is_ours = inspect.isclass(value) or inspect.isfunction(value)
        lines = (inspect.getdoc(value) or "").splitlines() if is_ours else []
        if "Parameters" not in lines:
            continue
        section = lines[lines.index("Parameters") + 2 :]
        for line in section:
            if line.startswith("---"):
                break
            assert line.startswith((" ", "*")) or " : " not in line, f"{name}.{public}: {line}"


@pytest.mark.processes
def test_star_import_gives_the_public_names(import_or_skip):
    import_or_skip("tracestore.training")
    code = "from tracestore import *; print(len(set(dir())) > 0, Normal(0.0, 1.0).family, simulate.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (0, "True Normal simulate\n"), done.stderr
