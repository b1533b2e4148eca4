"""`lattice trace` imports, describes and fits, and refuses a bad trace in one line."""

from pathlib import Path

import pytest
import yaml

from lattice_cli.main import main
from lattice_cli.trace import FORMATS as NAMED
from lattice_core.config.network import Preset
from lattice_sim.trace import read_with_header
from lattice_sim.trace_import import FORMATS

ROWS = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
ROWS += [
    f"2023-11-16 18:{second // 60:02}:{second % 60:02}.{second:03},{100 + second},{1 + second % 7}" for second in range(300)
]
FAILED = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n1,m,1,0,1,API log\n2,m,1,1,2,API log\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw.csv").write_text("\n".join(ROWS) + "\n")
    return tmp_path


def test_the_formats_are_those_that_can_be_read() -> None:
    assert set(NAMED) == set(FORMATS)


def test_a_trace_is_imported_described_fitted_and_replayed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = ["--source", "a paper", "--licence", "CC-BY-4.0"]
    assert main(["trace", "import", "raw.csv", "--out", "t.parquet", *about]) == 0
    assert "300" in capsys.readouterr().out
    assert read_with_header("t.parquet")[1]._asdict() == {
        "source": "a paper",
        "licence": "CC-BY-4.0",
        "columns": ("t_ns", "prompt_tok", "output_tok"),
        "requests": 300,
        "span_ns": 299_299_000_000,
    }
    assert main(["trace", "describe", "t.parquet", "--out", "t.svg"]) == 0
    described = capsys.readouterr().out
    for said in ("a paper", "CC-BY-4.0", "300", "index of dispersion, 60 s", "p50"):
        assert said in described
    assert (folder / "t.svg").read_text().startswith("<?xml")
    assert main(["trace", "fit", "t.parquet", "--name", "mine", "--out", "mine.yaml"]) == 0
    said, fitted = capsys.readouterr().out, yaml.safe_load((folder / "mine.yaml").read_text())
    assert "FAIL  CV of gaps" in said, "arrivals so even are not what a burst leaves"
    assert fitted["verdict"].endswith("failed")
    assert (fitted["name"], fitted["source"]) == ("mine", "a paper")
    Preset.model_validate({key: fitted[key] for key in Preset.model_fields})
    assert main(["check", "local.yaml", "--set", "users.visitor.workload={trace: t.parquet}"]) == 0
    assert "300 requests of t.parquet in 299 s" in capsys.readouterr().out


def test_failed_requests_that_are_left_out_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "burst.csv").write_text(FAILED)
    assert main(["trace", "import", "burst.csv", "--format", "burstgpt", "--out", "t.parquet"]) == 0
    lines = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (lines["requests"], lines["failed, left out"]) == ("1", "1")


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        ("nowhere.csv: must be a file that can be read", ["import", "nowhere.csv", "--out", "t"]),
        ("back.csv: line 3: TIMESTAMP must not be earlier than the line before", ["import", "back.csv", "--out", "t"]),
        ("raw.csv: line 1: must name Timestamp", ["import", "raw.csv", "--format", "burstgpt", "--out", "t"]),
        ("mine.py: line 1: must show one of the formats", ["import", "mine.py", "--out", "t"]),
        ("nowhere/t: must be a place for a file", ["import", "raw.csv", "--out", "nowhere/t"]),
        ("back.csv: line 3", ["describe", "back.csv", "--out", "t.png"]),
        ("short.csv: must have 100 requests over 120 s", ["fit", "short.csv", "--name", "a", "--out", "t"]),
    ],
)
def test_a_bad_trace_is_refused_in_one_line_and_nothing_is_written(
    said: str, arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "back.csv").write_text("\n".join([ROWS[0], ROWS[2], ROWS[1]]) + "\n")
    (folder / "short.csv").write_text("\n".join(ROWS[:9]) + "\n")
    (folder / "mine.py").write_text("print()\n")
    before = sorted(folder.iterdir())
    assert main(["trace", *arguments]) == 2
    out, error = capsys.readouterr()
    assert said in error
    assert error.count("\n") == 1
    assert out == ""
    assert sorted(folder.iterdir()) == before


def test_a_picture_of_another_kind_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["trace", "describe", "raw.csv", "--out", "t.gif"])
    assert ended.value.code == 2
    assert "must end in .png, .svg, .pdf, not 't.gif'" in capsys.readouterr().err
