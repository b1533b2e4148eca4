"""Build the API reference from docstrings: `python docs/reference.py [FOLDER]`, by default into build/reference."""

import pkgutil
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pdoc

ROOT = Path(__file__).parents[1]
PACKAGES = ("lattice_core", "lattice_sim", "lattice_live")


def build(folder: Path, packages: Sequence[str] = PACKAGES) -> None:
    """Write a page for each module, and index.html. What is not understood is a warning."""
    names = list(packages)
    for package in map(import_module, packages):
        offered = getattr(package, "__all__", ())
        for name in offered:  # pdoc sees what a module has; some come only when they are asked for
            setattr(package, name, getattr(package, name))
        if offered:  # what a package offers hides its modules from pdoc
            names += [module.name for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")]
    pdoc.render.configure(docformat="markdown", show_source=False, search=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Error parsing type annotation .* Import of [AMS] failed")  # Mesa's type variables
        pdoc.pdoc(*names, output_directory=folder)


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "reference")
