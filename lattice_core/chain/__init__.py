"""The chain: a port, its backends, and typed calls of Lattice's contracts. The rest of the core never imports it."""

import os

os.environ.setdefault("ETH_HASH_BACKEND", "pysha3")  # the default is five times slower, and it is chosen at the first import
