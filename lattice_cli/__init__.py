"""The `lattice` command. Each command is a module with `add(subparsers)`, which names its arguments and its function of them.

Such a function returns the exit code and raises ConfigError for bad input. It imports what is heavy itself, so that
`lattice --help` is quick.
"""
