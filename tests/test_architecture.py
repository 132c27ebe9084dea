"""The rules that hold the project together: which code may import which, and the house style a program can check."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FRAMEWORK_PACKAGES = ("pytorch_models", "tf_models", "mxnet_memonger")
LIBRARIES = ("kernels", "zoo", *FRAMEWORK_PACKAGES)
PROJECT = (*LIBRARIES, "demo", "benchmarks", "tests")
# What each library may import of this project: arrows point down.
MAY_IMPORT = {
    "kernels": {"kernels"},
    "zoo": {"zoo", "kernels"},
    **{package: {package, "zoo", "kernels"} for package in FRAMEWORK_PACKAGES},
}
FRAMEWORKS = {"torch", "tensorflow", "keras", "mxnet", "cupy", "numba", "jax"}
THE_DOOR = "zoo/frameworks.py"
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "misc", "common"}
MAY_PRINT = re.compile(r"demo\.py|zoo/(__main__|subcommands)\.py|benchmarks/.*|tests/.*")
MAX_LINES = 300

Rule = Callable[[str, str], list[str]]


def python_files() -> list[Path]:
    files = [path for folder in PROJECT for path in (ROOT / folder).rglob("*.py")]
    return sorted([*files, *ROOT.glob("*.py")])


def text_files() -> list[Path]:
    named = [ROOT / name for name in ("Makefile", "constraints.txt", ".ci/run", ".ci/install")]
    found = [path for pattern in ("*.md", "*.toml", "docs/**/*.md") for path in ROOT.glob(pattern)]
    return [*named, *found, *python_files()]


def imported_modules(source: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.lineno, node.module


def imports_point_down(name: str, source: str) -> list[str]:
    """zoo reaches no framework, framework packages reach not one another, nothing reaches demo, tests, benchmarks."""
    layer = Path(name).parts[0]
    found = []
    for line, module in imported_modules(source):
        top = module.partition(".")[0]
        if layer in MAY_IMPORT and top in PROJECT and top not in MAY_IMPORT[layer]:
            found.append(f"{name}:{line} imports {module}: {layer} may import only {sorted(MAY_IMPORT[layer])}")
        if layer == "zoo" and top in FRAMEWORKS:
            found.append(f"{name}:{line} imports {module}: zoo knows no framework")
    return found


def frameworks_have_one_door(name: str, source: str) -> list[str]:
    """Only one file of zoo imports modules by name, so no framework package comes in another way."""
    if not name.startswith("zoo/") or name == THE_DOOR:
        return []
    found = [
        f"{name}:{node.lineno} imports by name; only {THE_DOOR} may"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Name | ast.Attribute)
        and (node.id if isinstance(node, ast.Name) else node.attr) in ("import_module", "__import__", "run_module")
    ]
    found += [
        f"{name}:{line} imports import_module; only {THE_DOOR} may"
        for line, names in _from_imports(source, "importlib")
        if "import_module" in names
    ]
    return found


def _from_imports(source: str, module: str) -> Iterator[tuple[int, list[str]]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == module:
            yield node.lineno, [alias.name for alias in node.names]


def names_say_what_is_inside(name: str, source: str) -> list[str]:
    """No file or folder is called after nothing in particular."""
    return [
        f"{name}: what is in it? {part} says nothing" for part in Path(name).parts if Path(part).stem in VAGUE_NAMES
    ]


def exceptions_are_named(name: str, source: str) -> list[str]:
    """No handler swallows every exception; one that raises again only cleans up."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        broad = any(one is None or getattr(one, "id", "") in ("Exception", "BaseException") for one in caught)
        last = node.body[-1]
        if broad and not (isinstance(last, ast.Raise) and last.exc is None):
            found.append(f"{name}:{node.lineno} catches every exception and goes on")
    return found


def libraries_do_not_print_or_exit(name: str, source: str) -> list[str]:
    """Libraries return and raise; they also make nothing from source text, and rely on no __del__."""
    if MAY_PRINT.fullmatch(name):
        return []
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("print", "exit", "quit", "exec", "eval"):
                found.append(f"{name}:{node.lineno} calls {node.func.id}()")
        elif isinstance(node, ast.FunctionDef) and node.name == "__del__":
            found.append(f"{name}:{node.lineno} relies on __del__")
        elif isinstance(node, ast.Global):
            found.append(f"{name}:{node.lineno} rebinds a global")
    return found


def nothing_global_is_mutable(name: str, source: str) -> list[str]:
    """Libraries hold no list, dict or set at module or class level: two models would share it.

    One annotated as Mapping or Sequence is a constant: mypy refuses to write to it.
    """
    if name.startswith("tests/"):
        return []
    tree = ast.parse(source)
    scopes = [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]
    mutable = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
    return [
        f"{name}:{node.lineno} is a mutable global: use a tuple, frozenset or MappingProxyType"
        for scope in scopes
        for node in scope.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, mutable) and not _is_constant(node)
    ]


def _is_constant(node: ast.Assign | ast.AnnAssign) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    if all(isinstance(target, ast.Name) and target.id.startswith("__") for target in targets):
        return True
    return isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation).startswith(("Mapping[", "Sequence["))


def files_are_short(name: str, source: str) -> list[str]:
    """A file that does two things is two files."""
    lines = source.count("\n")
    return (
        [f"{name} has {lines} lines, more than {MAX_LINES}: what two things does it do?"] if lines > MAX_LINES else []
    )


def no_machine_is_named(name: str, source: str) -> list[str]:
    """No path of somebody's machine."""
    found = re.finditer(r"(?<![\w.])/(?:work|root|home|Users)/[\w.]+", source)
    return [f"{name}: {match.group()} exists on one machine only" for match in found]


RULES: tuple[tuple[Rule, str, str], ...] = (  # a rule, and a file that breaks it
    (imports_point_down, "zoo/bad.py", "import zoo\ndef f():\n    from pytorch_models import DenseNet\n"),
    (imports_point_down, "zoo/bad.py", "def f():\n    import torch.nn\n"),
    (imports_point_down, "pytorch_models/bad.py", "from tf_models.densenet import DenseNet\n"),
    (imports_point_down, "kernels/bad.py", "import zoo.policy\n"),
    (imports_point_down, "pytorch_models/bad.py", "import demo\n"),
    (frameworks_have_one_door, "zoo/bad.py", "import importlib\nimportlib.import_module('pytorch_models')\n"),
    (frameworks_have_one_door, "zoo/bad.py", "from importlib import import_module as load\n"),
    (names_say_what_is_inside, "zoo/data/utils.py", ""),
    (names_say_what_is_inside, "zoo/helpers/densenet.py", ""),
    (exceptions_are_named, "demo.py", "try:\n    f()\nexcept:\n    pass\n"),
    (exceptions_are_named, "demo.py", "try:\n    f()\nexcept (ValueError, Exception):\n    pass\n"),
    (libraries_do_not_print_or_exit, "zoo/bad.py", "def f():\n    print(1)\n"),
    (libraries_do_not_print_or_exit, "zoo/bad.py", "class A:\n    def __del__(self):\n        pass\n"),
    (libraries_do_not_print_or_exit, "zoo/bad.py", "def f():\n    global x\n    x = 1\n"),
    (nothing_global_is_mutable, "zoo/bad.py", "layers = []\n"),
    (nothing_global_is_mutable, "zoo/bad.py", "class Model:\n    layers: dict = {}\n"),
    (files_are_short, "tests/bad.py", "x = 1\n" * 301),
    (no_machine_is_named, "README.md", "python /" + "home/ann/demo.py"),
)


@pytest.mark.quick
@pytest.mark.parametrize("rule", dict.fromkeys(rule for rule, _, _ in RULES), ids=lambda rule: rule.__name__)
def test_every_file_keeps_the_rule(rule: Rule) -> None:
    files = text_files() if rule is no_machine_is_named else python_files()
    broken = [
        line for path in files for line in rule(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.quick
@pytest.mark.parametrize(("rule", "name", "source"), RULES)
def test_a_rule_notices_what_breaks_it(rule: Rule, name: str, source: str) -> None:
    assert len(rule(name, source)) >= 1


def test_the_rules_see_the_files() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in python_files()}
    assert {"zoo/__init__.py", "zoo/data/__init__.py", "pytorch_models/densenet.py", "demo.py"} <= names


def test_raising_again_after_cleaning_up_is_allowed() -> None:
    assert not exceptions_are_named("a.py", "try:\n    f()\nexcept BaseException:\n    g()\n    raise\n")


@pytest.mark.quick
def test_importing_zoo_loads_nothing_heavy() -> None:
    heavy = sorted(FRAMEWORKS | {"matplotlib", "sklearn", "mlxtend", "fire", *FRAMEWORK_PACKAGES})
    code = f"import sys, zoo, zoo.frameworks, zoo.report, zoo.policy; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_importing_zoo_takes_less_than_300_ms() -> None:
    def seconds(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
        return time.perf_counter() - start

    # A bare start in each round, so that a slow moment of the machine slows both.
    differences = [seconds("import zoo") - seconds("pass") for _ in range(5)]
    assert statistics.median(differences) < 0.3
