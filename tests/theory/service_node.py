"""One node of `lattice_core.service` behind the same verbs as `BruteNode`, so that one script drives both."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lattice_core import service
from tests.theory.brute_node import DONE, FIRST_TOKEN


@dataclass
class ServiceNode:
    """Node `node` of `state`. `rules` is the module that acts: `lattice_core.service`, or a copy of it."""

    state: service.Service
    node: int = 0
    rules: Any = service
    job: dict[int, int] = field(default_factory=dict)
    events: list[tuple[int, str, int]] = field(default_factory=list)

    @property
    def server(self) -> Any:
        return self.state.server.view(np.recarray)[self.node]

    def submit(self, leg: int, prompt_tok: int, output_tok: int, t_ns: int) -> bool:
        self.run_to(t_ns)
        job = self.rules.submit(self.state.handle, self.node, leg, prompt_tok, output_tok, t_ns)
        if job != service.QUEUE_FULL:
            self.job[leg] = job
        return job != service.QUEUE_FULL

    def cancel(self, leg: int, t_ns: int) -> int:
        """Tokens receipted."""
        self.run_to(t_ns)
        return self.rules.cancel(self.state.handle, self.job.pop(leg), t_ns)

    def fail(self, t_ns: int) -> dict[int, int]:
        """Tokens receipted by leg; the node is empty."""
        self.run_to(t_ns)
        self.job.clear()
        receipted_tok = {}
        while True:
            leg, tokens = self.rules.evict(self.state.handle, self.node, t_ns)
            if leg == service.NONE:
                return receipted_tok
            receipted_tok[leg] = tokens

    def run_to(self, t_ns: int) -> None:
        while (due_ns := self.rules.next_ns(self.state.handle, self.node)) <= t_ns:
            code, leg = self.rules.advance(self.state.handle, self.node, due_ns)
            if code == service.DONE:
                del self.job[leg]
            self.events.append((due_ns, FIRST_TOKEN if code == service.FIRST_TOKEN else DONE, leg))
        self.rules.accrue(self.state.handle, self.node, t_ns)
