"""The examples in the docstrings of `models` run, and `models` does not need the package."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

import models

FILES = sorted(Path(models.__file__).parent.rglob("*.py"))
NAMES = [
    ".".join(file.relative_to(FILES[0].parent.parent).with_suffix("").parts).removesuffix(
        ".__init__"
    )
    for file in FILES
]


@pytest.mark.parametrize("name", NAMES)
def test_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_models_import_only_models_and_other_packages(file: Path) -> None:
    imported = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not {name for name in imported if name.split(".")[0] in ("tests", "bench")}
