"""Imports of the library have no cycles."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRAVELLING = {"configuration_macaron", "modeling_macaron", "pipeline_macaron"}
LAYERS = [
    {"tokenization", *TRAVELLING},
    {"atomic", "machine", "dna", "hub", "loading", "predictor", "reference", "plots", "conversion", "export"},
    {"io", "data"},
    {"analysis", "evaluation", "training"},
]
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}


def modules():
    files = [*ROOT.glob("modeling_macaron/**/*.py"), *ROOT.glob("tokenization/*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imports_of(name, path, known):
    """Modules of this library that a module imports at import time."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    skipped = {
        id(node) for block in ast.walk(tree) if isinstance(block, (ast.FunctionDef, ast.If)) for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in skipped or not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            base = ".".join(part for part in (package if node.level else "", node.module) if part)
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        yield from (one for one in names if one in known and one != name)


def room(name):
    parts = name.split(".")
    return parts[0] if parts[0] == "tokenization" or len(parts) == 1 else parts[1]


@pytest.fixture(scope="module")
def graph():
    known = modules()
    return {name: sorted(set(imports_of(name, path, known))) for name, path in known.items()}


def test_imports_point_down(graph):
    up = [
        f"{name} -> {other}"
        for name, others in graph.items()
        for other in others
        if room(name) in LEVELS and room(other) in LEVELS and LEVELS[room(other)] > LEVELS[room(name)]
    ]
    assert not up
    assert not [name for name in graph if room(name) not in LEVELS and room(name) != "modeling_macaron"]
    rooms = {f"{room(name)} -> {room(other)}" for name, others in graph.items() for other in others}
    assert not rooms & {"training -> analysis", "evaluation -> analysis", "io -> data"}


def test_imports_have_no_cycles(graph):
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            path.append(name)
            for other in graph[name]:
                if not name.startswith(other + "."):
                    visit(other)
            path.pop()
            done.add(name)

    for name in graph:
        visit(name)
