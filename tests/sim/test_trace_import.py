"""Each published format is read exactly, or refused with one line that says where and why."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice_core.units import MAX_TOKENS, NANO
from lattice_sim.trace import TraceError
from lattice_sim.trace_import import FORMATS, MOONCAKE_BLOCK_TOK, detect, import_trace

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens"
BURSTGPT = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type"
CHUTES = "invocation_id,function_name,chute_id,user_id,instance_id,started_at,completed_at,it,ot,ct,ttft"
GOOD = {
    "azure": [AZURE, "2023-11-16 18:17:03.9799600,4808,10"],
    "mooncake": ['{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}'],
    "burstgpt": [BURSTGPT, "5,a,1.5,ChatGPT,472,18,490,Conversation log"],
    "chutes": [CHUTES, "i,chat,c,u,n,2025-08-01 00:00:00.25+00,2025-08-01 00:00:03+00,100,7,64,0.2"],
}


def write(folder: Path, lines: list[str]) -> str:
    path = folder / "published"
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def mooncake(folder: Path, *rows: tuple[int, int, int, list[int]]) -> str:
    names = ("timestamp", "input_length", "output_length", "hash_ids")
    return write(folder, [json.dumps(dict(zip(names, row, strict=True))) for row in rows])


def published(name: str) -> Path:
    """A real trace; skips the calling test where it is not at hand, whatever else is required."""
    path = Path(os.environ.get("LATTICE_TRACES", "")) / name
    if not path.is_file():
        pytest.skip(f"needs LATTICE_TRACES: the folder that holds {name}")
    return path


@pytest.mark.parametrize("format", FORMATS)
def test_a_format_is_told_by_the_first_line(tmp_path: Path, format: str) -> None:
    path = write(tmp_path, GOOD[format])
    assert detect(path) == format
    trace, failed = import_trace(path, format)
    assert (len(trace.t_ns), trace.t_ns[0], failed) == (1, 0, 0)
    assert {column.dtype for column in trace} == {np.dtype(np.int64)}


@pytest.mark.parametrize("line", ["", "a,b,c", "{", "[1, 2]", '{"timestamp": 1}', "TIMESTAMP;ContextTokens;GeneratedTokens"])
def test_a_file_of_no_known_format_is_refused_with_those_that_are_known(tmp_path: Path, line: str) -> None:
    with pytest.raises(TraceError, match=r"line 1: must show one of the formats azure: TIMESTAMP.*chutes: ") as refused:
        detect(write(tmp_path, [line]))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_is_not_there_is_refused(tmp_path: Path, format: str) -> None:
    for read in (detect, lambda path: import_trace(path, format)):
        with pytest.raises(TraceError, match="must be a file that can be read: No such file"):
            read(str(tmp_path / "nothing"))


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_without_a_request_is_refused(tmp_path: Path, format: str) -> None:
    with pytest.raises(TraceError, match=r"line \d: must be a request; the file has none"):
        import_trace(write(tmp_path, GOOD[format][:-1]), format)


@pytest.mark.parametrize(
    ("format", "old", "new", "said"),
    [
        ("mooncake", "600", "0", f"input_length must be a whole number from 1 to {MAX_TOKENS}, not '0'"),
        ("mooncake", ": 5", ": 5.5", "output_length must be a whole number from 1 to"),
        ("mooncake", ": 5", ": true", "output_length must be a whole number from 1 to"),
        ("mooncake", '"timestamp": 0', '"timestamp": -1', "timestamp must be a whole number from 0 to"),
        ("mooncake", "[0, 1]", '"01"', "hash_ids must be a list of whole numbers, not '01'"),
        ("mooncake", "}", "", "must be a JSON object, not"),
        ("burstgpt", "5,a", "-5,a", "Timestamp must be seconds such as 45 or 45.25, not '-5'"),
        ("burstgpt", "472", "4x2", f"Request tokens must be a whole number from 0 to {MAX_TOKENS}, or nothing, not '4x2'"),
        ("burstgpt", "18,490", "9999999,490", "Response tokens must be a whole number"),
        ("chutes", "2025-08-01 00:00:00.25+00", "yesterday", "started_at must be a time from 1900 to 2099"),
        ("chutes", "100,7", "100,-7", "ot must be a whole number from 0"),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_with_its_line_and_column(tmp_path: Path, format: str, old: str, new: str, said: str) -> None:
    good = GOOD[format][-1]
    assert old in good
    path = write(tmp_path, [*GOOD[format], good.replace(old, new, 1)])
    with pytest.raises(TraceError) as refused:
        import_trace(path, format)
    assert str(refused.value).startswith(f"{path}: line {len(GOOD[format]) + 1}: {said}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("format", "old", "new"),
    [
        ("mooncake", '"timestamp": 0', '"timestamp": 9'),
        ("burstgpt", "5,a", "5.000000001,a"),
        ("chutes", "00.25+00", "00.26+00"),
    ],
)
def test_a_clock_that_runs_backwards_is_refused(tmp_path: Path, format: str, old: str, new: str) -> None:
    good = GOOD[format][-1]
    path = write(tmp_path, [*GOOD[format][:-1], good.replace(old, new, 1), good])
    with pytest.raises(TraceError, match=rf"line {len(GOOD[format]) + 1}: \S+ must not be earlier than the line before"):
        import_trace(path, format)


# Times


@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=12))
def test_requests_that_share_a_time_stamp_are_spread_until_the_next_and_none_leaves_its_place(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int]
) -> None:
    stamps_ms = [3000 * tick for tick, count in enumerate(counts) for _ in range(count)] or [0]
    rows = [(stamp, row + 1, 1, [0]) for row, stamp in enumerate(stamps_ms)]
    path = mooncake(tmp_path_factory.getbasetemp(), *rows)
    trace = import_trace(path, "mooncake").trace
    assert trace.prompt_tok.tolist() == [row + 1 for row in range(len(rows))]
    assert (np.diff(trace.t_ns, prepend=0) >= 0).all()
    shift_ns = trace.t_ns - (np.array(stamps_ms) - stamps_ms[0]) * 1_000_000
    assert (abs(shift_ns) <= 3 * NANO).all()
    assert np.array_equal(trace.t_ns, import_trace(path, "mooncake").trace.t_ns)


def test_a_request_alone_at_its_time_stays_there(tmp_path: Path) -> None:
    trace = import_trace(mooncake(tmp_path, (7, 1, 1, [0]), (9, 1, 1, [0]), (3000, 1, 1, [0])), "mooncake").trace
    assert trace.t_ns.tolist() == [0, 2_000_000, 2_993_000_000]


def test_seconds_are_read_to_the_nanosecond(tmp_path: Path) -> None:
    rows = [f"{time},,1,m,1,1,2,API log" for time in ("5", "5.25", "45.000000001", "999999999")]
    trace = import_trace(write(tmp_path, [BURSTGPT, *rows]), "burstgpt").trace
    assert trace.t_ns.tolist() == [0, NANO // 4, 40 * NANO + 1, 999_999_994 * NANO]


# What belongs together, and what failed


def test_requests_that_failed_are_left_out_and_counted(tmp_path: Path) -> None:
    row = "{time},s,1,m,{prompt},{output},0,API log"
    rows = [row.format(time=time, prompt=p, output=o) for time, p, o in ((1, 5, 0), (2, 5, 7), (3, 0, 0), (4, 6, 8))]
    trace, failed = import_trace(write(tmp_path, [BURSTGPT, *rows]), "burstgpt")
    assert failed == 2
    assert trace.t_ns.tolist() == [0, 2 * NANO]
    assert trace.output_tok.tolist() == [7, 8]
    with pytest.raises(TraceError, match="must have a request that was served; all 2 failed"):
        import_trace(write(tmp_path, [BURSTGPT, rows[0], rows[2]]), "burstgpt")


def test_an_invocation_without_an_end_or_an_answer_failed(tmp_path: Path) -> None:
    start, end = "2025-08-01T00:00:00Z", "2025-08-01T00:00:09Z"
    rows = [f"i,f,c,u,n,{start},{e},{it},{ot},{ct},1" for e, it, ot, ct in ((end, 9, 9, ""), ("", 9, 9, 1), (end, 9, "", 1))]
    rows.append(f"i,f,c,u,n,{end},{end},90.0,9,99,1")
    trace, failed = import_trace(write(tmp_path, [CHUTES, *rows]), "chutes")
    assert failed == 2
    assert trace.t_ns.tolist() == [0, 9 * NANO]
    assert trace.prompt_tok.tolist() == [9, 90]
    assert trace.reused_tok.tolist() == [0, 90], "no more is cached than the prompt holds"


def test_sessions_are_numbered_as_they_first_appear(tmp_path: Path) -> None:
    rows = [f"{time},{name},1,m,1,1,2,API log" for time, name in enumerate(["x", "", "y", "x", ""])]
    assert import_trace(write(tmp_path, [BURSTGPT, *rows]), "burstgpt").trace.session.tolist() == [1, 0, 2, 1, 0]
    older = BURSTGPT.replace("Session ID,Elapsed time,", "")
    trace = import_trace(write(tmp_path, [older, "1,m,1,1,2,API log"]), "burstgpt").trace
    assert trace.session.tolist() == [0]


@given(prompts=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=12))
def test_what_is_reused_is_the_longest_prefix_of_any_earlier_prompt(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[list[int]]
) -> None:
    """Prompts of blocks of text; a block's id stands for it and all before it, as Mooncake numbers them."""
    ids: dict[tuple[int, ...], int] = {}
    rows, longest = [], []
    for row, prompt in enumerate(prompts):
        chain = [ids.setdefault(tuple(prompt[: end + 1]), len(ids)) for end in range(len(prompt))]
        rows.append((row, len(prompt) * MOONCAKE_BLOCK_TOK - 12, 1, chain))
        shared = [next((n for n, (a, b) in enumerate(zip(prompt, old, strict=False)) if a != b), min(len(prompt), len(old)))
                  for old in prompts[:row]]  # fmt: skip
        longest.append(min(max(shared, default=0) * MOONCAKE_BLOCK_TOK, rows[-1][1]))
    trace = import_trace(mooncake(tmp_path_factory.getbasetemp(), *rows), "mooncake").trace
    assert trace.reused_tok.tolist() == longest
    assert (trace.prefix > 0).all()


def test_a_prefix_goes_one_block_beyond_what_all_requests_have_in_common(tmp_path: Path) -> None:
    rows = [(row, 5000, 1, blocks) for row, blocks in enumerate([[0, 1, 2], [0, 1, 3], [0, 4], [0], [0, 4, 5]])]
    prefix = import_trace(mooncake(tmp_path, *rows), "mooncake").trace.prefix.tolist()
    assert prefix[0] == prefix[1] != prefix[2] == prefix[4]
    assert len(set(prefix)) == 3


def test_a_request_without_blocks_has_no_prefix(tmp_path: Path) -> None:
    path = write(tmp_path, ['{"timestamp": 0, "input_length": 6, "output_length": 5}'])
    assert import_trace(path, "mooncake").trace.prefix.tolist() == [0]


def test_the_mooncake_trace_reuses_more_than_a_third_of_its_prompts() -> None:
    path = str(published("mooncake_conversation_trace.jsonl"))
    trace, failed = import_trace(path, detect(path))
    assert (len(trace.t_ns), failed) == (12_031, 0)
    assert trace.reused_tok.sum() / trace.prompt_tok.sum() == pytest.approx(0.3736, abs=1e-4)
    assert len(np.unique(trace.t_ns)) > 12_000
