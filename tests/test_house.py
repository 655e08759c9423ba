"""The shape of the code: module size, names, and the few things that no module may contain."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "tracestore").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
SCRIPTS = sorted(path for folder in ("examples", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
BANNED_NAMES = {"common", "core", "helpers", "lib", "manager", "misc", "util", "utils"}
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60
MOST_TYPE_IGNORES = 25


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=name_of)
def test_module_is_short(path):
    num_lines = len(path.read_text("utf-8").splitlines())
    assert num_lines <= MOST_LINES, f"{num_lines} lines; split the module by noun"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_functions_are_short(path):
    tree = ast.parse(path.read_text("utf-8"))
    too_long = {
        node.name: length
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := code_lines(node)) > MOST_LINES_OF_A_FUNCTION
    }
    assert not too_long


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or function.lineno) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", MODULES + TESTS, ids=name_of)
def test_module_name_says_what_it_holds(path):
    assert path.stem not in BANNED_NAMES
    assert path.parent.name not in BANNED_NAMES


@pytest.mark.parametrize("path", [path for path in MODULES if path.read_text("utf-8").strip()], ids=name_of)
def test_module_begins_with_docstring_and_all(path):
    body = ast.parse(path.read_text("utf-8")).body
    assert isinstance(body[0], ast.Expr)
    assert isinstance(body[0].value, ast.Constant)
    assert isinstance(body[0].value.value, str)
    imports = (ast.Import, ast.ImportFrom, ast.If)
    # a room may guard its extra before anything else can be imported
    after = [node for node in body[1:] if not isinstance(node, (*imports, ast.With))]
    if len(body) > 1:
        assert isinstance(after[0], ast.Assign)
        assert [ast.unparse(target) for target in after[0].targets] == ["__all__"]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_has_no_print_and_no_loose_ends(path):
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    if path.parent.name != "cli":
        assert "print" not in calls
    assert not {"np.random.seed", "random.seed", "logging.basicConfig"} & calls
    # torch layers draw their first weights from the global stream; it may be borrowed, and must be given back
    assert "torch.manual_seed" not in calls or "torch.random.fork_rng" in calls
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text)


def test_type_ignores_are_few():
    ignores = [
        f"{name_of(path)}: {line.strip()}"
        for path in MODULES
        for line in path.read_text("utf-8").splitlines()
        if "# type: ignore" in line
    ]
    assert len(ignores) <= MOST_TYPE_IGNORES, "\n".join(ignores)


def test_typed_marker_is_shipped():
    assert (ROOT / "tracestore" / "py.typed").exists()
