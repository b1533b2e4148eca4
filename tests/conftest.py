"""Determinism for every test: Hypothesis profiles, and a compile cache that is never stale and never shared."""

import hashlib
import os
import shutil
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings

ROOT = Path(__file__).parents[1]

settings.register_profile(
    "ci",
    max_examples=50,
    stateful_step_count=40,
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", settings.get_profile("ci"), max_examples=1000, stateful_step_count=100)
settings.register_profile("unshrunk", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def _compile_cache() -> str:
    """A folder for numba's cache, named by the sources it was compiled from.

    Numba sees a change in a function's own file, but none in the files it calls into.
    """
    sources = (path.read_bytes() for path in sorted(ROOT.glob("lattice_*/**/*.py")))
    digest = hashlib.sha256(b"".join(source for source in sources if b"lattice_core.jit" in source)).hexdigest()[:16]
    caches = ROOT / ".pytest_cache" / "numba"
    (caches / digest).mkdir(parents=True, exist_ok=True)
    for old in sorted(caches.iterdir(), key=lambda folder: folder.stat().st_mtime)[:-8]:
        shutil.rmtree(old, ignore_errors=True)
    return str(caches / digest)


if "NUMBA_CACHE_DIR" not in os.environ:
    os.environ["NUMBA_CACHE_DIR"] = _compile_cache()
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # Two processes that fill one cache at once can swap the code of two signatures.
    os.environ["NUMBA_CACHE_DIR"] += f"/{worker}"
