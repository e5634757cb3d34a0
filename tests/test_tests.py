"""The tests' own rules: no private names of the package, an assertion in each, no sleeps.

A test that reads a private attribute breaks when the code is tidied, and one without an assertion
never breaks. A test that sleeps fails on a busy machine and is slow on an idle one.
"""

from __future__ import annotations

import ast
import collections
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
SOURCES = TESTS.parent / "src"

# Names with an underscore that the documentation of their package describes.
DOCUMENTED = {"_asdict", "_fields", "_make", "_mapping", "_missing_", "_replace", "_exit", "_"}

# Calls that reach an attribute by a string.
BY_STRING = {"getattr", "setattr", "hasattr", "delattr", "attrgetter", "patch"}

# What fails when something is not as it should be, besides `assert` and `raise`.
CHECKS = {
    *("raises", "warns", "fail", "raise_for_status", "check_returncode", "timeout", "wait_for"),
    "assert_halves_agree",
}

# Uses of private names that are left, by the folder of the tests. Lower these; raise none.
LEFT = {"delivery": 6, "web": 8}


@cache
def trees() -> dict[str, ast.Module]:
    """All modules of the tests by their path."""
    paths = sorted(TESTS.rglob("*.py"))
    return {str(path.relative_to(TESTS)): ast.parse(path.read_text()) for path in paths}


def called(node: ast.AST) -> str:
    """The last word of what is called: ``fail`` for ``pytest.fail()``, "" for what is no call."""
    if not isinstance(node, ast.Call):
        return ""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def is_private(word: str) -> bool:
    return word.startswith("_") and not word.startswith("__") and word not in DOCUMENTED


def is_module(dotted: str) -> bool:
    path = SOURCES.joinpath(*dotted.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


@cache
def package_names() -> frozenset[str]:
    """The functions, classes and attributes of the package."""
    found: set[str] = set()
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
    return frozenset(found)


def subclasses(tree: ast.Module) -> Iterator[ast.ClassDef]:
    """The classes of a module that extend a class of the package."""
    theirs = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("headwater")
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and theirs & {ast.unparse(base) for base in node.bases}:
            yield node


def defined(tree: ast.Module) -> Iterator[str]:
    """The names that a module of the tests gives, among them the attributes of its classes."""
    # What a subclass sets after its start may be an attribute of the class of the package.
    inherited = {
        id(node)
        for each in subclasses(tree)
        for part in each.body
        if not (isinstance(part, ast.FunctionDef) and part.name == "__init__")
        for node in ast.walk(part)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                if id(node) not in inherited:
                    yield node.attr


def words_in(node: ast.AST) -> Iterator[str]:
    """The names by which a piece of code reaches into something."""
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("headwater"):
        # An internal module may have tests of its own. A private name in a module may not.
        for alias in node.names:
            if not is_module(f"{node.module}.{alias.name}"):
                yield alias.name
    elif isinstance(node, ast.Attribute):
        yield node.attr
    elif called(node) in BY_STRING:
        for each in ast.iter_child_nodes(node):
            if isinstance(each, ast.Constant) and isinstance(each.value, str):
                # A path of modules names an internal one, which may have tests of its own.
                yield from each.value.split(".")[-1 if each.value.startswith("headwater.") else 0 :]


def private_names(
    tree: ast.Module, own: set[str], shared: frozenset[str] = frozenset()
) -> list[str]:
    """The private names that are not a module's ``own``; an object may use ``shared`` of itself."""
    return [
        f"{getattr(node, 'lineno', 0)}: {word}"
        for node in ast.walk(tree)
        for word in words_in(node)
        if is_private(word) and word not in own and not (word in shared and is_of_self(node))
    ]


def is_of_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "cls", "super()")


def test_tests_use_no_private_names():
    """Inject a clock or a seam instead: what a test needs, a user may need too."""
    # Tests extend the classes that start servers.
    shared = frozenset(
        word
        for file, tree in trees().items()
        if not Path(file).name.startswith("test_")
        for word in defined(tree)
    )
    found: dict[str, list[str]] = collections.defaultdict(list)
    for file, tree in trees().items():
        own = {*shared - package_names(), *defined(tree)}
        for name in private_names(tree, own, shared):
            found[Path(file).parts[0]].append(f"{file}:{name}")
    wrong = [
        name for part, names in found.items() if len(names) > LEFT.get(part, 0) for name in names
    ]
    assert not wrong, "\n".join(wrong)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def checks(function: ast.AST, known: set[str]) -> bool:
    """Whether a function can fail: by `assert`, by an error that it raises, or by a call."""
    return any(
        isinstance(node, ast.Assert | ast.Raise)
        or called(node) in known
        or (
            isinstance(node, ast.keyword)
            and node.arg == "check"
            and ast.unparse(node) == "check=True"
        )
        for node in ast.walk(function)
    )


def checking_functions() -> set[str]:
    """What fails when something is wrong: by itself, or by another such function."""
    variants: dict[str, list[ast.AST]] = collections.defaultdict(list)
    for tree in trees().values():
        for function in functions(tree):
            if not function.name.startswith("test_"):
                variants[function.name].append(function)
    found = set(CHECKS)
    while more := {
        name
        for name, bodies in variants.items()
        if name not in found and any(checks(body, found) for body in bodies)
    }:
        found |= more
    return found


def test_each_test_has_an_assertion():
    known = checking_functions()
    found = [
        f"{file}:{function.lineno}: {function.name}"
        for file, tree in trees().items()
        for function in functions(tree)
        if function.name.startswith("test_") and not checks(function, known)
    ]
    assert not found, "\n".join(found)


def guesses(file: str, tree: ast.AST) -> Iterator[str]:
    """Sleeps that stand for a condition. ``sleep(0)`` outside a loop lets another task run."""
    lines = (TESTS / file).read_text().splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.While) and not isinstance(node.test, ast.Await):
            last = [each.value for each in node.body if isinstance(each, ast.Expr)]
            if len(last) == len(node.body) and all(map(is_sleep, last)):
                yield f"{file}:{node.lineno}: a loop around a sleep; use support.until"
        elif (
            is_sleep(node) and isinstance(node, ast.Call) and isinstance(node.args[0], ast.Constant)
        ):
            if node.args[0].value != 0 and "  # " not in lines[node.lineno - 1]:
                yield f"{file}:{node.lineno}: {ast.unparse(node)} without a comment that says why"


def is_sleep(node: ast.AST) -> bool:
    return called(node.value if isinstance(node, ast.Await) else node) == "sleep"


def test_tests_wait_for_a_condition():
    """A sleep is a guess: too long on an idle machine and too short on a busy one."""
    found = [each for file, tree in trees().items() for each in guesses(file, tree)]
    assert not found, "\n".join(found)


def test_skips_have_a_reason():
    found = [
        f"{file}:{getattr(node, 'lineno', 0)}: {ast.unparse(node)}"
        for file, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and called(node) in ("skip", "skipif", "importorskip", "xfail")
        and not (called(node) == "skip" and node.args)
        and "reason" not in {each.arg for each in node.keywords}
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("hub._ring", ["1: _ring"]),
        ("from headwater.sql._table import _slow", ["1: _slow"]),
        ("monkeypatch.setattr('headwater.sql._table._slow', 1)", ["1: _slow"]),
        ("class A:\n    def f(self):\n        self._b = 1\n        return other._b", []),
        ("row._asdict(), x.__class__", []),
    ],
)
def test_a_private_name_is_found(code: str, found: list[str]):
    tree = ast.parse(code)
    assert private_names(tree, set(defined(tree))) == found
