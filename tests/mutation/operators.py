"""The one-line bugs that are planted: small changes of a source file, found in its syntax tree.

Beside the usual operators there are those of DynamoDB's expressions, which are text to Python: a
condition is reversed, moved by one, dropped or joined otherwise, an assignment is dropped. Left as
they are: docstrings, sentences, annotations, decorators, imports, and the braces of an f-string.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

COMPARED = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
COMPUTED = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "/",
    ast.Mod: "*",
    ast.Pow: "*",
    ast.LShift: ">>",
    ast.RShift: "<<",
    ast.BitOr: "&",
    ast.BitAnd: "|",
}
NAMES = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "ceil": "floor",
    "ROUND_HALF_UP": "ROUND_HALF_DOWN",
    "EXISTS": "ABSENT",
    "ABSENT": "EXISTS",
}
EXPRESSION = re.compile(
    r"\battribute_(not_)?exists\b|:\w|\bSET\b|\bADD\b|\bREMOVE\b|:\{|\w = |[ ]AND[ ]"
)
"""What makes a text an expression of DynamoDB."""
IN_EXPRESSION = (
    (r"\battribute_exists\b", "attribute_not_exists"),
    (r"\battribute_not_exists\b", "attribute_exists"),
    (r"<=", "<"),
    (r">=", ">"),
    (r"(?<=[ ])<(?=[ ])", "<="),
    (r"(?<=[ ])>(?=[ ])", ">="),
    (r"(?<=[ ])=(?=[ ])", "<>"),
    (r"\bAND\b", "OR"),
    (r"\bOR\b", "AND"),
    (r"(?<=[ ])\+(?=[ ])", "-"),
    (r"(?<=[ ])-(?=[ ])", "+"),
    (r"(?<![\w:#])\d+(?!\w)", "7"),
)
TERM = r"[^()\s](?:[^()]|\([^()]*\))*?"
DROPPED = (
    rf"(?<=[\"(])({TERM} AND )(?=\S)",
    r"( AND (?:[^()\"]|\([^()\"]*\))*?)(?=\"| AND |\))",
    r"(, (?:[^(),\"]|\([^()\"]*\))+?)(?=[,\"]| (?:SET|ADD|REMOVE) )",
    r"(?<=SET )([^(),\"]+, )",
    r"(?<=ADD )([^(),\"]+, )",
    r"(?<=REMOVE )([^(),\"]+, )",
)
"""One of several terms or assignments of an expression."""

OUTSIDE = frozenset({"self", "table"})
"""Names by which what is stored is reached."""

Scope = ast.FunctionDef | ast.AsyncFunctionDef
N = TypeVar("N", bound=ast.AST)


@dataclass(frozen=True)
class Mutant:
    """One planted bug. ``start`` and ``end`` are offsets into the file's bytes."""

    file: str
    """The path, from the root of the repository."""
    function: str
    """The qualified name of the function, or of what the line defines outside of one."""
    deferred: bool
    """Whether the code is a function's body, which does not run when the module is imported."""
    lines: tuple[int, int]
    """The first and the last line of the statement."""
    start: int
    end: int
    text: str
    """What stands there instead."""
    was: str
    """The changed lines, with single spaces."""
    now: str
    nth: int = 0
    """Which of those in this function that read alike."""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What an explanation names: it survives changes elsewhere in the file."""
        return self.file, self.function, self.was, self.now

    @property
    def name(self) -> str:
        """A name that no other mutant has."""
        return "\n".join((*self.key, str(self.nth)))

    def apply(self, source: bytes) -> bytes:
        """Return the file with the bug."""
        return source[: self.start] + self.text.encode() + source[self.end :]

    def diff(self) -> str:
        """Return the bug as people read it."""
        return f"  - {self.was}\n  + {self.now}"


def mutants(file: str, source: bytes) -> list[Mutant]:
    """Return all mutants of a source file that are valid Python, in the order of the file."""
    unchanged = ast.dump(ast.parse(source))
    found: dict[tuple[int, int, str], Mutant] = {}
    alike: dict[tuple[str, str, str, str], int] = {}
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    for at, (start, end, text) in sorted(finder.edits, key=lambda edit: edit[1][:2]):
        mutant = _mutant(file, source, at, start, end, text)
        if (
            (start, end, text) in found
            or mutant.was == mutant.now
            or not _differs(mutant.apply(source), unchanged)
        ):
            continue
        nth = alike[mutant.key] = alike.get(mutant.key, -1) + 1
        found[start, end, text] = Mutant(**{**vars(mutant), "nth": nth})
    return list(found.values())


@dataclass(frozen=True)
class _Place:
    function: str
    deferred: bool
    lines: tuple[int, int]


def _mutant(file: str, source: bytes, at: _Place, start: int, end: int, text: str) -> Mutant:
    first = source.rfind(b"\n", 0, start) + 1
    last = source.find(b"\n", end) if source.find(b"\n", end) >= 0 else len(source)
    was = source[first:last].decode()
    now = (source[first:start] + text.encode() + source[end:last]).decode()
    was, now = " ".join(was.split()), " ".join(now.split())
    return Mutant(file, at.function, at.deferred, at.lines, start, end, text, was, now)


def _differs(source: bytes, unchanged: str) -> bool:
    """Return whether a source is Python, and other Python than before."""
    try:
        return ast.dump(ast.parse(source)) != unchanged
    except SyntaxError:
        return False


class _Finder(ast.NodeVisitor):
    """Collects edits: where, from which byte to which, and the new text."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.edits: list[tuple[_Place, tuple[int, int, str]]] = []
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._scope: list[str] = []
        self._depth = 0
        self._at = _Place("", deferred=False, lines=(0, 0))

    # --- where ---

    def span(self, node: ast.expr | ast.stmt | ast.keyword) -> tuple[int, int]:
        """Return the first byte of a node and the one behind it."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self._starts[node.lineno - 1] + node.col_offset
        return start, self._starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.expr | ast.stmt | ast.keyword) -> str:
        """Return the source of a node."""
        start, end = self.span(node)
        return self.source[start:end].decode()

    def edit(self, start: int, end: int, text: str) -> None:
        """Note an edit."""
        self.edits.append((self._at, (start, end, text)))

    def instead(self, node: ast.expr | ast.stmt | ast.keyword, text: str) -> None:
        """Note an edit of a whole node."""
        self.edit(*self.span(node), text)

    def visit(self, node: ast.AST) -> None:
        """Visit a node and, where it is a statement, remember its lines."""
        if not isinstance(node, ast.stmt):
            super().visit(node)
            return
        before = self._at
        body = getattr(node, "body", None)
        last = body[0].lineno - 1 if body else node.end_lineno
        name = ".".join(self._scope) or _defined(node)
        if not self._depth and self._scope and _defined(node):
            name = f"{name}.{_defined(node)}"
        lines = (node.lineno, max(node.lineno, last or 0))
        self._at = _Place(name, deferred=self._depth > 0, lines=lines)
        super().visit(node)
        self._at = before

    # --- statements ---

    def visit_Module(self, node: ast.Module) -> None:
        """Visit the statements of the file but its docstring."""
        self._block(node.body)

    def visit_Import(self, node: ast.Import) -> None:
        """Leave imports alone."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Leave imports alone."""

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Visit a class without its decorators and bases."""
        self._scope.append(node.name)
        self._block(node.body)
        self._scope.pop()

    def visit_FunctionDef(self, node: Scope) -> None:
        """Visit a function without its decorators and annotations."""
        self._scope.append(node.name)
        self._at = _Place(".".join(self._scope), self._at.deferred, self._at.lines)
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        self._depth += 1
        self._block(node.body)
        self._depth -= 1
        self._scope.pop()

    def visit_If(self, node: ast.If) -> None:
        """Visit an ``if``, unless it is for the type checker."""
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self._negate(node.test)
        self.visit(node.test)
        self._block(node.body)
        self._block(node.orelse)

    def visit_While(self, node: ast.While) -> None:
        """Visit a loop."""
        self._negate(node.test)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Visit a value without its annotation."""
        if node.value is not None:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        """Drop an assignment to a part of something."""
        if isinstance(node.targets[0], ast.Attribute | ast.Subscript):
            self.instead(node, "pass")
        if not _name(node).startswith(("T", "__all__")) or "TypeVar" not in self.text(node):
            self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """Drop it, or compute otherwise."""
        self.instead(node, "pass")
        self._between(node.target, node.value, COMPUTED.get(type(node.op)), "=")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        """Drop a call; leave docstrings alone."""
        if isinstance(node.value, ast.Constant):
            return
        self.instead(node, "pass")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        """Do not raise."""
        self.instead(node, "pass")
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        """Return nothing."""
        if node.value is not None and self.text(node.value) != "None":
            self.instead(node, "return None")
            self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        """Leave the loop instead."""
        self.instead(node, "break")

    def visit_Break(self, node: ast.Break) -> None:
        """Go on instead."""
        self.instead(node, "continue")

    def _block(self, body: list[ast.stmt]) -> None:
        """Visit statements; swap neighbours of which each calls something.

        Constructors only make things, in any order.
        """
        for one, other in pairwise([] if self._scope[-1:] == ["__init__"] else body):
            if self._depth and _effect(one) and _effect(other) and not _needs(other, one):
                before, self._at = self._at, self._place(one, other)
                start, end = self.span(one)[0], self.span(other)[1]
                between = self.source[self.span(one)[1] : self.span(other)[0]].decode()
                self.edit(start, end, self.text(other) + between + self.text(one))
                self._at = before
        for statement in body:
            self.visit(statement)

    def _place(self, one: ast.stmt, other: ast.stmt) -> _Place:
        return _Place(".".join(self._scope), deferred=True, lines=(one.lineno, other.lineno))

    # --- expressions ---

    def visit_Compare(self, node: ast.Compare) -> None:
        """Move a boundary by one, or reverse what has none."""
        sides = [node.left, *node.comparators]
        for index, operator in enumerate(node.ops):
            self._between(sides[index], sides[index + 1], COMPARED[type(operator)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """Join by the other word, or drop one operand."""
        other = "or" if isinstance(node.op, ast.And) else "and"
        for one, two in pairwise(node.values):
            self._between(one, two, other)
        self._drop_each(node.values)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """Drop a ``not`` or a sign."""
        if isinstance(node.op, ast.Not | ast.USub):
            self.instead(node, f"({self.text(node.operand)})")
        self.visit(node.operand)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """Compute otherwise."""
        self._between(node.left, node.right, COMPUTED.get(type(node.op)))
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """Choose the other one."""
        self._negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        """Drop a filter."""
        for test in node.ifs:
            self.instead(test, "True")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """Drop an argument that may have a default: one with a name, a star, or the last one."""
        everything: list[ast.expr | ast.keyword] = [*node.args, *node.keywords]
        for each in everything:
            last = len(node.args) > 1 and each is node.args[-1]
            if isinstance(each, ast.keyword | ast.Starred) or last:
                self._drop(each, everything)
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """Visit an index, but no parameters of types."""
        self.visit(node.value)
        if not isinstance(node.slice, ast.Tuple):
            self.visit(node.slice)

    def visit_List(self, node: ast.List) -> None:
        """Drop an element."""
        if isinstance(node.ctx, ast.Load):
            self._drop_each(node.elts)
        self.generic_visit(node)

    def visit_Set(self, node: ast.Set) -> None:
        """Drop an element."""
        self._drop_each(node.elts)
        self.generic_visit(node)

    def visit_Tuple(self, node: ast.Tuple) -> None:
        """Drop an element, where two are left: fewer would be another mistake."""
        if isinstance(node.ctx, ast.Load) and len(node.elts) > 2:
            self._drop_each(node.elts)
        self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        """Drop an entry."""
        for index, (key, value) in enumerate(zip(node.keys, node.values, strict=True)):
            start = self.span(key)[0] if key else self.source.rfind(b"**", 0, self.span(value)[0])
            end = self.span(value)[1]
            self._cut(start, end, last=index == len(node.keys) - 1, alone=len(node.keys) == 1)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        """Take the other one of a pair."""
        if isinstance(node.ctx, ast.Load) and node.id in NAMES:
            self.instead(node, NAMES[node.id])

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Take the other one of a pair."""
        if node.attr in NAMES:
            end = self.span(node)[1]
            self.edit(end - len(node.attr), end, NAMES[node.attr])
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Change a number by one, a truth to its contrary, and a text by a letter."""
        value = node.value
        if isinstance(value, bool):
            self.instead(node, str(not value))
        elif isinstance(value, int):
            self._number(node, value, 1)
        elif isinstance(value, float):
            self.instead(node, repr(value + 0.01))
            self.instead(node, repr(value - 0.01))
        elif isinstance(value, str):
            self._string(node, value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Change a text with values in it."""
        shown = [part.value for part in node.values if isinstance(part, ast.Constant)]
        self._string(node, "".join(map(str, shown)))

    def _number(self, node: ast.Constant, value: int, by: int) -> None:
        self.instead(node, str(value + by))
        self.instead(node, str(value - by))

    def _string(self, node: ast.expr, value: str) -> None:
        source = self.text(node)
        start, _ = self.span(node)
        if re.fullmatch(r"\d+(\.\d+)?", value):
            self.instead(node, f'"{value}1"')
            self.instead(node, f'"1{value}"')
        elif EXPRESSION.search(source):
            for pattern, new in IN_EXPRESSION:
                if new == "<>" and "SET " in source:
                    continue
                for match in _outside(pattern, source):
                    self.edit(
                        start + _bytes(source, match.start()),
                        start + _bytes(source, match.end()),
                        new,
                    )
            for pattern in DROPPED:
                for match in _outside(pattern, source):
                    self.edit(
                        start + _bytes(source, match.start(1)),
                        start + _bytes(source, match.end(1)),
                        "",
                    )
        elif value and not re.search(r"[A-Za-z,.] [A-Za-z]", value):
            self.edit(start + len(source.encode()) - 1, start + len(source.encode()) - 1, "X")
        elif not value and isinstance(node, ast.Constant):
            self.instead(node, '"X"')

    # --- help ---

    def _negate(self, test: ast.expr) -> None:
        """Reverse a test that no other operator reverses."""
        reversed_anyway = isinstance(test, ast.UnaryOp) or (
            isinstance(test, ast.Compare)
            and len(test.ops) == 1
            and not isinstance(test.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE)
        )
        if not reversed_anyway:
            self.instead(test, f"(not ({self.text(test)}))")

    def _between(self, left: ast.expr, right: ast.expr, new: str | None, more: str = "") -> None:
        """Replace the operator between two operands."""
        if new is None:
            return
        start, end = self.span(left)[1], self.span(right)[0]
        between = self.source[start:end].decode()
        kept = re.fullmatch(r"([\s)]*)(\S.*?)([\s(]*)", between, re.DOTALL)
        if kept:
            self.edit(start, end, f"{kept[1]}{new}{more}{kept[3]}")

    def _drop_each(self, nodes: list[ast.expr]) -> None:
        for node in nodes:
            if len(nodes) > 1 or not isinstance(node, ast.BoolOp):
                self._drop(node, list(nodes))

    def _drop(self, node: ast.expr | ast.keyword, among: list[ast.expr | ast.keyword]) -> None:
        """Drop an element with what separates it from the next one, or the one before."""
        index = among.index(node)
        if len(among) == 1:
            self._cut(*self.span(node), last=True, alone=True)
        elif index + 1 < len(among):
            self.edit(self.span(node)[0], self.span(among[index + 1])[0], "")
        else:
            self.edit(self.span(among[index - 1])[1], self.span(node)[1], "")

    def _cut(self, start: int, end: int, *, last: bool, alone: bool) -> None:
        """Drop text with the comma behind it; before it, if it is the last."""
        comma = self.source.find(b",", end)
        if not last and comma >= 0:
            end = comma + 1
        elif last and not alone:
            start = max(self.source.rfind(b",", 0, start), 0)
        elif comma >= 0 and not self.source[end:comma].strip():
            end = comma + 1
        self.edit(start, end, "")


def _bytes(text: str, characters: int) -> int:
    return len(text[:characters].encode())


def _outside(pattern: str, source: str) -> Iterator[re.Match[str]]:
    """Yield the matches that do not begin inside of an f-string's braces."""
    for match in re.finditer(pattern, source):
        before = source[: match.start()]
        if before.count("{") == before.count("}") or not source.startswith(("f", "rf")):
            yield match


def _name(node: ast.Assign) -> str:
    return node.targets[0].id if isinstance(node.targets[0], ast.Name) else ""


def _defined(node: ast.stmt) -> str:
    """Return the name that a statement gives a value to; '' where it gives none."""
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id
    return _name(node) if isinstance(node, ast.Assign) else ""


def _effect(node: ast.stmt) -> bool:
    """Return whether a statement may do something that is seen outside: a call, or one of ours."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call)
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    calls = any(isinstance(each, ast.Call) for each in ast.walk(node))
    return isinstance(node, ast.Assign) and calls and bool(names & OUTSIDE)


def _needs(later: ast.stmt, earlier: ast.stmt) -> bool:
    """Return whether a statement uses a name that an earlier one defines."""
    return bool(_names(earlier, ast.Store) & _names(later, ast.Load))


def _names(statement: ast.stmt, how: type[ast.expr_context]) -> set[str]:
    found = (each for each in ast.walk(statement) if isinstance(each, ast.Name))
    return {each.id for each in found if isinstance(each.ctx, how)}
