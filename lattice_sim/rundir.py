"""A run and its directory: eight tables, a manifest and a report, written whole or not at all.

Two runs of one config write the same bytes, but for `timings` in the manifest.
"""

import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from lattice_core.chain.artifacts import artifact, contracts_hash, names
from lattice_core.config import Config, ConfigError
from lattice_core.journal import rules_hash
from lattice_core.records import TABLES, Records
from lattice_sim import metrics
from lattice_sim.checkpoint import CHECKPOINT

FORMAT = "lattice-run"
VERSION = 3
MANIFEST, REPORT, JOURNAL, DECISIONS = "manifest.json", "report.html", "journal.jsonl", "decisions.jsonl"

COMPLETE, INTERRUPTED, FAILED = "complete", "interrupted", "failed"

PACKAGES = ("lattice", "llvmlite", "matplotlib", "mesa", "numba", "numpy", "pandas", "py-evm", "pyarrow", "pydantic", "simpy")
"""Packages whose version can change a result or a file."""

_SCHEMAS = {
    table: pa.schema([(column, pa.type_for_alias(kind)) for column, kind in columns.items()])
    for table, columns in TABLES.items()
}


@dataclass(frozen=True)
class Run:
    """What a run left behind. The frames hold the columns of `records.TABLES`."""

    manifest: dict[str, Any]
    epochs: pd.DataFrame
    nodes: pd.DataFrame
    users: pd.DataFrame
    requests: pd.DataFrame
    latencies: pd.DataFrame
    settlements: pd.DataFrame
    transactions: pd.DataFrame
    gas_measured: pd.DataFrame

    @classmethod
    def of(
        cls,
        config: Config,
        records: Records,
        status: str,
        reason: str = "",
        beyond_horizon: int | None = None,
        timings: Mapping[str, float] | None = None,
        address_book: bytes | None = None,
        engine: str | None = None,
        branches: Sequence[tuple[int, str]] = (),
    ) -> Self:
        """The run of `config` that left `records`. `beyond_horizon`: requests of traces that would come after its end.

        `address_book`: where on its chain the contracts are to be found; `engine`: what served it, if not what the config
        names; `branches`: where another config had been in force until then, (epochs done, its hash).
        """
        frames = {table: _frame(table, records) for table in TABLES}
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "name": config.name,
            "status": status,
            "reason": reason,
            "seed": config.seed,
            "epochs": records.epochs,
            "requests": {
                "arrived": records.arrived,
                "kept": len(frames["requests"]),
                "every": records.log.every,
                "offset": records.log.offset,
                "reasons": records.reasons,
                "beyond_horizon": beyond_horizon,
            },
            "digest": records.digest.hex(),
            "config_sha256": config.sha256(),
            "rules_sha256": rules_hash(),
            "contracts_sha256": contracts_hash(),
            "contracts": {name: artifact(name).deployed_sha256 for name in names()},
            "engine": engine or config.sim.engine,
            "chain": config.chain.backend,
            "branches": [{"epochs": epochs, "config_sha256": before} for epochs, before in branches],
            "address_book": None if address_book is None else f"0x{address_book.hex()}",
            "python": platform.python_version(),
            "packages": {name: version(name) for name in PACKAGES},
            "cpu": cpu(),
            "config": config.document(),
            "timings": dict(timings or {}),
        }
        return cls(manifest, **frames)

    @property
    def status(self) -> str:
        """`complete`, `interrupted` or `failed`; the manifest's `reason` says why."""
        return str(self.manifest["status"])

    def summary(self) -> dict[str, Any]:
        """Every metric of docs/metrics.md; for `sim.horizon: steady`, of what is behind the warm-up."""
        from lattice_sim import steady

        if steady.is_steady(self):
            return steady.summary(self)
        about = self.manifest["requests"]
        return metrics.summary(
            self.epochs, self.nodes, self.requests, self.latencies, self.transactions, about["reasons"], about["every"]
        )

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write the run directory. Raises ConfigError if `folder` exists, unless `force` replaces a run."""
        with Draft(folder, force=force) as draft:
            self.write(draft.path)
            return draft.publish()

    def write(self, folder: Path) -> None:
        """Write the files of a run directory into a folder; each one is replaced whole."""
        from lattice_sim.report import report

        for table, schema in _SCHEMAS.items():
            with replaced(folder / f"{table}.parquet") as path:
                write_table(pa.Table.from_pandas(getattr(self, table), schema=schema, preserve_index=False), path)
        with replaced(folder / REPORT) as path:
            path.write_text(report(self), encoding="utf-8")
        with replaced(folder / MANIFEST) as path:  # last: a folder with a manifest is a whole run
            path.write_text(json.dumps(self.manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_table(rows: pa.Table, path: Path) -> None:
    """Write a Parquet file; equal rows make equal bytes."""
    parquet.write_table(
        rows.replace_schema_metadata(None),
        path,
        row_group_size=2**17,
        version="2.6",
        compression="zstd",
        compression_level=3,
        store_schema=False,
    )


def load_run(folder: str | Path) -> Run:
    """Read a run directory. Raises ConfigError if it is none."""
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found = manifest["format"], manifest["version"]
        if found != (FORMAT, VERSION):
            raise ConfigError(f"{folder / MANIFEST}: format and version must be {FORMAT} {VERSION}, not {found[0]} {found[1]}")
        return Run(manifest, **{table: parquet.read_table(folder / f"{table}.parquet").to_pandas() for table in TABLES})
    except OSError as error:
        raise ConfigError(f"{folder}: must be a run directory: {error.strerror} ({Path(error.filename or '').name})") from error
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{folder / MANIFEST}: must be a run's manifest") from error


class Draft:
    """A folder in the making beside its place: `publish` moves it there, leaving the `with` block without that removes it."""

    def __init__(self, folder: str | Path, *, force: bool = False) -> None:
        """Raises ConfigError if `folder` exists; `force` allows one that is empty, a run, or only the checkpoint of one."""
        self.folder = Path(folder)
        self.path = self.folder.parent / f".{self.folder.name}.{os.getpid()}.part"
        self._force = force
        self._keeps = False
        self._check()

    def __enter__(self) -> Self:
        try:
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True)
        except OSError as error:
            raise ConfigError(f"{self.folder}: cannot be written: {error.strerror}") from error
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def keep(self, name: str, content: bytes) -> None:
        """Have one file stand in the folder's place until it is published, should this process never come to that."""
        if self._keeps:
            with replaced(self.folder / name) as path:
                path.write_bytes(content)
            return
        alone = self.path / "kept"
        alone.mkdir()
        (alone / name).write_bytes(content)
        self._move(alone)
        self._keeps = self._force = True

    def publish(self) -> Path:
        """Move the folder to its place, out of which an older run goes only now."""
        return self._move(self.path)

    def _move(self, path: Path) -> Path:
        self._check()
        old = self.path.with_suffix(".old")
        if self.folder.exists():
            self.folder.rename(old)
        try:
            path.rename(self.folder)
        except OSError:
            if old.exists():
                old.rename(self.folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
        return self.folder

    def _check(self) -> None:
        if not os.path.lexists(self.folder):
            return
        if not self._force:
            raise ConfigError(f"{self.folder}: exists already; choose another folder or replace it with --force")
        if not self.folder.is_dir() or self.folder.is_symlink() or not (_is_run(self.folder) or not any(self.folder.iterdir())):
            raise ConfigError(f"{self.folder}: is not a simulated run, so that --force does not replace it")


class Journal:
    """The journal of a run in the making, and its decisions; lines after the last `mark` are of no finished epoch, and go."""

    def __init__(self, folder: Path) -> None:
        self._files = [(folder / name).open("wb") for name in (JOURNAL, DECISIONS)]
        self._marks = [0, 0]

    def event(self, line: str) -> None:
        self._files[0].write(line.encode())

    def decision(self, line: str) -> None:
        self._files[1].write(line.encode())

    def mark(self) -> None:
        """An epoch has ended."""
        self._marks = [file.tell() for file in self._files]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file, mark in zip(self._files, self._marks, strict=True):
            file.truncate(mark)
            file.close()


def default_folder(config: Config) -> Path:
    """`runs/<name>-<short hash of the config>`."""
    return Path("runs") / f"{config.name}-{config.sha256()[:8]}"


def _is_run(folder: Path) -> bool:
    """A simulated run or its checkpoint: what a live network leaves, its keys and its journal, cannot be made again."""
    if {path.name.strip(".").removesuffix(".part") for path in folder.iterdir()} == {CHECKPOINT}:
        return True
    try:
        engine: object = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["engine"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return engine != "live"


def _frame(table: str, records: Records) -> pd.DataFrame:
    """A table's frame, in just the types that reading it from its file would give."""
    columns = [
        pa.array(values if values.dtype == object else values.astype(field.type.to_pandas_dtype()), field.type)
        for field, values in zip(_SCHEMAS[table], records.columns(table).values(), strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=_SCHEMAS[table]).to_pandas()


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Another path to write to, which takes the place of `path` if nothing goes wrong."""
    new = path.with_name(f".{path.name}.part")
    try:
        yield new
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


@cache
def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cpu() -> str:
    """The processor's model, on which bit equality is promised."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
