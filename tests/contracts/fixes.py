"""The code in a rule's *Fix*, run as a reader would paste it: after the reproduction, where the fault was found."""

from __future__ import annotations

import ast
import re
from copy import deepcopy
from textwrap import dedent
from types import ModuleType
from typing import Any

from torch import Tensor

from normsmith.checks import Findings, Rule

Scope = dict[str, Any]
_DOES = (ast.Call, ast.Assign, ast.AugAssign, ast.With)


def reproduced(rule: Rule) -> Scope:
    """Run a reproduction to its end; the names as they were where it asserts the finding, with `path`, where it is."""
    tree = ast.parse(rule.reproduction)
    at = next((i for i, line in enumerate(tree.body) if _tells(line, rule)), len(tree.body))
    scope: Scope = {}
    _run(tree.body[:at], rule, scope)
    then = _kept(scope)
    _run(tree.body[at:], rule, scope)
    return then


def snippets(rule: Rule) -> list[str]:
    """The code of a rule's fix in its order: blocks, and what stands in backticks and does something.

    What has an ellipsis is a pattern and no code; an option, a name or a command of the shell is none either.
    """
    blocks = r"(?:^ {8}.*\n?)+"
    found = re.findall(rf"({blocks})|`([^`]+)`", rule.sections["Fix"], flags=re.MULTILINE)
    code = [dedent(block) if block else " ".join(inline.split()) for block, inline in found]
    whole = [f"{text} pass" if text.startswith("with ") and text.endswith(":") else text for text in code]
    return [text for text in whole if _does_something(text)]


def run_fix(rule: Rule, scope: Scope) -> None:
    """Run every snippet after the one before it, or, where they are alternatives, by itself.

    A name that neither the reproduction nor the fix defines is an error, as it is for the reader.
    """
    at_first = _kept(scope)
    for text in snippets(rule):
        code = compile(text, f"{rule.code} fix", "exec")
        try:
            exec(code, scope)
        except Exception:  # noqa: BLE001 - an alternative need not go with what was done before it
            try:
                exec(code, _kept(at_first))
            except Exception as error:
                raise AssertionError(f"{rule.code}: its fix does not run as printed: {text}") from error


def names_in(code: str) -> set[str]:
    """The names that a program uses; code that does not parse is an error."""
    return {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}


def _tells(line: ast.stmt, rule: Rule) -> bool:
    """Whether a line of a reproduction asserts that the fault is found."""
    text = ast.unparse(line)
    return isinstance(line, ast.Assert) and ("finding" in text or f"'{rule.code}'" in text)


def _does_something(text: str) -> bool:
    try:
        compile(text, "fix", "exec")
    except SyntaxError:
        return False
    nodes = list(ast.walk(ast.parse(text)))
    is_pattern = any(isinstance(node, ast.Constant) and node.value is ... for node in nodes)
    return not is_pattern and any(isinstance(node, _DOES) for node in nodes)


def _run(lines: list[ast.stmt], rule: Rule, scope: Scope) -> None:
    exec(compile(ast.Module(lines, []), rule.code, "exec"), scope)


def _kept(scope: Scope) -> Scope:
    """What the program has made until now, in one copy, as an optimizer belongs to its model; its rest changes it."""
    shared = {name: value for name, value in scope.items() if _stays(value) or name == "__builtins__"}
    own = deepcopy({name: value for name, value in scope.items() if name not in shared})
    found = scope.get("findings") or ([scope["finding"]] if "finding" in scope else [])
    return {**shared, **own, "path": found[0].path if found else ""}


def _stays(value: Any) -> bool:
    """Modules, findings, and results of a forward cannot be copied, and no fix changes them."""
    return isinstance(value, ModuleType | Findings) or (isinstance(value, Tensor) and not value.is_leaf)
