"""A run's report: one self-contained page, pictures first, then tables."""

from collections.abc import Callable, Iterable
from html import escape
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from lattice_core.records import SETUP
from lattice_core.units import DAY_NS, HOUR_NS, MINUTE_NS, NANO
from lattice_sim import metrics, pictures
from lattice_sim.page import figure, number, page, percent, table
from lattice_sim.rundir import COMPLETE, Run


class _Picture(NamedTuple):
    title: str
    draw: Callable[[Run, Figure], None]
    height: float
    caption: Callable[[Run, dict[str, Any]], str]


def report(run: Run) -> str:
    """The page. Nothing in it depends on the machine's clock or on how long the run took."""
    summary = run.summary()
    figures = (
        figure(place, picture.title, pictures.svg(picture.draw, run, picture.height), picture.caption(run, summary))
        for place, picture in enumerate(_PICTURES, 1)
    )
    return page(run.manifest["name"], _subtitle(run), _stopped(run), figures, _tables(run, summary))


def key_figures(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The metrics that one looks at first, as (name, value) for people."""

    def seconds(name: str) -> str:
        quantiles = " / ".join(number(summary[f"{name}_p{of}_s"]) for of in metrics.QUANTILES)
        return f"{quantiles} s ± {percent(error)}" if error else f"{quantiles} s"

    error = summary["quantile_error"]
    return [
        ("requests arrived", f"{summary['arrived']:,}"),
        ("completed", f"{summary['completed']:,} ({percent(summary['completed_share'])})"),
        ("failed", f"{summary['failed']:,} ({percent(summary['failed_share'])})"),
        ("rejected", f"{summary['rejected']:,} ({percent(summary['rejected_share'])})"),
        ("in flight at the end", f"{summary['in_flight']:,}"),
        ("first token, p50 / p95 / p99", seconds("ttft")),
        ("whole answer, p50 / p95 / p99", seconds("latency")),
        ("output tokens per second", number(summary["output_tok_per_s"])),
        ("slots busy, of those on offer", percent(summary["utilisation"])),
        ("probes answered", percent(summary["uptime"])),
        ("fees settled", f"{number(summary['settled_nlai'] / NANO)} LAI"),
        ("Gini of revenue per node", number(summary["revenue_gini"])),
        ("gas per user in a settlement", number(summary["gas_per_user"])),
        ("requests in flight, mean", number(summary["mean_in_flight"])),
    ]


def _subtitle(run: Run) -> str:
    epochs = run.epochs
    length_ns = int((epochs["end_ns"] - epochs["start_ns"]).iloc[0]) if len(epochs) else 0
    parts = [
        f"{run.nodes['node'].nunique():,} nodes",
        f"{len(run.users):,} users",
        f"{len(epochs):,} epochs of {_duration(length_ns)}" if len(epochs) else "no epoch",
        f"seed {run.manifest['seed']}",
        f"config <code>{run.manifest['config_sha256'][:12]}</code>",
    ]
    return " · ".join(parts)


def _stopped(run: Run) -> str:
    if run.status == COMPLETE:
        return ""
    reason = f": {escape(run.manifest['reason'])}" if run.manifest["reason"] else ""
    planned = run.manifest["config"]["sim"]["epochs"]
    return f'<p class="stopped">This run was {run.status} after {len(run.epochs):,} of {planned:,} epochs{reason}.</p>'


def _load_caption(run: Run, summary: dict[str, Any]) -> str:
    return (
        "Requests as they arrive, the slots that nodes have and use, and how long users wait: where busy slots come near those "
        f"on offer, 95th percentiles rise first and rejections follow. n = {summary['arrived']:,} requests{_sampled(run)}."
    )


def _revenue_caption(run: Run, summary: dict[str, Any]) -> str:
    return (
        "What the chain settled for each node, before the split. The further the curve hangs below the diagonal, the less "
        f"equal is the revenue; Gini {number(summary['revenue_gini'])}. n = {run.nodes['node'].nunique():,} nodes, "
        f"{number(summary['settled_nlai'] / NANO)} LAI."
    )


def _reputation_caption(run: Run, summary: dict[str, Any]) -> str:
    audits = int(run.nodes["audits"].sum())
    return (
        "The median node of each population, and the band from the 5th to the 95th percentile. Reliability falls with failures "
        "and unanswered probes within minutes and recovers within hours; quality moves with audits only. "
        f"n = {run.nodes['node'].nunique():,} nodes, {int(run.nodes['probes'].sum()):,} probes, {audits:,} audits."
    )


def _fees_caption(run: Run, summary: dict[str, Any]) -> str:
    return (
        f"Each settled fee is cut for burn, treasury, auditors and delegators in this order, and the operator keeps the rest. "
        f"{percent(summary['faucet_share'])} was paid from faucet credit. n = {len(run.epochs):,} epochs, "
        f"{number(summary['settled_nlai'] / NANO)} LAI."
    )


def _gas_caption(run: Run, summary: dict[str, Any]) -> str:
    founding = run.transactions[run.transactions["epoch"] == SETUP]
    chain = run.manifest["config"]["chain"]
    gwei, usd = chain["gas_price_gwei"], chain["eth_usd"]
    entry_usd = (summary["gas_per_user"] or 0.0) * gwei * 1e-9 * usd
    return (
        "What settling costs the chain, by a model fitted on an EVM: a settlement has a fixed part, so that gas per user falls "
        f"as more users share one. n = {len(run.transactions) - len(founding):,} transactions; founding the network took "
        f"another {len(founding):,} and {founding['gas'].sum() / 1e6:,.1f} million gas. At {gwei:g} gwei and {usd:,.0f} "
        f"dollars for an ether, a user's entry costs {entry_usd:.2g} dollars."
    )


def _outcomes_caption(run: Run, summary: dict[str, Any]) -> str:
    ended = summary["completed"] + summary["failed"] + summary["rejected"]
    return (
        "Left, the share of answers that came within a time; right, why requests got no whole answer, as a share of all. "
        f"n = {ended:,} requests ended{_sampled(run, 'left ')}."
    )


_PICTURES = (
    _Picture("Load and latency over time", pictures.load_and_latency, 7.6, _load_caption),
    _Picture("Revenue per node", pictures.revenue, 3.4, _revenue_caption),
    _Picture("Reputation over time", pictures.reputation, 3.0, _reputation_caption),
    _Picture("Where the fees went", pictures.fees, 3.0, _fees_caption),
    _Picture("Gas", pictures.gas, 3.0, _gas_caption),
    _Picture("How requests ended", pictures.outcomes, 3.2, _outcomes_caption),
)


def _tables(run: Run, summary: dict[str, Any]) -> Iterable[str]:
    yield table("In figures", ("metric", "value"), key_figures(summary))
    every = run.manifest["requests"]["every"]
    of = f", of every {every}th" if every > 1 else ""
    yield table(
        "Users by population",
        (
            "population",
            "users",
            "requests",
            "completed",
            f"first token p50 / p95, s{of}",
            f"whole answer p50 / p95, s{of}",
            "fees, LAI",
        ),
        [
            (
                str(name),
                f"{len(users):,}",
                f"{users['arrived'].sum():,}",
                percent(_share(users["completed"].sum(), users["arrived"].sum())),
                _pair(metrics.ttft_ns(run.requests[run.requests["population"] == name])),
                _pair(metrics.latency_ns(run.requests[run.requests["population"] == name])),
                number(users[[*metrics.CHARGED]].to_numpy().sum() / NANO),
            )
            for name, users in run.users.groupby("population")
        ],
    )
    yield table(
        "Nodes by population",
        ("population", "nodes", "answers", "lost", "probes answered", "revenue, LAI", "per node", "reliability", "quality"),
        [
            (
                str(name),
                f"{rows['node'].nunique():,}",
                f"{rows['legs_done'].sum():,}",
                f"{rows['legs_lost'].sum():,}",
                percent(_share(rows["probes_ok"].sum(), rows["probes"].sum())),
                number(metrics.revenue_nlai(rows).sum() / NANO),
                number(metrics.revenue_nlai(rows).mean() / NANO),
                number(rows.loc[rows["epoch"] == rows["epoch"].max(), "reliability"].mean()),
                number(rows.loc[rows["epoch"] == rows["epoch"].max(), "quality"].mean()),
            )
            for name, rows in run.nodes.groupby("population")
        ],
    )
    measured = run.gas_measured.groupby("operation")["gas_used"].sum()
    yield table(
        "Transactions",
        ("operation", "sent", "reverted", "entries", "gas", "gas each", *(("measured",) if len(measured) else ())),
        [
            (
                str(name),
                f"{len(rows):,}",
                f"{(rows['status'] == 'reverted').sum():,}",
                f"{rows['entries'].sum():,}",
                number(rows["gas"].sum()),
                number(rows["gas"].mean()),
                *((number(measured.get(name)),) if len(measured) else ()),
            )
            for name, rows in run.transactions.groupby("operation")
        ],
    )
    hashes = ("config_sha256", "rules_sha256", "contracts_sha256", "digest")
    rows = [(name.replace("_", " "), f"<code>{run.manifest[name]}</code>") for name in hashes]
    yield table("What ran", ("", ""), rows, marked_up=True)


def _sampled(run: Run, where: str = "") -> str:
    every = run.manifest["requests"]["every"]
    return f", of which {where}every {every}th is drawn" if every > 1 else ""


def _pair(values_ns: Any) -> str:
    median, high = (metrics.quantile(values_ns, percent) for percent in (50, 95))
    return "–" if median is None or high is None else f"{number(median / NANO)} / {number(high / NANO)}"


def _share(part: float, whole: float) -> float | None:
    return float(part) / float(whole) if whole else None


def _duration(ns: int) -> str:
    units = (("d", DAY_NS), ("h", HOUR_NS), ("min", MINUTE_NS), ("s", NANO))
    return next((f"{ns // unit_ns:,} {name}" for name, unit_ns in units if ns and ns % unit_ns == 0), f"{ns / NANO:g} s")
