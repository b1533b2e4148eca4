"""What a live network does for its users when clients leave, nodes die, epochs end and the Nexus starts again."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

import httpx
import openai
import pytest

from lattice_cli.main import main
from lattice_core.config import ConfigError
from lattice_core.invariants import check
from lattice_core.nexus import Nexus
from lattice_core.service import RECEIPT_TOK
from lattice_core.state import NODE_LOST
from lattice_core.units import NANO
from lattice_live.folder import Folder, FolderError
from lattice_live.gateway import Chat
from lattice_live.network import launched
from lattice_live.node.engine import Engine, Job
from lattice_live.node.sampling import Sampling
from lattice_live.sqlite import Sqlite
from lattice_sim.rundir import load_run
from tests.live.networks import LOCAL, live, local, tiny

HELLO = [{"role": "user", "content": "hello"}]


def answer_tok(engine, seed):
    """How long the answer to HELLO becomes, if 300 tokens are allowed."""
    prompt = tiny().text.chat(Chat(model="tiny", messages=HELLO).turns)
    engine.submit(Job(1, prompt, Sampling(seed=seed), 300))
    tokens = []
    while not (tokens and tokens[-1].finish):
        tokens += engine.step()
    return len(tokens)


ENGINE = Engine(tiny(), slots=1, context=512)
SEED = next(seed for seed in range(100) if answer_tok(ENGINE, seed) == 300)
LONG = {"model": "tiny", "messages": HELLO, "max_tokens": 300, "seed": SEED, "stream": True}
"""Six seconds at the pace of the nodes below, longer than any test listens to it."""


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    with live(local(chain__epoch="1s"), tmp_path_factory.mktemp("gateway") / "run", step_ms=20) as network:
        yield network
    replayed(network.network.folder.path)


def replayed(folder):
    """Recompute every decision that the folder holds."""
    assert main(["replay", str(folder)]) == 0


def wait_until(condition, what):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def events(network, kind):
    """The journal's events of a kind, without their times."""
    return [values for name, _, *values in map(json.loads, network.lines("journal")[1:]) if name == kind]


def commands(network, kind):
    """The decisions of a kind."""
    return [values for _, name, *values in map(json.loads, network.lines("decisions")) if name == kind]


@contextmanager
def begun(network):
    """A long answer of which two pieces have come; the client leaves when the block ends."""
    with network.client().chat.completions.create(**LONG) as stream:
        pieces = iter(stream)
        for _ in range(3):
            next(pieces)
        yield pieces


def at_rest(account):
    return (account["in_flight"], account["held_nlai"], account["faucet_held_nlai"]) == (0, 0, 0)


def test_a_client_that_leaves_mid_stream_pays_for_receipts_only_and_the_rest_is_released(network):
    with begun(network):
        before = network.account()
        assert before["faucet_held_nlai"] > 0
    wait_until(lambda: at_rest(network.account()), "the reservation is still held")
    request, _, _, _, output_tok, fee_nlai, *_ = commands(network, "Status")[-1]
    assert request == events(network, "CancelRequest")[-1][0]
    assert output_tok in (0, *(upto_tok for _, upto_tok in events(network, "Progress")))
    assert (fee_nlai > 0) == (output_tok > 0)
    assert network.account()["failed"] == before["failed"] + 1


def test_a_client_that_leaves_before_the_whole_answer_releases_its_reservation(network):
    body = {**LONG, "stream": False}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{network.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {network.key}"}, timeout=0.3
        )
    wait_until(lambda: at_rest(network.account()), "the reservation is still held")


def test_no_more_than_31_tokens_come_without_a_proof_of_them(network):
    network.client().chat.completions.create(model="tiny", messages=HELLO, max_tokens=60, seed=SEED)
    last, output_tok = events(network, "Complete")[-1]
    receipts = [0, *(upto_tok for leg, upto_tok in events(network, "Progress") if leg == last), output_tok]
    assert all(0 <= after - before < 2 * RECEIPT_TOK for before, after in pairwise(receipts))


def test_each_epoch_settles_on_the_chain(network):
    network.client().chat.completions.create(model="tiny", messages=HELLO, max_tokens=30)

    def settled():
        account = network.account()
        return account["faucet_spent_nlai"] > 0 and account["faucet_debit_nlai"] + account["faucet_unsettled_nlai"] == 0

    wait_until(settled, "nothing is settled")
    account = network.account()
    credit = network.on_chain(lambda bridge: bridge.network.users.account(0))
    assert credit.faucet_nlai == account["granted_nlai"] - account["faucet_spent_nlai"]
    assert credit.purchased_nlai == account["deposited_nlai"] - account["spent_nlai"]
    network.on_chain(lambda bridge: bridge.check_money())


def test_what_users_pay_is_burned_or_owed_or_has_reached_the_operators(network):
    network.client().chat.completions.create(model="tiny", messages=HELLO, max_tokens=30)
    wait_until(lambda: network.account()["faucet_spent_nlai"] > 0, "nothing is settled")

    def where_it_went(bridge):
        chain, node = bridge.network, bridge.network.nodes
        claims, paid = chain.tokenomics.claims(), {node.operator_of(i) for i in range(node.count())}
        reached = sum(chain.token.balance_nlai(operator) for operator in paid)
        assert reached > 0
        assert claims.operators_nlai == 0, "operators claim as soon as they are owed anything"
        burned_nlai = chain.token.burned_wei() // NANO - node.total_burned_nlai()
        escrowed = sum(sum(chain.users.account(user)[:2]) for user in range(chain.users.count()))
        return claims.treasury_nlai + claims.auditors_nlai + reached + burned_nlai, escrowed

    given = network.ask(lambda network: network.driver.nexus.table("accounts"))
    went, escrowed = network.on_chain(where_it_went)
    assert went == int(given["deposited_nlai"].sum() + given["granted_nlai"].sum()) - escrowed > 0


def test_the_kernels_invariants_hold_while_it_serves(network):
    with begun(network):
        network.ask(lambda network: check(network.driver.nexus))


def test_probes_are_answered(network):
    node = network.ask(lambda network: network.driver.nexus.table("nodes")[0])
    assert node["probes"] == node["probes_ok"]


def test_a_nexus_that_was_killed_goes_on_where_its_journal_ends(network, tmp_path):
    with begun(network):
        wait_until(lambda: events(network, "BatchConfirmed"), "nothing is settled")
        copy = shutil.copytree(network.network.folder.path, tmp_path / "copy")  # what a kill would leave
        running = network.account()["in_flight"]
    with live(network.network.config, copy) as again:
        account = again.account()
        assert (running, account["in_flight"]) == (1, 0)
        assert at_rest(account)
        again.key = network.key  # a copy of the folder knows it too
        assert again.client().chat.completions.create(model="tiny", messages=HELLO, max_tokens=5).usage
        wait_until(lambda: again.account()["faucet_debit_nlai"] + again.account()["faucet_unsettled_nlai"] == 0, "not settled")
        credit = again.on_chain(lambda bridge: bridge.network.users.account(0))
        assert credit.faucet_nlai == account["granted_nlai"] - again.account()["faucet_spent_nlai"]
    replayed(copy)
    requests = again.network.history.records.columns("requests")
    assert requests["request"].tolist() == list(range(1, len(requests["request"]) + 1))


def test_a_node_that_dies_is_replaced_by_another_and_without_another_the_answer_ends_with_an_error(tmp_path):
    with live(local(), tmp_path / "run", step_ms=20) as network, ThreadPoolExecutor(1) as other:
        chat, processes = network.client().chat.completions, network.network.processes
        for process in processes:
            os.kill(process.pid, signal.SIGSTOP)  # whichever gets the request says nothing
        answer = other.submit(chat.create, model="tiny", messages=HELLO, max_tokens=5)
        wait_until(lambda: commands(network, "Dispatch"), "the request is not dispatched")
        [[_, leg, node, *_]] = commands(network, "Dispatch")
        os.kill(processes[node].pid, signal.SIGKILL)
        os.kill(processes[1 - node].pid, signal.SIGCONT)
        assert answer.result().usage.completion_tokens > 0
        assert [values[2] for values in commands(network, "Dispatch")] == [node, 1 - node]
        assert events(network, "Fail") == [[leg, NODE_LOST, 0]]
        with begun(network) as pieces:
            os.kill(processes[1 - node].pid, signal.SIGKILL)
            with pytest.raises(openai.APIError) as broken:
                list(pieces)
        assert broken.value.code == "node_lost"
        assert at_rest(network.account())
        assert commands(network, "Status")[-1][4] >= 2, "what the user has is counted, paid for or not"
        with pytest.raises(openai.InternalServerError):
            chat.create(model="tiny", messages=HELLO, max_tokens=5)
        assert at_rest(network.account())
    replayed(tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"live__launch": {"laptop": 3}}, "live.launch.laptop: must be at most 2"),
    ],
)
def test_a_network_without_its_nodes_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        launched(local(**changes))


async def begin(file):
    """What a network that was killed at once leaves."""
    storage = Sqlite(file)
    Nexus(local(), storage.journal)
    await storage.close()


def test_a_folder_of_another_config_a_simulated_run_or_a_folder_in_use_is_refused_and_left_as_it_was(tmp_path, capsys):
    taken = Folder(tmp_path / "taken", local())
    asyncio.run(begin(taken.storage))
    with pytest.raises(FolderError, match="one process at a time"):
        Folder(tmp_path / "taken", local())
    taken.close()
    (tmp_path / "simulated").mkdir()
    (tmp_path / "simulated" / "manifest.json").write_text("{}")
    (tmp_path / "file").write_text("")
    before = sorted((path, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file())
    for folder, words in (
        ("taken", "begun with another config"),
        ("simulated", "must be an empty"),
        ("file", "must be an empty"),
    ):
        arguments = ["up", str(LOCAL), "--set", "live.listen=127.0.0.1:0", "--set", "seed=5", "--out", str(tmp_path / folder)]
        assert main(arguments) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert words in line
    assert sorted((path, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()) == before


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.thorough)])
def test_the_command_says_where_it_listens_and_ends_cleanly_with_a_whole_run(tmp_path, number):
    run = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "lattice_cli.main",
        "up",
        str(LOCAL),
        "--set",
        "live.listen=127.0.0.1:0",
        "--out",
        str(run),
    ]
    ignored = (lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if number == signal.SIGINT else None  # as a background job
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=ignored)
    try:
        first, second = process.stdout.readline(), process.stdout.readline()
        key, url = (
            re.search(r"sk-lattice-[\w-]+", first).group(),
            re.fullmatch(r"listening on (http://127\.0\.0\.1:\d+)\n", second)[1],
        )
        client = openai.OpenAI(api_key=key, base_url=f"{url}/v1", max_retries=0)
        with client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=200, stream=True) as stream:
            next(iter(stream))
            process.send_signal(number)
            assert list(stream)[-1].choices[0].finish_reason
        assert process.wait(60) == 0
        assert process.stdout.read() == ""
    finally:
        process.kill()
        process.communicate()
    assert main(["replay", str(run)]) == 0
    written = load_run(run)
    assert written.manifest["engine"] == "live"
    assert written.requests["outcome"].tolist() == ["completed"]
    assert written.epochs["faucet_nlai"].sum() == written.requests["fee_nlai"].sum() > 0
