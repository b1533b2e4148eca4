"""`lattice model`: fetch, list, check and delete models that nodes can serve, and convert GGUF files."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lattice_live.models import VARIANTS, ModelError
from lattice_live.models.catalogue import CATALOGUE


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("model", help="pull, list, verify, remove and convert models")
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    action = actions.add_parser("pull", help="fetch a model into the cache and convert it")
    action.add_argument("name", metavar="NAME", help=f"one of {', '.join(CATALOGUE)}")
    _add_variant(action)
    action.set_defaults(command=_refusing(_pull))

    action = actions.add_parser("list", help="print what is in the cache")
    action.set_defaults(command=_refusing(_list))

    action = actions.add_parser("verify", help="read a cached model's files and compare their hashes")
    action.add_argument("name", metavar="NAME", help="a model in the cache")
    action.set_defaults(command=_refusing(_verify))

    action = actions.add_parser("remove", help="delete a model from the cache, in all its variants")
    action.add_argument("name", metavar="NAME", help="a model in the cache")
    action.set_defaults(command=_refusing(_remove))

    action = actions.add_parser("convert", help="make a model folder of a GGUF file")
    action.add_argument("file", metavar="FILE.gguf", type=Path, help="a model of the llama or qwen2 architecture")
    action.add_argument("folder", metavar="DIR", type=Path, help="folder to write; must be new or empty")
    _add_variant(action)
    action.set_defaults(command=_refusing(_convert))


def _add_variant(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--variant", choices=VARIANTS, default="int8", help="precision (default: int8; fp16 is for GPUs)")


def _refusing(command: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """The command with a bad model refused in one line."""

    def run(arguments: argparse.Namespace) -> int:
        try:
            return command(arguments)
        except ModelError as error:
            print(error, file=sys.stderr)
            return 2

    return run


def _pull(arguments: argparse.Namespace) -> int:
    from lattice_live.models import store

    folder = store.resolve(arguments.name, arguments.variant, progress_bar(arguments.name))
    print(f"{arguments.name} {arguments.variant}  {folder.manifest.model_hash}  {folder.path}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from lattice_live.models import store
    from lattice_live.models.folder import ModelFolder

    code = 0
    for model in store.installed():
        try:
            folder = ModelFolder.open(model.path)
        except ModelError as error:
            print(error, file=sys.stderr)
            code = 1
            continue
        m = folder.manifest
        print(f"{model.name:<24}{model.variant:<6}{folder.size_bytes / 1e6:>10,.1f} MB  {m.licence:<14}{m.model_hash}")
    return code


def _verify(arguments: argparse.Namespace) -> int:
    from lattice_live.models import store

    code = 0
    for what, wrong in store.verify(arguments.name):
        print(f"{'ok  ' if wrong is None else 'FAIL'}  {what}" + (f"\n      {wrong}" if wrong else ""))
        code |= wrong is not None
    return code


def _remove(arguments: argparse.Namespace) -> int:
    from lattice_live.models import store

    store.remove(arguments.name)
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from lattice_live.models.convert import convert

    folder = convert(arguments.file, arguments.folder, arguments.variant)
    print(f"{folder.manifest.name} {arguments.variant}  {folder.manifest.model_hash}  {folder.path}")
    return 0


def progress_bar(name: str) -> Callable[[str, int, int], None]:
    """What tells a terminal, in one line, how far the pull of model `name` is; other files get a line for each stage."""
    terminal = sys.stderr.isatty()

    def show(stage: str, done: int, total: int) -> None:
        if terminal:
            filled = 30 * done // total
            line = f"\r{name}: {stage:<9}[{'=' * filled:<30}] {done / 1e6:,.1f} of {total / 1e6:,.1f} MB"
            print(line, end="\n" if done == total else "", file=sys.stderr, flush=True)
        elif done == total:
            print(f"{name}: {stage}: {total / 1e6:,.1f} MB", file=sys.stderr)

    return show
