"""Who may import whom. Every room reads files and writes files; only stages sees all of them."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import mprm

PACKAGE = Path(mprm.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# Room -> the rooms it may import, at the top or inside a function. artifacts.py and the package's version are open to
# all; an import that only the type checker sees is free.
MAY_IMPORT = {
    "runs": {"tasks"},
    "data": {"runs"},
    "batching": {"data"},
    "selection": {"data", "runs", "batching"},
    "backbones": {"batching", "runs"},
    "training": {"data", "batching", "backbones", "runs", "terminal"},
    "inference": {"data", "batching", "backbones", "metrics", "runs"},
    "metrics": {"data", "runs"},
    "prms": {"data", "batching", "backbones", "inference", "metrics", "runs"},
    "judge": {"data", "batching", "backbones", "inference", "training", "metrics", "runs"},
    "reporting": {"metrics", "runs", "tasks"},
    "chartworld": {"data", "runs", "terminal"},
    "terminal": {"runs"},
    "tasks": set(),
    "binding": {"tasks", "terminal"},
    "config": {"binding", "runs", "tasks", "terminal"},
    "main": {"config", "runs", "stages", "tasks", "terminal"},
    "scorer": {"config", "runs", "tasks", "data", "batching", "backbones", "training", "inference", "metrics"},
    "judging": {
        "config",
        "runs",
        "data",
        "batching",
        "backbones",
        "training",
        "inference",
        "metrics",
        "judge",
        "scorer",
    },
    "__init__": {"scorer", "judging"},
}
ROOMS = set(MAY_IMPORT)
MAY_IMPORT["stages"] = ROOMS - {"__init__", "main"}
WITHOUT_TORCH = ("data", "selection", "metrics", "reporting")


def room_of(path: Path) -> str:
    """The folder below mprm/, or the name of a file that lies directly in it."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(tree: ast.AST) -> Iterator[str]:
    """Names of the modules that the code imports, those for the type checker left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imported(node)


def rooms_imported(path: Path) -> set[str]:
    names = imported(ast.parse(path.read_text(encoding="utf-8")))
    return {name.split(".")[1] for name in names if name.startswith("mprm.")}


def test_the_walk_sees_top_level_and_local_imports_only() -> None:
    code = "import mprm.a\nif TYPE_CHECKING:\n  import mprm.b\ndef f():\n  from mprm import c\n  from mprm.d.e import g"
    assert list(imported(ast.parse(code))) == ["mprm.a", "mprm.c", "mprm.d.e.g"]


def test_every_room_has_its_rule() -> None:
    assert {room_of(path) for path in MODULES} == set(MAY_IMPORT)


def test_there_is_no_circle_of_rooms() -> None:
    assert list(TopologicalSorter(MAY_IMPORT).static_order())


def test_a_room_imports_only_what_its_rule_allows() -> None:
    for path in MODULES:
        room = room_of(path)
        assert rooms_imported(path) - {room, "__version__"} <= MAY_IMPORT[room], path


def test_selection_and_training_do_not_know_each_other() -> None:
    assert "training" not in MAY_IMPORT["selection"]
    assert "selection" not in MAY_IMPORT["training"]


def test_importing_a_light_room_does_not_load_torch() -> None:
    names = [
        f"mprm.{room}.{path.stem}"
        for room in WITHOUT_TORCH
        for path in sorted((PACKAGE / room).glob("*.py"))
        if path.stem != "__init__"
    ]
    assert len(names) > 20
    program = (
        f"import sys, {', '.join(names)}; print({{'torch', 'transformers', 'pytorch_lightning'}} & set(sys.modules))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "set()"


def test_a_file_is_short_enough_to_read() -> None:
    """A file has at most 300 lines, a function 60 lines and 7 parameters."""
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                assert len([one for one in given if one.arg not in ("self", "cls")]) <= 7, (path, node.name)
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < 60, (path, node.name)
