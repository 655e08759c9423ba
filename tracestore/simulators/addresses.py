"""Places in a Python program, as stable text.

The place of a draw is the chain of calls that led to it, outermost first: ``gum:mu`` or
``decay:energy/split:fraction``. Each link is the qualified name of a function and a label of the call made in it:

* the assigned target, when the call is the whole right-hand side: ``mu = ts.sample(...)`` gives ``mu``;
* ``return``, when the call is the whole returned expression;
* otherwise the text of the call without white space and comments, long texts cut to the callee and a digest;
* the second, third, ... call with the same label in the same function gets ``.2``, ``.3``, ... in source order.

Labels come from the source text and not from bytecode, so an address survives another Python version and edits
elsewhere in the function, and two call sites of one helper stay apart. A frame of a list, set or dict comprehension is
merged with its function, as newer interpreters do. Without source (code typed into a bare interpreter), the label is
the line relative to the function and the column.
"""

import ast
import hashlib
import io
import linecache
import sys
import tokenize
from collections.abc import Callable
from functools import lru_cache
from types import CodeType, FrameType
from typing import TypeVar

__all__ = ["call_labels", "current_place", "describe_chain", "mark_root", "roots", "source_text"]

MAX_LABEL = 48
"""Longest call text used as a label, in characters."""

Function = TypeVar("Function", bound=Callable[..., object])

_INLINED = ("<listcomp>", "<setcomp>", "<dictcomp>")
roots: set[int] = set()
"""Ids of the code of root functions: code objects themselves are slow to hash."""
_places: dict[tuple[int, ...], str] = {}
_kept: list[CodeType] = []  # keeps the ids in both valid


def mark_root(function: Function) -> Function:
    """Declare a function whose callees start the chain: frames from it outward do not count."""
    roots.add(id(function.__code__))
    _kept.append(function.__code__)
    return function


def current_place(skip: int = 2) -> str:
    """Place of the caller's caller, as stable text.

    Parameters
    ----------
    skip
        Innermost frames to leave out, this function's own included.

    Returns
    -------
    str
        Links ``function:label`` joined by ``/``, outermost first.
    """
    frame: FrameType | None = sys._getframe(skip)
    frames = []
    key = []
    while frame is not None:
        code = id(frame.f_code)
        if code in roots:
            break
        frames.append(frame)
        key += [code, frame.f_lasti]
        frame = frame.f_back
    place = _places.get(tuple(key))
    if place is None:
        place = _places[tuple(key)] = describe_chain([(frame.f_code, frame.f_lasti) for frame in frames])
        _kept.extend(frame.f_code for frame in frames)
    return place


def describe_chain(chain: list[tuple[CodeType, int]]) -> str:
    """Text of a chain of calls.

    Parameters
    ----------
    chain
        Code and offset of the instruction of each frame, innermost first.

    Returns
    -------
    str
        Links ``function:label`` joined by ``/``, outermost first.
    """
    links = []
    merged = False
    for code, offset in chain:
        if not merged:
            links.append(_link(code, offset))
        merged = code.co_name in _INLINED
    return "/".join(reversed(links))


@lru_cache(maxsize=65_536)
def _link(code: CodeType, offset: int) -> str:
    name = code.co_qualname
    while name.endswith(_INLINED):
        name = name.rpartition(".<locals>.")[0] or "<module>"
    return f"{name}:{_label(code, offset)}"


def _label(code: CodeType, offset: int) -> str:
    positions = list(code.co_positions())
    line, end_line, column, end_column = positions[offset // 2] if offset >= 0 else (None,) * 4
    if line is None or column is None or end_line is None or end_column is None:
        return f"op{offset}"
    calls = call_labels(code.co_filename, len(linecache.getlines(code.co_filename)))
    call = calls.get((line, column, end_line, end_column))
    return call if call is not None else f"line+{line - code.co_firstlineno}:{column}"


@lru_cache(maxsize=256)
def call_labels(filename: str, num_lines: int) -> dict[tuple[int, int, int, int], str]:
    """Return the label of every call of a source file, by its position; empty when there is no source.

    Parameters
    ----------
    filename
        The file.
    num_lines
        Its length: part of the cache key only, so that edited files are read anew.
    """
    lines = linecache.getlines(filename)
    try:
        tree = ast.parse("".join(lines))
    except (SyntaxError, ValueError):
        return {}
    labels: dict[tuple[int, int, int, int], str] = {}
    _label_scope(tree, lines, labels)
    return labels


def _label_scope(scope: ast.AST, lines: list[str], labels: dict[tuple[int, int, int, int], str]) -> None:
    """Label the calls of one function, then those of the functions inside it."""
    found: list[tuple[ast.Call, str]] = []
    inner: list[ast.AST] = []
    _walk(scope, scope, {}, found, inner, lines)
    counts: dict[str, int] = {}
    for call, label in sorted(found, key=lambda pair: (pair[0].lineno, pair[0].col_offset, -(pair[0].end_lineno or 0))):
        counts[label] = counts.get(label, 0) + 1
        text = label if counts[label] == 1 else f"{label}.{counts[label]}"
        labels[(call.lineno, call.col_offset, call.end_lineno or 0, call.end_col_offset or 0)] = text
    for node in inner:
        _label_scope(node, lines, labels)


def _walk(
    node: ast.AST,
    scope: ast.AST,
    targets: dict[ast.expr, str],
    found: list[tuple[ast.Call, str]],
    inner: list[ast.AST],
    lines: list[str],
) -> None:
    if node is not scope and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.GeneratorExp):
        inner.append(node)
        return
    targets = targets | _named_values(node, lines)
    if isinstance(node, ast.Call):
        found.append((node, targets.get(node) or _call_text(node, lines)))
    for child in ast.iter_child_nodes(node):
        _walk(child, scope, targets, found, inner, lines)


def _named_values(node: ast.AST, lines: list[str]) -> dict[ast.expr, str]:
    """Expressions that a statement names: assigned values and returned ones."""
    if isinstance(node, ast.Return) and node.value is not None:
        return {node.value: "return"}
    if isinstance(node, ast.NamedExpr):
        return {node.value: _text(node.target, lines)}
    if isinstance(node, ast.AnnAssign | ast.AugAssign) and node.value is not None:
        return {node.value: _text(node.target, lines)}
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        if isinstance(target, ast.Tuple | ast.List) and isinstance(node.value, ast.Tuple | ast.List):
            pairs = zip(target.elts, node.value.elts, strict=False)
            return {value: _text(part, lines) for part, value in pairs}
        return {node.value: _text(target, lines)}
    return {}


def _call_text(call: ast.Call, lines: list[str]) -> str:
    text = _text(call, lines)
    if len(text) <= MAX_LABEL:
        return text
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    return f"{_text(call.func, lines)[:MAX_LABEL]}({digest})"


def _text(node: ast.expr, lines: list[str]) -> str:
    """Source text of an expression without white space and comments, safe inside an address."""
    rows = [line.encode() for line in lines[node.lineno - 1 : node.end_lineno]]
    rows[-1] = rows[-1][: node.end_col_offset]  # columns count bytes
    rows[0] = rows[0][node.col_offset :]
    return source_text(f"({b''.join(rows).decode()})")[1:-1]


def source_text(source: str) -> str:
    """Source text without white space between tokens and without comments."""
    try:
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        return "".join(token.string for token in tokens if token.type not in _DROPPED)
    except (tokenize.TokenError, IndentationError):
        return source


_DROPPED = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
