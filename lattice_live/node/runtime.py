"""ONNX Runtime: exactly one of its two wheels, and the provider that was asked for or an error."""

from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

WHEELS = {"cpu": "onnxruntime", "gpu": "onnxruntime-gpu"}
"""Distribution by extra of this project. Both install one package, `onnxruntime`, each over the other."""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class RuntimeUnusableError(RuntimeError):
    """ONNX Runtime is missing, installed twice, without the provider asked for, or cannot load a graph; one line."""


def wheel() -> str:
    """The wheel that is installed. Raises RuntimeUnusableError unless it is exactly one."""
    found = [name for name in WHEELS.values() if _version(name)]
    if len(found) != 1:
        extras = " or ".join(f"lattice[{extra}] ({name})" for extra, name in WHEELS.items())
        said = "both are installed" if found else "is not installed"
        raise RuntimeUnusableError(f"ONNX Runtime: {said}; install exactly one of {extras}")
    return found[0]


def session(model: Path | bytes, provider: str, threads: int) -> Any:
    """An `onnxruntime.InferenceSession` of the graph `model`, a file or its content, run by `provider`, of PROVIDERS.

    Raises RuntimeUnusableError if that provider would not be the one in use. The `threads` threads wait for each other in a
    loop while the graph runs, which makes small steps a quarter faster, and sleep between runs, which leaves the machine to
    others. Have no more of them, in all sessions together, than there are cores.
    """
    installed = wheel()
    if provider not in PROVIDERS:
        raise RuntimeUnusableError(f"provider: must be {' or '.join(PROVIDERS)}, not {provider!r}")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED  # that of the file, or all weights are floats at once
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if provider == "cuda":
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # CUDA's libraries as PyPI installs them
        if PROVIDERS[provider] not in onnxruntime.get_available_providers():
            raise RuntimeUnusableError(f"provider: cuda is not in {installed}; it is in lattice[gpu] ({WHEELS['gpu']})")
    given, name = (model, "graph") if isinstance(model, bytes) else (str(model), str(model))
    try:
        made = onnxruntime.InferenceSession(given, options, providers=[PROVIDERS[provider]])
    except Exception as error:  # its exceptions have no other base in common
        said = " ".join(str(error).split())[:300]
        raise RuntimeUnusableError(f"{name}: ONNX Runtime cannot load it with {provider}: {said}") from None
    if PROVIDERS[provider] != (used := made.get_providers()[0]):
        raise RuntimeUnusableError(f"provider: must be {provider}, but ONNX Runtime would use {used}; is there such a device?")
    return made


def available_bytes() -> int | None:
    """Memory that this process could still get, of the machine and of its control group; None where that is not known."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no limit, or an older kernel
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return min(found, default=None)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
