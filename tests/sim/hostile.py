"""A small network where everything goes wrong that can: failures, absence, empty purses, impatience, short deadlines."""

from collections.abc import Mapping
from typing import Any

from lattice_core.config import Config, parse, revise

CONFIG = parse(
    """
version: 1
name: hostile
seed: 3
models:
  chat:
    kind: llm
    context: 4096
    reference: {ttft: 1s, itl: 20ms, prefill_tok_s: 1000, output_tok: 150, price_input: 0.2, price_output: 1}
  code:
    kind: llm
    context: 2048
    reference: {ttft: 1s, itl: 20ms, prefill_tok_s: 1000, output_tok: 150, price_input: 0.2, price_output: 1}
  facts:
    kind: knowledge
    context: 512
    reference: {ttft: 100ms, itl: 1ms, prefill_tok_s: 10000, output_tok: 50, price_input: 0.1, price_output: 0.1}
clusters:
  - name: clinic
nodes:
  - name: server
    count: 3
    models: [chat, code]
    hardware: {a: 20ms, b: 2ms, prefill_tok_s: 2000}
    slots: 4
    queue: 2
    price: {input: 0.2, output: 1.1}
    bond: 500
    failures: {mtbf: 4m, mttr: 1m}
    network_delay: 10ms
  - name: household
    count: 6
    models: [chat]
    hardware: {a: 30ms, b: 3ms, prefill_tok_s: 800}
    slots: 1
    queue: 1
    price: {input: 0.1, output: 0.7}
    bond: 150
    availability: {on: 4m, off: 3m}
    failures: {mtbf: 3m, mttr: 40s}
    network_delay: 40ms
  - name: library
    count: 2
    kind: knowledge
    models: [facts]
    hardware: {a: 1ms, b: 1ms, prefill_tok_s: 20000}
    slots: 2
    price: {input: 0.05, output: 0.1}
    bond: 100
    network_delay: 5ms
  - name: ward
    count: 2
    models: [chat]
    hardware: {a: 20ms, b: 2ms, prefill_tok_s: 1000}
    slots: 2
    queue: 1
    price: {input: 0, output: 0.5}
    bond: 100
    cluster: clinic
    failures: {mtbf: 6m, mttr: 1m}
users:
  - name: crowd
    count: 30
    model: {chat: 3, code: 1}
    workload: {modulated: {requests_per_day: 250000, bursts: [{cv: 1, period: 1m}]}}
    tokens: {prompt: {median: 200, sigma: 1}, output: {median: 150, sigma: 0.8}, max_tokens: 1000}
    budget: {deposit: 0.004, wallet: 0.01, top_up: 0.003, faucet: 0.001}
    patience: {median: 3s, sigma: 1}
    deadline: 20s
    retries: 2
  - name: readers
    count: 3
    model: facts
    workload: {poisson: {requests_per_day: 40000}}
    tokens: {prompt: 50, output: 40, max_tokens: 100}
    budget: {faucet: 1}
    max_fee: 0.0001
  - name: nurses
    count: 3
    model: chat
    workload: {poisson: {requests_per_day: 20000}}
    tokens: {prompt: 100, output: {median: 60, sigma: 0.5}, max_tokens: 300}
    budget: {deposit: 1}
    cluster: clinic
    privacy: local
  - name: doctors
    count: 4
    model: chat
    workload: {poisson: {requests_per_day: 40000}}
    tokens: {prompt: 300, output: {median: 200, sigma: 1}, max_tokens: 2000}
    budget: {deposit: 1}
    cluster: clinic
    privacy: cluster
    deadline: 6s
    retries: 1
routing: {reservation: 12s, newcomer_cap: 2, breaker: {failures: 3}}
reputation: {audit_rate: 0.2, probe_interval: 20s}
chain: {epoch: 4m, chunk_users: 12}
sim: {epochs: 3}
""",
    "hostile.yaml",
)


def hostile(changes: Mapping[str, Any] | None = None) -> Config:
    """The hostile network with other values."""
    return revise(CONFIG, changes or {})
