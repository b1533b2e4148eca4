"""An engine without a model: it has the methods of the real one, and its answers are sums."""

from threading import Event

from lattice_live.node.engine import Job, Token
from lattice_live.node.sampling import Sampling


class Abacus:
    """An answer grows by one token a step. Unless `gate` is set, no step is taken; the next one raises `fault`."""

    vocabulary = 100
    context = 64
    end: tuple[int, ...] = (7,)
    provider = "CPUExecutionProvider"
    model_hash = "ab" * 32
    memory_bytes = 0

    def __init__(self, slots: int = 2) -> None:
        self.slots = slots
        self.jobs: dict[int, tuple[Job, int]] = {}
        self.submitted: list[int] = []
        self.gate = Event()
        self.gate.set()
        self.fault: Exception | None = None
        self.stuck = False

    @property
    def free_slots(self) -> int:
        return self.slots - len(self.jobs)

    @property
    def in_flight(self) -> int:
        return len(self.jobs)

    def check(self, job: Job) -> None:
        if not job.prompt or job.max_tokens < 1 or len(job.prompt) + job.max_tokens > self.context:
            raise ValueError(f"max_tokens: expected a sum of at most {self.context}, the context")

    def submit(self, job: Job) -> None:
        assert self.free_slots
        self.submitted.append(job.id)
        self.jobs[job.id] = job, 0

    def cancel(self, job: int) -> None:
        if self.stuck:
            raise RuntimeError("the slot is stuck")
        del self.jobs[job]

    def step(self) -> list[Token]:
        self.gate.wait(20)
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        tokens = []
        for number, (job, n) in list(self.jobs.items()):
            tokens.append(self.token(job, n + 1))
            self.jobs[number] = job, n + 1
            if tokens[-1].finish:
                del self.jobs[number]
        return tokens

    def token(self, job: Job, n: int) -> Token:
        token = (sum(job.prompt) + 13 * n) % self.vocabulary
        finish = "stop" if token in self.end else "length" if n == job.max_tokens else None
        if job.sampling.top_logprobs is None:
            return Token(job.id, n, token, finish)
        rivals = range(job.sampling.top_logprobs)
        return Token(job.id, n, token, finish, -1.0, tuple((rival, -1.0 - rival) for rival in rivals))

    def answer(self, prompt: list[int], max_tokens: int) -> list[int]:
        """The whole answer."""
        job, tokens = Job(0, prompt, Sampling(), max_tokens), []
        while not tokens or tokens[-1].finish is None:
            tokens.append(self.token(job, len(tokens) + 1))
        return [token.token for token in tokens]
