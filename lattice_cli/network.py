"""The arguments that say which network a command works on."""

import argparse

from lattice_core.config import Config


def add_config(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """`CONFIG` and `--set`."""
    parser.add_argument(
        "config",
        metavar="CONFIG",
        nargs=None if required else "?",
        help="YAML file of a network, or the name of one that ships with lattice",
    )
    parser.add_argument(
        "--set",
        metavar="PATH=VALUE",
        dest="overrides",
        action="append",
        default=[],
        help="replace a value, such as sim.epochs=3 or users.chat.count=500; may be repeated",
    )


def read_config(arguments: argparse.Namespace, *more: str) -> Config:
    """The config that the arguments name, with `more` overrides, and with what it names in turn checked. Raises ConfigError."""
    from lattice_sim import networks

    config = networks.read(arguments.config, [*arguments.overrides, *more])
    networks.check(config, arguments.config)
    return config
