"""A study's directory: a manifest, the rows of all replications, and other tables that a kind of study adds.

manifest.json        what was asked of what, by which rules; `status` is complete or interrupted
results.parquet      a row for each replication: point, replication, seed, factors, metrics, status, reason
parts/*.parquet      the same while the study runs, a file for a few replications; readable, and kept by Ctrl-C
lock                 held by the process that makes the study; gone once it is complete
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from lattice_core.chain.artifacts import contracts_hash
from lattice_core.config import ConfigError
from lattice_core.journal import rules_hash
from lattice_sim.rundir import MANIFEST, PACKAGES, replaced, version, write_table
from lattice_sim.study.document import Study
from lattice_sim.study.lock import LOCK, Lock
from lattice_sim.study.task import Row, Task

FORMAT, VERSION = "lattice-study", 1
RESULTS, PARTS = "results.parquet", "parts"
COMPLETE, INTERRUPTED = "complete", "interrupted"

_NOT_ASKED = ("status", "points", "timings")
"""Of the manifest: what says how far the study came, not what was asked."""

_KEY = ["point", "replication"]


class Store:
    """The directory of one study, in the making or done. It is this process's until it is complete or closed."""

    def __init__(self, folder: Path, manifest: dict[str, Any], lock: Lock | None, frame: pd.DataFrame) -> None:
        self.folder = folder
        self.manifest = manifest
        self._lock = lock
        self._frame = frame
        self._parts = len(list((folder / PARTS).glob("*.parquet"))) if (folder / PARTS).is_dir() else 0

    @classmethod
    def open(cls, folder: str | Path, study: Study, *, fresh: bool = False) -> "Store":
        """The directory for `study`: new, or one where the same study was made or begun.

        Raises ConfigError if something else is there, the same made by other rules, or another process at work; with `fresh`,
        a study there is set aside and removed once this one is complete. One that is complete needs no lock.
        """
        folder, asked = Path(folder), _manifest(study)
        there = _there(folder, asked, fresh)
        if there and there["status"] == COMPLETE and not fresh:
            return cls(folder, there, None, load_study(folder))
        lock = Lock(folder)
        try:
            there = _there(folder, asked, fresh)  # another process may just have ended
            if there and not fresh:
                return cls(folder, there, lock, load_study(folder))
            if there:
                _set_aside(folder)
                lock.release()
                lock = Lock(folder)
            store = cls(folder, asked, lock, pd.DataFrame())
            store._write_manifest()
            return store
        except BaseException:
            lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another process make the study. What is here can still be read."""
        if self._lock:
            self._lock.release()

    @property
    def is_complete(self) -> bool:
        return bool(self.manifest["status"] == COMPLETE)

    def frame(self) -> pd.DataFrame:
        """The rows so far, by point and replication."""
        return self._frame.copy()

    def done(self) -> set[tuple[int, int]]:
        """(point, replication) of the rows so far."""
        return set(zip(self._frame["point"], self._frame["replication"], strict=True)) if len(self._frame) else set()

    def plan(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Write down what the points are, before any of them is made."""
        self.manifest["points"] = [dict(point) for point in points]
        self._write_manifest()

    def add(self, ended: Iterable[tuple[Task, Row]]) -> None:
        """Keep rows for good. Raises ConfigError if the disk is full."""
        rows = [{"point": task.point, "replication": task.replication, "seed": task.seed, **row} for task, row in ended]
        frame = pd.DataFrame(rows)
        for number, factor in self._factors().items():
            frame.insert(3 + number, factor[0], [factor[1][point] for point in frame["point"]])
        self._parts += 1
        (self.folder / PARTS).mkdir(exist_ok=True)
        self._write(f"{PARTS}/{self._parts:06}.parquet", _typed(frame, self.metrics))
        self._frame = _sorted(pd.concat([self._frame, frame], ignore_index=True) if len(self._frame) else frame)

    @property
    def metrics(self) -> list[str]:
        return list(self.manifest["metrics"])

    def _factors(self) -> dict[int, tuple[str, list[Any]]]:
        """Each factor's place, path and values by point; values of more than one kind as JSON."""
        points = self.manifest["points"]
        columns: dict[int, tuple[str, list[Any]]] = {}
        for number, path in enumerate(points[0]):
            values = [point[path] for point in points]
            kinds = {type(value) for value in values}
            if kinds <= {int, float}:
                values = values if kinds == {int} else [float(value) for value in values]
            elif kinds not in ({str}, {bool}):
                values = [json.dumps(value) for value in values]
            columns[number] = path, values
        return columns

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """Keep another table, `NAME.parquet`."""
        self._write(f"{name}.parquet", pa.Table.from_pandas(frame, preserve_index=False))

    def note(self, key: str, value: Any) -> None:
        """Keep something else of the study in its manifest."""
        self.manifest[key] = value

    def finish(self) -> None:
        """All replications are made: put the parts together."""
        self._write(RESULTS, _typed(self._frame, self.metrics))
        self.manifest["status"] = COMPLETE
        self._write_manifest()
        shutil.rmtree(self.folder / PARTS, ignore_errors=True)
        shutil.rmtree(_aside(self.folder), ignore_errors=True)
        self.close()

    def _write(self, name: str, table: pa.Table) -> None:
        try:
            with replaced(self.folder / name) as path:
                write_table(table, path)
        except OSError as error:
            raise ConfigError(f"{self.folder / name}: cannot be written: {error.strerror or error}") from error

    def _write_manifest(self) -> None:
        text = json.dumps(self.manifest, indent=2, ensure_ascii=False) + "\n"
        try:
            with replaced(self.folder / MANIFEST) as path:
                path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{self.folder / MANIFEST}: cannot be written: {error.strerror or error}") from error


def load_study(folder: str | Path) -> pd.DataFrame:
    """A row for each replication of a study, also of one that still runs: point, replication, seed, factors, metrics.

    `.attrs["study"]` is what was asked. Raises ConfigError if the folder is none.
    """
    folder = Path(folder)
    manifest = describe(folder)
    paths = [folder / RESULTS] if manifest["status"] == COMPLETE else sorted((folder / PARTS).glob("*.parquet"))
    try:
        parts = [parquet.read_table(path).to_pandas() for path in paths]
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"{folder}: {error}") from error
    frame = _sorted(pd.concat(parts, ignore_index=True)) if parts else pd.DataFrame()
    frame.attrs["study"] = manifest["study"]
    return frame


def describe(folder: str | Path) -> dict[str, Any]:
    """The manifest of a study. Raises ConfigError if the folder is none."""
    path = Path(folder) / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = manifest["format"], manifest["version"]
    except OSError as error:
        raise ConfigError(f"{folder}: must be the folder of a study: {error.strerror} ({MANIFEST})") from error
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: must be a study's manifest") from error
    if found != (FORMAT, VERSION):
        raise ConfigError(f"{path}: format and version must be {FORMAT} {VERSION}, not {found[0]} {found[1]}")
    return manifest


def _there(folder: Path, asked: Mapping[str, Any], fresh: bool) -> dict[str, Any] | None:
    """The manifest of the study in a folder, None of an empty one.

    Raises ConfigError for what is no study and, unless it is to be made afresh, for another study than `asked`.
    """
    if not folder.exists() or (folder.is_dir() and {path.name for path in folder.iterdir()} <= {LOCK}):
        return None
    there = describe(folder)
    differing = [key for key in asked if key not in _NOT_ASKED and asked[key] != there.get(key)]
    if differing and not fresh:
        other = {"study", "base"} & set(differing)
        reason = "another study" if other else f"this study as other code made it: {', '.join(differing)} differ"
        raise ConfigError(f"{folder}: holds {reason}; choose another --out, or replace it with --no-cache")
    return there


def default_folder(study: Study) -> Path:
    """`studies/<name>-<short hash of what is asked>`."""
    from hashlib import sha256

    asked = json.dumps([study.document(), study.base.document()], sort_keys=True)
    return Path("studies") / f"{study.asked.name}-{sha256(asked.encode()).hexdigest()[:8]}"


def _manifest(study: Study) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "kind": study.kind,
        "status": INTERRUPTED,
        "study": study.document(),
        "base": study.base.document(),
        "base_sha256": study.base.sha256(),
        "metrics": list(study.asked.recorded),
        "rules_sha256": rules_hash(),
        "contracts_sha256": contracts_hash(),
        "packages": {name: version(name) for name in (*PACKAGES, "scipy")},
        "points": [],
    }


def _typed(frame: pd.DataFrame, metrics: Sequence[str]) -> pa.Table:
    """Rows as a table whose types do not depend on what the values happen to be."""
    floats = dict.fromkeys(metrics, "float64")
    return pa.Table.from_pandas(frame.astype(floats), preserve_index=False)


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values(_KEY, kind="stable", ignore_index=True)


def _set_aside(folder: Path) -> None:
    if _aside(folder).exists():  # then what is here was to replace it, and was not finished
        shutil.rmtree(folder)
    else:
        folder.rename(_aside(folder))


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")
