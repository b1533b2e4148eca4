"""The chain: a port, its backends, and typed calls of Lattice's contracts. The rest of the core never imports it."""
