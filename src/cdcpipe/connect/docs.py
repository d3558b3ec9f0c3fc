"""What a model's fields mean, out of their docstrings: for `cdcpipe config explain` and the JSON Schema."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys

from cdcpipe.connect.model import Config

__all__ = ["field_docs", "link"]

_LINK = re.compile(r"https://[^\s)]+[^\s).,:]")


@functools.cache
def _documented(module: str) -> dict[str, dict[str, str]]:
    """Class -> field -> docstring, of a module's source."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(sys.modules[module])).body:
        if not isinstance(node, ast.ClassDef):
            continue
        fields = found.setdefault(node.name, {})
        for statement, after in zip(node.body, node.body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else 0
                if isinstance(text, str):
                    fields[statement.target.id] = inspect.cleandoc(text)
    return found


def field_docs(model: type[Config]) -> dict[str, str]:
    """Field -> what it is, in which unit, and what None stands for."""
    docs: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        if issubclass(owner, Config):
            docs.update(_documented(owner.__module__).get(owner.__name__, {}))
    return docs


def link(model: type[Config]) -> str:
    """The page of the model's settings: of its own docstring, else of its module's, else of what it derives from."""
    for owner in model.__mro__:
        if not issubclass(owner, Config):
            break
        for text in (owner.__dict__.get("__doc__"), sys.modules[owner.__module__].__doc__):
            if text and (found := _LINK.search(text)):
                return found[0]
    return ""
