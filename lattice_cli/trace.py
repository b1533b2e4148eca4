"""`lattice trace`: bring other people's traces into one format, say what they are like, fit presets to them."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

PICTURES = ("png", "svg", "pdf")
UNKNOWN = "unknown"
FORMATS = ("azure", "mooncake", "burstgpt", "chutes")


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("trace", help="import, describe and fit traces of requests")
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    action = actions.add_parser("import", help="bring a published trace, or a run's requests, into Lattice's format")
    action.add_argument("file", metavar="FILE", help="trace as it was published, or a run directory")
    action.add_argument("--format", choices=FORMATS, help="format of FILE; as its first line shows, if not given")
    action.add_argument("--out", metavar="T.parquet", required=True, help="file to write")
    action.add_argument("--source", default=UNKNOWN, help="where the trace comes from and whom to cite")
    action.add_argument("--licence", default=UNKNOWN, help="its licence")
    action.set_defaults(command=_refusing(_import), refuse=action.error)

    action = actions.add_parser("describe", help="print and draw what a trace is like")
    action.add_argument("trace", metavar="T", help="imported trace, or a CSV file in Azure's format")
    action.add_argument("--out", metavar="PICTURE", type=_picture, help=f"picture to draw, as {', '.join(PICTURES)}")
    action.set_defaults(command=_refusing(_describe))

    action = actions.add_parser("fit", help="fit a preset to a trace, and test it")
    action.add_argument("trace", metavar="T", help="imported trace, or a CSV file in Azure's format")
    action.add_argument("--name", required=True, help="name of the preset")
    action.add_argument("--out", metavar="PRESET.yaml", required=True, help="file to write")
    action.set_defaults(command=_refusing(_fit))


def _picture(path: str) -> str:
    if PurePath(path).suffix.removeprefix(".") not in PICTURES:
        raise argparse.ArgumentTypeError(f"must end in .{', .'.join(PICTURES)}, not {path!r}")
    return path


def _refusing(command: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], int]:
    """The command with a bad trace refused in one line."""

    def run(arguments: argparse.Namespace) -> int:
        from lattice_sim.trace import TraceError

        try:
            command(arguments)
        except TraceError as error:
            print(error, file=sys.stderr)
            return 2
        return 0

    return run


def _import(arguments: argparse.Namespace) -> None:
    from lattice_sim.trace import header, write_trace
    from lattice_sim.trace_import import detect, import_run, import_trace

    source, more = arguments.source, {}
    if Path(arguments.file).is_dir():
        if arguments.format:
            arguments.refuse("--format is a file's; a run directory has one of its own")
        format, run = "run", import_run(arguments.file)
        trace, failed, more = run.trace, run.failed, {"nodes": run.nodes}
        source = run.source if source == UNKNOWN else source
    else:
        format = arguments.format or detect(arguments.file)
        trace, failed = import_trace(arguments.file, format)
    write_trace(arguments.out, trace, source, arguments.licence, **more)
    about = header(trace, source, arguments.licence)
    _print("format", format)
    _print("requests", f"{about.requests:,}")
    _print("failed, left out", f"{failed:,}")
    _print("span", f"{about.span_ns / 1e9:,.1f} s")
    _print("columns", ", ".join(about.columns))
    _print("trace", arguments.out)


def _describe(arguments: argparse.Namespace) -> None:
    from lattice_sim.trace import read_with_header, write
    from lattice_sim.trace_description import describe, lines, picture

    trace, about = read_with_header(arguments.trace)
    if arguments.out is not None:
        write(arguments.out, picture(trace, about, PurePath(arguments.out).suffix.removeprefix(".")))
    for name, value in lines(about, describe(trace)):
        _print(name, value)
    if arguments.out is not None:
        _print("picture", arguments.out)


def _fit(arguments: argparse.Namespace) -> None:
    from lattice_sim.trace import read_with_header, write
    from lattice_sim.trace_fit import fit, text

    fitted = fit(*read_with_header(arguments.trace), arguments.trace)
    write(arguments.out, text(arguments.name, fitted).encode())
    for test in fitted.tests:
        print(f"{'ok  ' if test.passed else 'FAIL'}  {test.what}")
        print(f"      trace {test.trace:g}, preset {test.preset:g}, allowed {test.low:g} to {test.high:g}")
    failed = sum(not test.passed for test in fitted.tests)
    _print("tests", f"{failed} of {len(fitted.tests)} failed" if failed else f"all {len(fitted.tests)} passed")
    _print("preset", arguments.out)


def _print(name: str, value: str) -> None:
    print(f"{name:<32}{value}")
