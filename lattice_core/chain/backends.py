"""Which chain a network runs on."""

from lattice_core.chain.port import Chain
from lattice_core.config import Config, ConfigError

BACKENDS = ("py-evm", "revm", "rpc")


def chain_of(config: Config, history: bool = True) -> Chain:
    """The chain that a config asks for; `history` as in `open_chain`. Raises ConfigError."""
    backend, url = config.chain.backend, config.chain.url
    try:
        return open_chain(backend, url if backend == "rpc" else None, history)
    except (ImportError, ConnectionError, ValueError) as error:
        raise ConfigError(f"{config.name}: chain.backend: {backend} does not serve here: {error}") from error


def open_chain(backend: str, url: str | None = None, history: bool = True) -> Chain:
    """A fresh chain in this process, or the chain of the node at `url` (rpc, and it alone).

    Without `history` py-evm forgets its transactions, and the memory they take.

    Raises ValueError if backend and url do not go together, ImportError if revm is missing, ConnectionLost if the node is away.
    """
    if backend not in BACKENDS:
        raise ValueError(f"chain backend: must be one of {', '.join(BACKENDS)}, not {backend!r}")
    if (backend == "rpc") != (url is not None):
        raise ValueError(f"chain url: rpc needs one and the others take none, but {backend} was given {url!r}")
    if url is not None and not url.startswith(("http://", "https://")):
        raise ValueError(f"chain url: must begin with http:// or https://, unlike {url!r}")
    if url is not None:
        from lattice_core.chain.rpc import Rpc

        return Rpc(url)
    if backend == "revm":
        try:
            from lattice_core.chain.revm import Revm
        except ModuleNotFoundError as error:
            if error.name != "pyrevm":
                raise
            raise ImportError(
                "chain backend revm needs the package pyrevm, which exists for Python 3.12 and older only"
            ) from None
        return Revm()
    from lattice_core.chain.pyevm import PyEvm

    return PyEvm(history=history)
