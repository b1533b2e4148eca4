"""The bench of nodes: each figure is there, what is no longer the same model is named, and so is a missing llama.cpp."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lattice_cli.bench import delayed, foretold, lasting, node
from lattice_cli.main import main
from lattice_live.models import random
from lattice_live.node import profile
from lattice_live.node.engine import PREFILL_TOK
from tests.live.models import files

SIZES = ("1", "2", "4", "8")


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a tiny model whose context holds what the bench reads."""
    a = files.architecture()._replace(context=4_096)
    return files.write(tmp_path_factory.mktemp("bench") / "tiny.gguf", a, files.floats(a))


@pytest.fixture(autouse=True)
def cached(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATTICE_MODELS", str(gguf.parent / "cache"))
    monkeypatch.setitem(sys.modules, "llama_cpp", None)  # to import it fails
    monkeypatch.setattr(profile, "STEPS", 4)


def bench(gguf: Path, *words: str) -> int:
    return main(["bench", "node", "--model", str(gguf), "--threads", "1", "--rounds", "1", *words])


def test_each_figure_of_each_variant_is_there(gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(gguf, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert list(said) == ["fp32", "int8", "q4"]
    for row in said.values():
        for figure in (*SIZES, "prefill"):
            assert row[figure]["tokens_per_s"] > 0
            assert row[figure]["llama_cpp_tokens_per_s"] is None
        assert row["perplexity"] > 1
        assert 0 < row["agreement"] <= 1
        assert row["size_mib"] >= 0  # of a tiny model
        assert row["kv_mib"] == 8 * 1_024 * 2 * 16 * 4 / 2**20
        assert row["provider"] == "cpu"
    assert said["fp32"]["agreement"] == 1


def test_the_table_says_that_llama_cpp_is_missing_and_which_variant_is_another_model(
    gguf: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = {"int8": node.Quality(30.0, 0.97), "q4": node.Quality(45.0, 0.8)}
    monkeypatch.setattr(node, "qualities", lambda *_: judged)
    assert bench(gguf, "--variants", "int8,q4") == 0
    head, _, int8, q4, theirs, *named = filter(None, capsys.readouterr().out.splitlines())
    assert head.startswith("| variant | size, MiB | perplexity | top-1 as fp32 | prefill | decode 1 |")
    assert "| 30.0 | 0.97 |" in int8
    assert "| 45.0 | 0.8 |" in q4
    assert theirs.count("not installed") == len(SIZES) + 1
    assert named == ["q4: agrees with fp32 in less than 95% of positions: it is another model."]


def test_a_long_prompt_keeps_chats_waiting_for_one_chunk_of_it_at_a_time(
    gguf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(delayed, "PROMPT_TOK", 160)
    assert bench(gguf, "--long-prompt", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == 160 // PREFILL_TOK  # of one round
    assert found["usual_s"] > 0.0
    assert found["median_s"] <= found["p99_s"] <= found["longest_s"]
    assert bench(gguf, "--long-prompt") == 0
    assert "while a prompt of 160 tokens is read" in capsys.readouterr().out


def test_a_simulated_node_is_set_beside_the_real_one(gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(gguf, "--simulate", "--cpu", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["profile"]["variant"] == "int8"
    assert tuple(said["burst"]) == SIZES
    for row in said["burst"].values():
        for figure in ("ttft_s", "per_token_s"):
            pair = row[figure]
            assert min(pair["predicted"], pair["measured"]) > 0
            assert pair["difference"] == pytest.approx(pair["predicted"] / pair["measured"] - 1, rel=0.1, abs=0.02)
    assert bench(gguf, "--simulate") == 0
    assert capsys.readouterr().out.startswith("profile: a ")


def test_a_simulated_burst_takes_as_long_as_its_profile_says() -> None:
    speed: dict[str, Any] = {"a": "10ms", "b": "5ms", "prefill_tok_s": 1_000, "prefill_beside_tok_s": 500, "chunk_tok": 32}
    document = {"format": profile.FORMAT, "version": profile.VERSION, "machine": "a machine", "models": {"model": speed}}
    paces = foretold.predicted(document, [1, 2])
    read_s = foretold.PROMPT_TOK / 1_000
    assert paces[1] == pytest.approx((read_s, 0.015))
    second_s = 3 * read_s + 4 * 0.015  # its four chunks are read at half the rate, each beside a step of the first answer
    assert paces[2].ttft_s == pytest.approx((read_s + second_s) / 2)


def test_a_node_under_many_requests_says_what_memory_it_holds(tmp_path: Path) -> None:
    heard: list[int] = []
    folder = random.build(tmp_path / "model")
    found = lasting.serve(folder, 70, threads=1, every=30, told=lambda done, mib: heard.append(done))
    assert heard == [30, 60, 70] == [int(done) for done in found["resident_mib"]]
    first, *_, last = found["resident_mib"].values()
    assert found["growth"] == pytest.approx(last / first - 1, abs=1e-4)
    *_, growth = lasting.markdown(found)
    assert growth == f"growth: {found['growth']:+.1%}"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("must be of fp32, int8, q4, not 'q2'", ["--variants", "q2"]),
        ("must be a whole number from 1000 to 1000000000, not '10'", ["--requests", "10"]),
        ("not allowed with argument", ["--simulate", "--requests", "1000"]),
        ("model: must be smollm2-135m, not 'nowhere.gguf'", ["--model", "nowhere.gguf"]),
    ],
)
def test_bad_input_gets_one_clear_line(gguf: Path, said: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = bench(gguf, *words)
    except SystemExit as end:
        code = int(str(end.code))
    assert code == 2
    assert said in capsys.readouterr().err
