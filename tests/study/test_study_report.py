"""The reports of studies: one page that stands alone, pictures first. Their runs are made up."""

import base64
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self
from xml.etree import ElementTree

import numpy as np
import pytest

from lattice_cli.main import main
from lattice_core.config import ConfigError
from lattice_sim import networks
from lattice_sim.study import sensitivity, sweep, tune
from lattice_sim.study.pictures import short, unit
from lattice_sim.study.report import MOST_INCHES, report, write_report
from lattice_sim.study.store import Store
from lattice_sim.study.task import Plan, Row, Task
from tests.sim.test_report import Page
from tests.study.asked import study, written

RANGES: dict[str, Any] = {
    "routing.weights.price": {"from": 0.1, "to": 4, "scale": "log"},
    "routing.weights.latency": {"from": 0, "to": 4},
    "routing.retries": [0, 1, 2, 3],
}
GRID: dict[str, Any] = {"routing.weights.price": [0.5, 1, 2], "routing.retries": [0, 1, 2]}
METRICS = ["charged_nlai", "ttft_p95_s"]
FOUR = [*METRICS, "completed_share", "revenue_gini"]


class MadeUp:
    """Rows by a formula, with noise from the seed; runs with retries 0 fail if they are to."""

    def __init__(self, failing: bool = False) -> None:
        self._failing = failing

    def run(self, plan: Plan, tasks: Sequence[Task]) -> Iterator[tuple[Task, Row]]:
        for task in tasks:
            if self._failing and task.changes.get("routing.retries") == 0:
                yield task, {"status": "failed", "reason": "a settlement <reverted>", **dict.fromkeys(plan.metrics)}
                continue
            price = float(task.changes.get("routing.weights.price", 1))
            latency = float(task.changes.get("routing.weights.latency", 1))
            retries = float(task.changes.get("routing.retries", 2))
            noise = np.random.default_rng([task.seed, task.point]).normal(size=2) + np.random.default_rng(task.seed).normal()
            figures = {
                "charged_nlai": 4e9 / (1 + price) + 2e8 * noise[0],
                "ttft_p95_s": 2 + price * retries / 3 + 4 * math.exp(-latency) + 0.2 * noise[1],
                "completed_share": 0.9 + 0.03 * retries - 0.01 * latency,
                "revenue_gini": 0.5,
            }
            yield task, {"status": "complete", "reason": "", **{metric: figures[metric] for metric in plan.metrics}}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def swept(folder: Path, failing: bool = False, **changes: Any) -> str:
    asked = study(folder, **{"metrics": METRICS, **changes})
    store = Store.open(folder / "out", asked)
    sweep.sweep(asked, store, MadeUp(failing))
    return report(store.folder)


def sensed(folder: Path, method: str) -> str:
    changes = {"method": method, "samples": 32, "factors": RANGES, "replications": 2, "metrics": METRICS}
    asked = study(folder, "sensitivity", **changes)
    store = Store.open(folder / "out", asked)
    sensitivity.sensitivity(asked, store, MadeUp())
    return report(store.folder)


def tuned(folder: Path, **changes: Any) -> str:
    said: dict[str, Any] = {
        "factors": RANGES,
        "objectives": [{"minimise": "ttft_p95_s"}, {"minimise": "charged_nlai"}],
        "constraints": [{"completed_share": {"least": 0.92}}],
        "defaults_sha256": networks.read("local.yaml").sha256()[:8],
        "trials": 24,
        "metrics": None,
        "scenarios": [{"name": "usual"}, {"name": "busy"}],
        "held_out": {"seeds": 6},
        "sampler": "random",
    }
    asked = study(folder, "tune", **said | changes)
    store = Store.open(folder / "out", asked)
    tune.tune(asked, store, MadeUp())
    return report(store.folder)


PAGES = {
    "grid of one factor": lambda folder: swept(folder),
    "grid of two factors": lambda folder: swept(folder, factors=GRID, replications=5, metrics=FOUR),
    "space": lambda folder: swept(folder, factors=RANGES, design={"sobol": 32}),
    "morris": lambda folder: sensed(folder, "morris"),
    "sobol": lambda folder: sensed(folder, "sobol"),
    "tune": tuned,
}


@pytest.fixture(scope="module", params=PAGES)
def text(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return PAGES[request.param](tmp_path_factory.mktemp("study"))


def test_a_page_stands_alone_and_its_pictures_come_before_its_tables(text: str) -> None:
    page = Page(text)
    assert all(link.startswith("data:") for link in page.links)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert page.tags[: page.tags.index("table")].count("img") == page.tags.count("img") >= 1
    for link in page.links:
        assert ElementTree.fromstring(base64.b64decode(link.partition("base64,")[2])).tag.endswith("svg")


def test_the_question_stands_over_the_pictures_and_every_caption_says_n(text: str) -> None:
    assert "What does a heavier price buy?" in text.partition("<figure>")[0]
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text, re.DOTALL)
    assert len(captions) == text.count("<figure>")
    assert all(" n = " in caption for caption in captions)


def test_a_page_of_the_same_study_is_the_same(tmp_path: Path) -> None:
    first, second = (tmp_path / name for name in ("first", "second"))
    for folder in (first, second):
        folder.mkdir()
    assert swept(first) == swept(second)


def test_every_point_has_a_row_for_each_metric_and_all_but_the_first_a_difference(tmp_path: Path) -> None:
    text = swept(tmp_path, replications=8)
    assert "n = 8 pairs in each of 2 differences" in text
    rows = re.findall(r"<tr><td>(0.5|2)</td>(.*?)</tr>", text)
    assert [price for price, _ in rows] == ["0.5", "2"] * len(METRICS)
    assert all(row.endswith("<td>8</td>") for _, row in rows)
    assert [row.count("<td>–</td>") for _, row in rows] == [3, 0] * len(METRICS)


def test_a_page_of_points_in_space_has_their_means_and_how_sure_each_rank_correlation_is(tmp_path: Path) -> None:
    text = swept(tmp_path, factors=RANGES, design={"sobol": 64}, replications=3)
    assert "<th>p (Holm, of 6)</th>" in text
    price = "<td>charged, LAI</td><td>price</td>"
    (rho, interval, p), *_ = re.findall(rf"{price}<td>(.*?)</td><td>(.*?)</td><td>(.*?)</td><td>64</td>", text)
    low, high = map(float, interval.split(" to "))
    assert -1 <= low <= float(rho) <= high < 0
    assert float(p) < 0.05
    assert "Mean of each point over 3 replications: the first 48 of 64" in text
    assert len(re.findall(r"<td>[\d.]+ ± [\d.]+</td><td>[\d.]+ ± [\d.]+</td></tr>", text)) == 48


def test_one_replication_and_failed_runs_are_said_at_the_top(tmp_path: Path) -> None:
    head = swept(tmp_path, failing=True, factors=GRID, replications=1).partition("<figure>")[0]
    assert "One replication" in head
    assert "3 of 9 runs failed and are left out; point 0: failed: a settlement &lt;reverted&gt;" in head


def test_a_tuning_study_without_a_front_says_so(tmp_path: Path) -> None:
    text = tuned(tmp_path, constraints=[{"completed_share": {"least": 2}}])
    assert "No trial keeps every constraint" in text.partition("<figure>")[0]
    assert "Tuned against defaults" not in text


def test_no_picture_names_a_metric_as_the_tables_columns_do(text: str) -> None:
    drawn = b"".join(base64.b64decode(link.partition("base64,")[2]) for link in Page(text).links).decode()
    assert any(unit(metric).label in drawn for metric in METRICS)  # as a comment beside its outlines
    assert not any(metric in drawn for metric in METRICS)


def test_every_picture_fits_on_a_printed_page(text: str) -> None:
    for link in Page(text).links:
        picture = ElementTree.fromstring(base64.b64decode(link.partition("base64,")[2]))
        assert float(picture.attrib["height"].removesuffix("pt")) <= 72 * MOST_INCHES


def test_pictures_of_more_metrics_than_fit_on_a_page_are_in_parts_and_a_legend_is_in_each(tmp_path: Path) -> None:
    text = swept(tmp_path, factors=GRID, replications=5, metrics=FOUR)
    first, second, other, *_ = [base64.b64decode(link.partition("base64,")[2]).decode() for link in Page(text).links]
    assert "<strong>1. Each metric over each factor, 1 of 2.</strong>" in text
    assert "<strong>2. Each metric over each factor, 2 of 2.</strong> As before, of other metrics. n = 5" in text
    for metric in FOUR:
        assert (unit(metric).label in first) != (unit(metric).label in second)
    assert "retries 1" in first
    assert "retries 1" in second
    assert all(unit(metric).label in other for metric in FOUR)


def test_a_study_that_was_not_finished_has_no_report_yet(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "out", study(tmp_path))
    with pytest.raises(ConfigError, match=r"out: must be complete for a report"):
        write_report(store.folder)


def test_the_command_leaves_the_page_and_writes_it_again_if_it_is_gone(tmp_path: Path) -> None:
    command = ["sweep", str(written(tmp_path)), "--executor", "inprocess", "--out", str(tmp_path / "out")]
    page = tmp_path / "out" / "report.html"
    assert main(command) == 0
    text = page.read_text()
    page.unlink()
    assert main(command) == 0
    assert page.read_text() == text


def test_factors_go_by_the_shortest_name_that_tells_them_apart() -> None:
    named = short(["routing.weights.price", "users.a.price", "routing.retries"])
    assert list(named.values()) == ["weights.price", "a.price", "retries"]
    assert short(["price", "weights.price"]) == {"price": "price", "weights.price": "weights.price"}


@pytest.mark.parametrize(
    ("metric", "label"),
    [("ttft_p95_s", "ttft p95, s"), ("charged_nlai", "charged, LAI"), ("output_tok_per_s", "output tok per s")],
)
def test_a_metric_is_shown_with_its_unit(metric: str, label: str) -> None:
    assert unit(metric).label == label
