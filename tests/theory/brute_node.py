"""A node as the design states it, in exact fractions and without a virtual clock: each job carries its own remaining work.

Independent of `lattice_core.service`: rates are φ·r and (1 − φ)/(a + b·n) as written, every job is moved on at every event.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

SLACK_NS = Fraction(1, 100)
FIRST_TOKEN, DONE = "first token", "done"


@dataclass(eq=False)
class BruteJob:
    leg: int
    prompt_tok: int
    output_tok: int
    arrival_ns: Fraction
    prompt_left_tok: Fraction
    admitted_ns: Fraction | None = None
    decoding: bool = False
    left_tok: Fraction = Fraction(0)


@dataclass
class BruteNode:
    """One node. `whole_ns`: events are rounded up to whole nanoseconds as the service model does; else time is continuous.

    `events` is the list of (time, FIRST_TOKEN or DONE, leg) so far; the areas are those of jobs that have left.
    """

    a_ns: int
    b_ns: int
    prefill_ns: int
    beside_ns: int
    slots: int
    queue_room: int
    chunk_tok: int
    whole_ns: bool
    now_ns: Fraction = Fraction(0)
    jobs: list[BruteJob] = field(default_factory=list)
    events: list[tuple[Fraction, str, int]] = field(default_factory=list)
    area_system_ns: Fraction = Fraction(0)
    area_busy_ns: Fraction = Fraction(0)

    @property
    def waiting(self) -> list[BruteJob]:
        return [job for job in self.jobs if job.admitted_ns is None]

    @property
    def prefilling(self) -> list[BruteJob]:
        return [job for job in self.jobs if job.admitted_ns is not None and not job.decoding]

    @property
    def decoding(self) -> list[BruteJob]:
        return [job for job in self.jobs if job.decoding]

    def submit(self, leg: int, prompt_tok: int, output_tok: int, t_ns: int) -> bool:
        self.run_to(t_ns)
        if len(self.jobs) == self.slots + self.queue_room:
            return False
        work_tok = Fraction(prompt_tok if self.prefill_ns else 0)
        self.jobs.append(BruteJob(leg, prompt_tok, output_tok, self.now_ns, work_tok))
        self._admit()
        return True

    def cancel(self, leg: int, t_ns: int) -> Fraction:
        """Tokens delivered (a fraction while one is being made)."""
        self.run_to(t_ns)
        (job,) = (job for job in self.jobs if job.leg == leg)
        delivered_tok = self.delivered_tok(job)
        self._leave(job)
        self._admit()
        return delivered_tok

    def fail(self, t_ns: int) -> dict[int, Fraction]:
        """Tokens delivered by leg; the node is empty."""
        self.run_to(t_ns)
        delivered_tok = {job.leg: self.delivered_tok(job) for job in self.jobs}
        for job in list(self.jobs):
            self._leave(job)
        return delivered_tok

    def delivered_tok(self, job: BruteJob) -> Fraction:
        return max(Fraction(0), job.output_tok - max(job.left_tok, Fraction(0))) if job.decoding else Fraction(0)

    def rates(self) -> tuple[Fraction, Fraction]:
        """Tokens per ns of the prompt in prefill, and of each decoding job."""
        n = len(self.decoding)
        queue = self.prefilling
        step_ns = Fraction(self.a_ns + self.b_ns * n)
        if not queue or not queue[0].prompt_tok or not self.prefill_ns:
            return Fraction(0), (1 / step_ns if n else Fraction(0))
        if not n:
            return Fraction(1, self.prefill_ns), Fraction(0)
        r = Fraction(1, self.beside_ns)
        phi = self.chunk_tok / (self.chunk_tok + r * step_ns)
        return phi * r, (1 - phi) / step_ns

    def next_event(self) -> tuple[Fraction, str, BruteJob] | None:
        """When, what and whose: the earliest; a completion before a first token, then by work left, then by submission."""
        prefill_rate, decode_rate = self.rates()
        decoding = sorted(self.decoding, key=lambda job: job.left_tok)
        due = [(self._due_ns(job.left_tok, decode_rate), DONE, job) for job in decoding]
        due += [(self._due_ns(job.prompt_left_tok, prefill_rate), FIRST_TOKEN, job) for job in self.prefilling[:1]]
        return min(due, key=lambda event: event[0], default=None)

    def run_to(self, t_ns: int) -> None:
        while (event := self.next_event()) and event[0] <= t_ns:
            due_ns, what, job = event
            self._flow_to(due_ns)
            self.events.append((due_ns, what, job.leg))
            if what == FIRST_TOKEN:
                job.decoding = True
                job.left_tok = Fraction(job.output_tok - 1)
            else:
                self._leave(job)
                self._admit()
        self._flow_to(Fraction(t_ns))

    def _flow_to(self, t_ns: Fraction) -> None:
        prefill_rate, decode_rate = self.rates()
        dt_ns = t_ns - self.now_ns
        for job in self.prefilling[:1]:
            job.prompt_left_tok -= dt_ns * prefill_rate
        for job in self.decoding:
            job.left_tok -= dt_ns * decode_rate
        self.now_ns = t_ns

    def _due_ns(self, left_tok: Fraction, rate: Fraction) -> Fraction:
        if left_tok <= 0:
            return self.now_ns
        wait_ns = left_tok / rate
        return self.now_ns + (math.ceil(wait_ns - SLACK_NS) if self.whole_ns else wait_ns)

    def _admit(self) -> None:
        for job in self.waiting[: self.slots - len(self.prefilling) - len(self.decoding)]:
            job.admitted_ns = self.now_ns

    def _leave(self, job: BruteJob) -> None:
        self.jobs.remove(job)
        self.area_system_ns += self.now_ns - job.arrival_ns
        if job.admitted_ns is not None:
            self.area_busy_ns += self.now_ns - job.admitted_ns


def step_by_step(
    a_ns: int, b_ns: int, prefill_ns: int, beside_ns: int, slots: int, chunk_tok: int, jobs: Sequence[tuple[int, int]]
) -> tuple[list[int], list[int]]:
    """The batch scheduler itself, token by token, for (prompt_tok, output_tok) jobs that arrive together at t = 0.

    Prompts are whole chunks, at least one. First-token and completion times in ns, by job.
    """
    first_ns, done_ns = [0] * len(jobs), [0] * len(jobs)
    waiting = deque(range(len(jobs)))
    prompts: deque[int] = deque()
    prompt_left_tok = [prompt_tok for prompt_tok, _ in jobs]
    left_tok = [output_tok for _, output_tok in jobs]
    decoding: list[int] = []
    now_ns = 0
    while waiting or prompts or decoding:
        while waiting and len(prompts) + len(decoding) < slots:
            prompts.append(waiting.popleft())
        token_ns = beside_ns if decoding else prefill_ns
        now_ns += (a_ns + b_ns * len(decoding) if decoding else 0) + (chunk_tok * token_ns if prompts else 0)
        for i in decoding:
            left_tok[i] -= 1
        if prompts:
            prompt_left_tok[prompts[0]] -= chunk_tok
            if prompt_left_tok[prompts[0]] == 0:
                i = prompts.popleft()
                first_ns[i] = now_ns
                left_tok[i] -= 1
                decoding.append(i)
        for i in [i for i in decoding if left_tok[i] == 0]:
            decoding.remove(i)
            done_ns[i] = now_ns
    return first_ns, done_ns
