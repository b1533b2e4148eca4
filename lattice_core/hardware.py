"""The catalogue of hardware profiles: how fast a kind of machine serves a model.

A decoding step of n sequences takes a + b·n; prompts are read at `prefill_tok_s`, in chunks between steps while others decode
(`service`). A model without weights is known to the simulator by these figures only.

The 70B figures are a roofline. The model has 70.6·10⁹ weights, 80 layers, 8 key-value heads of 128 (Llama 3, Grattafiori et al.
2024), so a sequence of 2,000 tokens has 0.66 GB of 16-bit cache and a token costs 141 GFLOP. At 4.5 bits a weight it takes
39.7 GB. Then, with M the memory's bandwidth, F the dense 16-bit tensor speed, and efficiencies 0.7 and 0.5 (chosen),

    a = 39.7 GB/(0.7·M)      b = 0.66 GB/(0.7·M) + 141 GFLOP/(0.5·F)      r = 0.5·F/141 GFLOP
"""

from dataclasses import dataclass

from lattice_core.units import NANO

MAX_STEP_NS = NANO
"""1 s: the largest a and the largest b."""

MAX_SLOTS = 1_024
"""The most slots of a node: (a + b·slots)·MAX_TOKENS stays below 2⁶³ ns."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Service speed of one node with one model."""

    a_ns: int
    """Time of a decoding step that does not depend on the batch."""
    b_ns: int
    """Time that each sequence of the batch adds to a step."""
    prefill_tok_s: float
    """Prompt tokens read per second while nothing decodes."""
    source: str
    """Where the figures come from."""
    prefill_beside_tok_s: float | None = None
    """Prompt tokens read per second of the time that a chunk adds to a step; as `prefill_tok_s` if None."""
    chunk_tok: int | None = None
    """Prompt tokens that a step takes in; the usual number if None."""

    def output_tok_s(self, slots: int) -> float:
        """Output tokens per second with all of `slots` decoding: slots/(a + b·slots)."""
        return slots * NANO / (self.a_ns + self.b_ns * slots)


CATALOGUE: dict[str, dict[str, Profile]] = {
    "server-gpu": {
        "deepseek-r1-distill-70b": Profile(
            a_ns=27_800_000,
            b_ns=1_360_000,
            prefill_tok_s=1_100.0,
            source="roofline of an NVIDIA A100 80 GB SXM: M = 2,039 GB/s, F = 312 TFLOP/s (NVIDIA data sheet)",
        ),
    },
    "home-gpu": {
        "deepseek-r1-distill-70b": Profile(
            a_ns=56_300_000,
            b_ns=2_640_000,
            prefill_tok_s=585.0,
            source="roofline of two RTX 4090, one half of the layers each: M = 1,008 GB/s, F = 165 TFLOP/s (Ada whitepaper)",
        ),
    },
    "cpu-2-cores": {
        "smollm2-135m": Profile(
            a_ns=7_000_000,
            b_ns=1_450_000,
            prefill_tok_s=1_000.0,
            source="measured: SmolLM2-135M int8 in ONNX Runtime, fitted over batches of 1 to 8",
        ),
    },
}
"""Profiles by hardware and model."""
