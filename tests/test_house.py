"""The house rules, read from the syntax trees: who may import whom, and where chance and clocks may come from."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.require import require

ROOT = Path(__file__).parents[1]

ARROWS = {
    "lattice_core": {"lattice_core"},
    "lattice_sim": {"lattice_core", "lattice_sim"},
    "lattice_live": {"lattice_core", "lattice_live"},
    "lattice_cli": {"lattice_core", "lattice_sim", "lattice_live", "lattice_cli"},
}
CORE_MAY_IMPORT = {"lattice_core", "numpy", "orjson", "numba", "pydantic", "pydantic_core", "yaml"}
OUTSIDE_WORLD = {"asyncio", "http", "multiprocessing", "socket", "sqlite3", "subprocess", "threading", "time", "urllib"}
HEAVY = {"eth", "matplotlib", "mesa", "onnxruntime", "pandas", "simpy", "web3"}

# Mesa's models take a numpy Generator: the type may be named, and nothing else of numpy.random.
CHANCE = re.compile(r"(random|secrets)\.\w|uuid\.uuid[14]|os\.urandom|numpy\.random\.(?!Generator$)")
MESA_CHANCE = re.compile(r".*\.(shuffle|shuffle_do)|(.*\.)?(self|model)\.random")
CLOCK = re.compile(r"time\.\w|datetime\.(datetime|date)\.(now|utcnow|today)")
MAY_READ_A_CLOCK: set[str] = set()  # for the manifest's timings


def imports(tree: ast.AST, path: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that the file at `path` imports, at any depth; `from a import b` yields `a.b`."""
    package = path.split("/")[:-1]
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = package[: len(package) - level + 1] if level else []
                module = ".".join([*base, module] if module else base)
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in names)
            case ast.Call(func=called, args=[ast.Constant(value=str(name)), *_]):
                if ast.unparse(called).endswith(("__import__", "import_module")):
                    yield node.lineno, name


def uses(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every name and attribute, with the file's import aliases resolved."""
    meaning: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            meaning |= {a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            meaning |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            first, *rest = ast.unparse(node).split(".")
            if first in meaning:
                yield node.lineno, ".".join([meaning[first], *rest])


def arrows(tree: ast.AST, path: str) -> Iterator[str]:
    """cli → {sim, live} → core, and sim and live never import each other."""
    for line, name in imports(tree, path):
        package = name.split(".")[0]
        if package in ARROWS and package not in ARROWS[path.split("/")[0]]:
            yield f"{path}:{line} imports {name}"


def light_core(tree: ast.AST, path: str) -> Iterator[str]:
    """The core imports nothing heavy and reaches nothing outside. chain/ may, and no other file of the core imports chain/."""
    if not path.startswith("lattice_core/") or path.startswith("lattice_core/chain/"):
        return
    for line, name in imports(tree, path):
        package = name.split(".")[0]
        light = package in CORE_MAY_IMPORT or package in sys.stdlib_module_names - OUTSIDE_WORLD
        compiler = package == "llvmlite" and path == "lattice_core/jit.py"
        if not (light or compiler) or f"{name}.".startswith("lattice_core.chain."):
            yield f"{path}:{line} imports {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
            yield f"{path}:{node.lineno} opens a file"


def no_chance(tree: ast.AST, path: str) -> Iterator[str]:
    """In the core and in simulation every draw comes from `lattice_core.streams`."""
    if not path.startswith(("lattice_core/", "lattice_sim/")):
        return
    yield from (f"{path}:{line} uses {name}" for line, name in uses(tree) if CHANCE.match(name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and MESA_CHANCE.fullmatch(ast.unparse(node)):
            yield f"{path}:{node.lineno} uses {ast.unparse(node)}"


def no_clock(tree: ast.AST, path: str) -> Iterator[str]:
    """In the core and in simulation time is what the events say."""
    if path.startswith(("lattice_core/", "lattice_sim/")) and path not in MAY_READ_A_CLOCK:
        yield from (f"{path}:{line} uses {name}" for line, name in uses(tree) if CLOCK.match(name))


RULES: list[Callable[[ast.AST, str], Iterator[str]]] = [arrows, light_core, no_chance, no_clock]

OUTSIDE = {
    "a machine's path": re.compile(r"(?<![\w.~-])/(?:home|Users|root|work|mnt)/\w"),
    "an index or registry": re.compile(
        r"(?:extra-)?index-[u]rl|find-links|https?://[^\s\"]*(?:/simple|hosted|registry)|\"resolved\"\s*:\s*\"http"
    ),
}


def outside(text: str, path: str) -> Iterator[str]:
    """No file names a place that exists on one machine only."""
    for number, line in enumerate(text.splitlines(), 1):
        yield from (f"{path}:{number} names {what}" for what, pattern in OUTSIDE.items() if pattern.search(line))


def unpinned(text: str) -> Iterator[str]:
    """A constraints file pins versions and says nothing of where they come from."""
    for number, line in enumerate(text.splitlines(), 1):
        if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.+!]*|#.*|", line):
            yield f"constraints.txt:{number} is not NAME==VERSION: {line}"


def tracked() -> list[Path]:
    listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, capture_output=True, text=True)
    require(listed.returncode == 0, "a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if (ROOT / name).is_file()]


@pytest.mark.parametrize("rule", RULES)
def test_every_file_keeps_the_rule(rule: Callable[[ast.AST, str], Iterator[str]]) -> None:
    files = sorted(path for package in ARROWS for path in (ROOT / package).rglob("*.py"))
    broken = [line for path in files for line in rule(ast.parse(path.read_text()), path.relative_to(ROOT).as_posix())]
    assert not broken, "\n" + "\n".join(broken)


@pytest.mark.parametrize(
    ("rule", "path", "source", "said"),
    [
        (
            arrows,
            "lattice_core/x.py",
            "def f():\n    import lattice_sim.model",
            "lattice_core/x.py:2 imports lattice_sim.model",
        ),
        (arrows, "lattice_sim/x.py", "from lattice_live import nexus", "lattice_sim/x.py:1 imports lattice_live.nexus"),
        (arrows, "lattice_live/x.py", "from lattice_cli.main import main", "lattice_live/x.py:1 imports lattice_cli.main.main"),
        (light_core, "lattice_core/x.py", "import os\nimport simpy", "lattice_core/x.py:2 imports simpy"),
        (light_core, "lattice_core/x.py", "from . import chain", "lattice_core/x.py:1 imports lattice_core.chain"),
        (light_core, "lattice_core/x.py", "import_module('eth.vm')", "lattice_core/x.py:1 imports eth.vm"),
        (light_core, "lattice_core/x.py", "import socket", "lattice_core/x.py:1 imports socket"),
        (light_core, "lattice_core/x.py", "import llvmlite", "lattice_core/x.py:1 imports llvmlite"),
        (light_core, "lattice_core/x.py", "open('a.yaml')", "lattice_core/x.py:1 opens a file"),
        (no_chance, "lattice_sim/x.py", "import numpy as np\nnp.random.rand()", "lattice_sim/x.py:2 uses numpy.random.rand"),
        (no_chance, "lattice_sim/x.py", "from random import choice\nchoice([])", "lattice_sim/x.py:2 uses random.choice"),
        (no_chance, "lattice_sim/x.py", "self.model.random.random()", "lattice_sim/x.py:1 uses self.model.random"),
        (no_chance, "lattice_sim/x.py", "agents.shuffle_do('step')", "lattice_sim/x.py:1 uses agents.shuffle_do"),
        (no_clock, "lattice_core/x.py", "from time import time\ntime()", "lattice_core/x.py:2 uses time.time"),
        (no_clock, "lattice_sim/x.py", "import datetime\ndatetime.datetime.now()", "uses datetime.datetime.now"),
    ],
)
def test_a_broken_rule_is_named_with_its_line(
    rule: Callable[[ast.AST, str], Iterator[str]], path: str, source: str, said: str
) -> None:
    assert any(said in line for line in rule(ast.parse(source), path))


def test_what_is_allowed_passes_every_rule() -> None:
    allowed = {
        "lattice_core/x.py": "import math\nimport numpy as np\nfrom lattice_core.jit import jit\n\nmath.log(2)\nnp.int64(1)",
        "lattice_core/jit.py": "from llvmlite import ir",
        "lattice_core/chain/evm.py": "import eth\nfrom lattice_core.chain import port",
        "lattice_sim/x.py": "from numpy.random import Generator\n\ndef f(rng: Generator): ...",
        "lattice_cli/x.py": "import time\nimport lattice_sim, lattice_live\n\ntime.time()",
    }
    assert not [line for path, source in allowed.items() for rule in RULES for line in rule(ast.parse(source), path)]


def test_no_file_names_a_machine_or_an_index() -> None:
    broken: list[str] = []
    for path in tracked():
        if path != Path(__file__):
            broken += outside(path.read_text(errors="ignore"), path.relative_to(ROOT).as_posix())
    assert not broken, "\n" + "\n".join(broken)


@pytest.mark.parametrize("text", ["/home/" + "ada", "--extra-index-" + "url=x", "at /root/" + "x"])
def test_a_machine_or_an_index_is_noticed(text: str) -> None:
    assert list(outside(text, "x"))


def test_constraints_hold_versions_only() -> None:
    assert not list(unpinned((ROOT / "constraints.txt").read_text()))


@pytest.mark.parametrize("line", ["numpy", "numpy>=2", "numpy @ https://example.org/numpy.whl", "--index-" + "url x", "-e ."])
def test_a_constraint_that_is_no_version_is_noticed(line: str) -> None:
    assert list(unpinned(line))


@pytest.mark.parametrize("module", ["lattice_core", "lattice_cli.main"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}} & set({HEAVY!r})))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.split() == []
