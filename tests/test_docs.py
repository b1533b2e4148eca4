"""The pages say what is there: their links, file names, commands, examples and tables are held to the code."""

import argparse
import ast
import re
import shlex
from pathlib import Path

import pytest

from lattice_cli import main as cli
from lattice_core.config import parse
from lattice_core.events import EVENTS, Command
from lattice_core.records import TABLES
from lattice_core.routing import load_policy

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "contracts" / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()
SOURCES = [path for folder in ("lattice_*", "contracts", "tests", "experiments") for path in ROOT.glob(f"{folder}/**/*.*")]

LINK = re.compile(r"\[[^]]*\]\(([^)\s]*)\)", re.DOTALL)
QUOTED = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
COMMAND_LINE = re.compile(r"^    \.venv/bin/lattice (.*)$", re.MULTILINE)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
FILE = re.compile(r"[\w.*/-]+\.(?:py|sol|md|mjs|yaml|toml|json|html)")
MAKE = re.compile(r"(?:^    |`)make ([\w-]+)", re.MULTILINE)
LATTICE = re.compile(r"`lattice ([a-z]+)")
INVARIANT = re.compile(r"^\| INV-(\d+) \|(.*)\|(.*)\|(.*)\|$", re.MULTILINE)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def anchors(page: Path) -> set[str]:
    """The names by which a page's headings are linked to."""
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(page.read_text())}


def section(page: str, heading: str) -> str:
    """The text under a heading of the second level."""
    return page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def parser() -> tuple[argparse.ArgumentParser, set[str]]:
    """A parser of every command line of `lattice`, and the commands."""
    whole = argparse.ArgumentParser(exit_on_error=False)
    subparsers = whole.add_subparsers(required=True)
    for command in cli.COMMANDS:
        command.add(subparsers)
    return whole, set(subparsers.choices)


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each_page
def test_every_file_that_is_named_exists(page: Path) -> None:
    known = {path.name for path in SOURCES} | {"manifest.json", "report.html", "mine.py"}
    for name in filter(FILE.fullmatch, QUOTED.findall(page.read_text())):
        assert any(ROOT.glob(name)) if "/" in name else name in known, name


@each_page
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(MAKE.findall(page.read_text())) <= targets


def test_the_readme_names_the_test_command_that_ci_runs() -> None:
    assert "\n    make test\n" in README
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()


@each_page
def test_every_lattice_command_that_is_named_exists(page: Path) -> None:
    assert set(LATTICE.findall(page.read_text())) <= parser()[1]


def test_the_readmes_command_lines_are_understood() -> None:
    lines = [shlex.split(line) for line in COMMAND_LINE.findall(README)]
    assert {command for command, *_ in lines} >= {"run", "up"}
    for words in lines:
        arguments = parser()[0].parse_args(words)
        if "config" in arguments:
            parse((ROOT / arguments.config).read_text(), arguments.config, arguments.overrides)


def test_the_readmes_policy_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = (block for block in BLOCK.findall(README) if "@policy" in block)
    (tmp_path / "mine.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    assert load_policy("mine:frugal").candidates == 8
    assert "routing.policy=mine:frugal" in README


def test_the_readmes_python_is_python() -> None:
    for block in BLOCK.findall(README):
        ast.parse(block)


def test_the_readmes_chat_is_one_that_the_gateway_takes() -> None:
    from lattice_live.gateway import Chat

    (body,) = re.findall(r"-d '(.*)'", README)
    local = parse((ROOT / "experiments" / "local.yaml").read_text(), "local.yaml")
    assert Chat.model_validate_json(body).model in local.models
    assert f"http://{local.live.listen}/v1" in README


def test_the_protocols_gas_table_is_the_model_that_ships() -> None:
    from lattice_core.chain.gas import load

    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|", section(PROTOCOL, "Gas"), re.MULTILINE)
    table = {name: tuple(int(number.replace(",", "")) for number in numbers) for name, *numbers in rows}
    assert table == {name: price[:3] for name, price in load().prices.items()}


def test_the_protocols_script_reads_a_finished_run(capsys: pytest.CaptureFixture[str]) -> None:
    from lattice_sim.model import LatticeModel
    from tests.sim.served import plain

    model = LatticeModel(plain({"chain.epoch": "1m", "sim.epochs": 1}))
    model.step()
    (source,) = BLOCK.findall(PROTOCOL)
    exec(source, {"model": model})
    *transfers, balance = capsys.readouterr().out.splitlines()
    assert len(transfers) > 3
    assert balance == "0", "the first account is nobody's"


def test_the_protocol_names_every_error_and_event_of_the_contracts() -> None:
    """Its own ones: those of OpenZeppelin keep their place."""
    named = set(re.findall(r"\w+", " ".join(QUOTED.findall(PROTOCOL))))
    sources = "".join(path.read_text() for path in (ROOT / "contracts" / "src").glob("*.sol"))
    declared = set(re.findall(r"^ +(?:error|event) (\w+)\(", sources, re.MULTILINE))
    assert len(declared) > 100
    assert declared <= named, declared - named


def test_the_architecture_names_every_event_and_command() -> None:
    kernel = set(QUOTED.findall(section(ARCHITECTURE, "The kernel")))
    kinds = {kind.__name__ for kind in (*EVENTS, *Command.__value__.__args__)}
    assert kinds <= kernel, kinds - kernel


def test_the_architecture_names_every_file_of_a_run() -> None:
    from lattice_live.sqlite import FILE as STORAGE
    from lattice_sim.rundir import DECISIONS, JOURNAL, MANIFEST, REPORT

    named = {name for name in QUOTED.findall(section(ARCHITECTURE, "The run directory")) if "." in name}
    assert named == {*(f"{table}.parquet" for table in TABLES), MANIFEST, REPORT, JOURNAL, DECISIONS, STORAGE}


def test_each_invariants_number_stands_in_the_tests_that_check_it() -> None:
    rows = INVARIANT.findall(ARCHITECTURE)
    assert len(rows) == len({number for number, *_ in rows}) > 10
    for number, _, tests, _ in rows:
        files = QUOTED.findall(tests)
        assert files, f"INV-{number} names no test"
        for file in files:
            assert int(number) in numbers((ROOT / file).read_text()), f"{file} does not name INV-{number}"


def numbers(text: str) -> set[int]:
    """The invariants that a text names: `INV-1`, `INV-1, 2 and 3`, or `inv_1_` in the name of a test."""
    lists = re.findall(r"INV-(\d+(?:(?:, | and )\d+)*)", text) + re.findall(r"inv_(\d+)_", text)
    return {int(number) for found in lists for number in re.findall(r"\d+", found)}
