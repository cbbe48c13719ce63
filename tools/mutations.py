"""Small faults that can be put into a Python file, one at a time: what `mutate.py` tries the tests with."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

SMALLEST_BOUND = 1000  #: whole numbers from here on are bounds against absurd input
LARGEST_GUARD = 1e-6  #: fractions up to here only keep a divisor or a logarithm away from 0
#: functions that give the same for their first two arguments in the other order
SYMMETRIC = frozenset(
    ("min", "max", "minimum", "maximum", "logical_and", "logical_or", "intersect1d", "union1d", "array_equal")
)
#: calls whose arguments decide what is shown, or what numpy warns of: not what is computed
SHOWN = frozenset(("track", "say", "excerpt", "errstate"))
#: arguments that guard against mistakes, or decide what is shown or where something is computed
UNSEEN = frozenset(("strict", "encoding", "errors", "ignore_errors", "progress", "device"))
#: calls that keep all their arguments, because they only mean something together
WHOLE = frozenset((*SHOWN, "setting", "isinstance", "cast"))

_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_OPPOSITES = {"min": "max", "any": "all", "minimum": "maximum", "argmin": "argmax", "ceil": "floor", "zeros": "ones"}
_OPPOSITES |= {value: key for key, value in _OPPOSITES.items()}
_LEFT_OUT = ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom


@dataclass(frozen=True)
class Mutation:
    """One fault.

    Attributes:
        path: the file, relative to the project.
        line: of the statement or expression that is changed.
        function: first line of the innermost function or lambda around it, decorators included; 0 outside of any.
        kind: of the change, for counting.
        node, change: number of the node among those of the file that can be changed, and of the change among its.
    """

    path: str
    line: int
    function: int
    kind: str
    node: int
    change: int

    def apply(self, root: Path) -> tuple[str, str]:
        """Puts the fault into the file's source.

        Returns:
            The changed source, and one line that shows the change.
        """
        tree = ast.parse((root / self.path).read_text(encoding="utf-8"))
        target = next(islice(_mutable(tree), self.node, None))[0]
        before = ast.unparse(target)
        next(islice(_changes(target), self.change, None))[1](target)
        shown = f"{self.path}:{self.line}: {self.kind}: {_short(before)} -> {_short(ast.unparse(target))}"
        return ast.unparse(ast.fix_missing_locations(tree)) + "\n", shown


def mutations_of(path: Path, root: Path) -> list[Mutation]:
    """Lists every fault that can be put into a file, in the order of its source."""
    name = path.relative_to(root).as_posix()
    return [
        Mutation(name, node.lineno, function, kind, number, change)
        for number, (node, function) in enumerate(_mutable(ast.parse(path.read_text(encoding="utf-8"))))
        for change, (kind, _) in enumerate(_changes(node))
    ]


def _mutable(tree: ast.Module) -> Iterator[tuple[ast.stmt | ast.expr, int]]:
    """Walks over the nodes that a fault may be put into, each with its function's first line.

    Annotations, docstrings, the text of errors and what is imported for type checkers only are left out.
    """
    yield from _walk(tree, 0)


def _walk(node: ast.AST, function: int) -> Iterator[tuple[ast.stmt | ast.expr, int]]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        if any(ast.unparse(entry).endswith(("overload", "abstractmethod")) for entry in node.decorator_list):
            return
        function = min([node.lineno, *(entry.lineno for entry in node.decorator_list)])
        defaults = [entry for entry in (*node.args.defaults, *node.args.kw_defaults) if entry]
        children: list[ast.AST] = [*defaults, *node.body]
    elif isinstance(node, ast.Lambda):
        function, children = node.lineno, [*node.args.defaults, node.body]
    elif isinstance(node, ast.AnnAssign):
        children = [node.value] if node.value else []
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        children = list(node.orelse)
    elif isinstance(node, _LEFT_OUT) or _is_bound(node) or _is_type(node):
        children = []
    elif isinstance(node, ast.Call):
        arguments = [entry.value for entry in node.keywords if entry.arg not in UNSEEN]
        children = [] if _name_of(node) in SHOWN else [node.func, *node.args, *arguments]
        if _name_of(node) == "reshape":  # -1 and -2 both stand for what is left
            children = [child for child in children if not isinstance(child, ast.UnaryOp)]
    elif isinstance(node, ast.ClassDef):
        children = list(node.body)
    elif isinstance(node, ast.Subscript) and _is_first(node):
        children = [node.value]
    else:
        children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.stmt | ast.expr) and not (_is_docstring(node) or _is_type(node)):
        yield node, function
    for child in children:
        yield from _walk(child, function)


def _is_first(node: ast.Subscript) -> bool:
    """Returns whether the first element is taken; where there is only one, the last is the same."""
    return isinstance(node.slice, ast.Constant) and node.slice.value == 0 and isinstance(node.slice.value, int)


def _is_bound(node: ast.AST) -> bool:
    """Returns whether this is a number written as a power, `1 << 20` or `10**6`: a bound as large whole numbers are."""
    return (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.LShift | ast.Pow)
        and isinstance(node.left, ast.Constant)
        and isinstance(node.right, ast.Constant)
    )


def _is_guarded(node: ast.BinOp) -> bool:
    """Returns whether this is a bound, or a guard is added or multiplied: with the opposite sign it is as small."""
    guards = [part for part in (node.left, node.right) if isinstance(part, ast.Constant) and _is_guard(part.value)]
    return bool(guards) or _is_bound(node)


def _is_guard(value: object) -> bool:
    return isinstance(value, float) and 0 < value <= LARGEST_GUARD


def _is_type(node: ast.AST) -> bool:
    """Returns whether this is for type checkers: `TypeVar(…)`, `Literal[…]`."""
    if isinstance(node, ast.Call):
        return _name_of(node) == "TypeVar"
    return isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal"


def _is_empty(node: ast.Call) -> bool:
    """Returns whether an array without elements is made, whose content cannot be another."""
    return bool(node.args) and any(
        isinstance(part, ast.Constant) and part.value == 0
        for part in (node.args[0].elts if isinstance(node.args[0], ast.Tuple) else node.args[:1])
    )


def _is_abstract(node: ast.Raise) -> bool:
    return isinstance(node.exc, ast.Name) and node.exc.id == "NotImplementedError"


def _name_of(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _changes(node: ast.stmt | ast.expr) -> Iterator[tuple[str, Callable[[ast.AST], None]]]:
    """Lists the changes that a node can have: their kind, and what makes them in a copy of the node."""
    if isinstance(node, ast.Compare):
        for number, operator in enumerate(node.ops):
            for other in _COMPARISONS[type(operator)]:
                yield "comparison", lambda n, i=number, o=other: n.ops.__setitem__(i, o())  # type: ignore[misc]
    elif isinstance(node, ast.BoolOp):
        yield "boolean", _set("op", ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC and not (_has_text(node) or _is_guarded(node)):
        yield "arithmetic", _set("op", _ARITHMETIC[type(node.op)]())
    elif isinstance(node, ast.AugAssign):
        if type(node.op) in _ARITHMETIC and not _has_text(node):
            yield "arithmetic", _set("op", _ARITHMETIC[type(node.op)]())
        yield "statement", _drop
    elif isinstance(node, ast.UnaryOp):
        if not isinstance(node.op, ast.Not) and not isinstance(node.operand, ast.Constant):
            yield "sign", lambda n: _become(n, n.operand)  # type: ignore[attr-defined]
        elif isinstance(node.op, ast.Not):
            yield "negation", lambda n: _become(n, n.operand)  # type: ignore[attr-defined]
    elif isinstance(node, ast.Constant):
        for value in _other_values(node.value):
            yield "constant", _set("value", value)
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        if not isinstance(node.test, ast.Compare):  # whose opposite is a comparison's own change
            yield "negation", lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test))  # type: ignore[attr-defined]
    elif isinstance(node, ast.Expr) or (isinstance(node, ast.Raise) and not _is_abstract(node)):
        yield "statement", _drop
    elif isinstance(node, ast.Continue):
        yield "statement", lambda n: _become(n, ast.Break())
    elif isinstance(node, ast.Break):
        yield "statement", lambda n: _become(n, ast.Continue())
    elif isinstance(node, ast.Call):
        yield from _changes_of_call(node)
    elif isinstance(node, ast.Subscript) and _is_first(node):
        yield "constant", lambda n: setattr(n.slice, "value", 1)  # type: ignore[attr-defined]
    elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple) and len(node.slice.elts) > 1:
        first, second, *_ = node.slice.elts
        if isinstance(node.ctx, ast.Load) and ast.dump(first) != ast.dump(second):
            yield "order", lambda n: n.slice.elts.__setitem__(slice(0, 2), n.slice.elts[1::-1])  # type: ignore[attr-defined]


def _changes_of_call(node: ast.Call) -> Iterator[tuple[str, Callable[[ast.AST], None]]]:
    name = _name_of(node)
    if name in WHOLE:
        return
    if name in _OPPOSITES and not _is_empty(node):
        field = "attr" if isinstance(node.func, ast.Attribute) else "id"
        yield "call", lambda n: setattr(n.func, field, _OPPOSITES[name])  # type: ignore[attr-defined]
    starred = any(isinstance(entry, ast.Starred) for entry in node.args[:2])
    differ = len({ast.dump(entry) for entry in node.args[:2]}) == 2
    if differ and not starred and name not in SYMMETRIC:
        yield "order", lambda n: n.args.__setitem__(slice(0, 2), n.args[1::-1])  # type: ignore[attr-defined]
    for number, keyword in enumerate(node.keywords):
        if keyword.arg is not None and keyword.arg not in UNSEEN:
            yield "argument", _without_keyword(number)


def _without_keyword(number: int) -> Callable[[ast.AST], None]:
    return lambda node: node.keywords.pop(number)  # type: ignore[attr-defined]


def _other_values(value: object) -> tuple[object, ...]:
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, int):  # a bound against absurd input may as well be one more or less
        return (value + 1, value - 1) if abs(value) < SMALLEST_BOUND else ()
    if isinstance(value, float) and not _is_guard(value):
        return (value * 1.02 if value else 1.0,)
    return ()


def _has_text(node: ast.BinOp | ast.AugAssign) -> bool:
    """Returns whether text is put together, or inserted into a pattern."""
    parts = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.value,)
    return any(
        isinstance(part, ast.JoinedStr) or (isinstance(part, ast.Constant) and isinstance(part.value, str | bytes))
        for part in parts
    )


def _set(field: str, value: object) -> Callable[[ast.AST], None]:
    return lambda node: setattr(node, field, value)


def _drop(node: ast.AST) -> None:
    _become(node, ast.Pass())


def _become(node: ast.AST, other: ast.AST) -> None:
    """Makes a node another one, in its place in the tree."""
    node.__class__ = other.__class__
    node.__dict__ = {**other.__dict__, "lineno": getattr(node, "lineno", 0), "col_offset": 0}


def _short(source: str) -> str:
    line = " ".join(source.split())
    return line if len(line) <= 90 else f"{line[:87]}..."
