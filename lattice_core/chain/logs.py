"""What a chain's logs tell through web3, of a simulated chain (`tester.web3_of`) as of any node's."""

from collections import Counter

from web3 import Web3
from web3.types import LogReceipt

from lattice_core.chain.contracts import Network
from lattice_core.chain.contracts.contract import Contract
from lattice_core.settlement import Settlement

_ENTRY_BYTES = 20


def settlements(w3: Web3, network: Network) -> list[Settlement]:
    """Every chunk that the chain has settled, in its order."""
    skipped = Counter(bytes(log["transactionHash"]) for log in _logs(w3, network.users, "UserSkipped"))
    found = []
    for log in _logs(w3, network.tokenomics, "ChunkSettled"):
        topics = [bytes(topic) for topic in log["topics"]]
        event = network.tokenomics.abi.decode_event("ChunkSettled", topics, bytes(log["data"]))
        assert event is not None  # it was asked for by its hash
        users, nodes = (len(event[side]) // _ENTRY_BYTES for side in ("users", "nodes"))
        skips = skipped[bytes(log["transactionHash"])]
        debited = event["purchased"], event["faucet"]
        found.append(Settlement(event["epoch"], event["chunk"], users - skips, skips, nodes, *debited, *event["cuts"]))
    return found


def _logs(w3: Web3, contract: Contract, event: str) -> list[LogReceipt]:
    address = w3.to_checksum_address(contract.address)
    topic = "0x" + contract.abi.events[event].hash.hex()
    return w3.eth.get_logs({"address": address, "topics": [topic], "fromBlock": 0, "toBlock": "latest"})
