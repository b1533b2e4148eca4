"""The report: one page that stands alone, pictures first."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from lattice_core.records import Records
from lattice_sim import networks, pictures, run
from lattice_sim.report import report
from lattice_sim.rundir import Run


class Page(HTMLParser):
    """What a report holds, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def done() -> Run:
    return run(networks.read("local.yaml", ["sim.epochs=2"]))


@pytest.fixture(scope="module")
def text(done: Run) -> str:
    return report(done)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_at_least_five_pictures_come_before_the_first_table(page: Page) -> None:
    assert page.tags[: page.tags.index("table")].count("img") >= 5
    assert page.tags.count("img") == page.tags.count("figcaption")


def test_the_page_needs_no_other_file_and_no_network(page: Page) -> None:
    assert all(link.startswith("data:") for link in page.links)
    assert not {"script", "link", "iframe"} & set(page.tags)


def test_every_picture_is_a_picture_and_every_caption_says_n(page: Page, text: str) -> None:
    for link in page.links:
        root = ElementTree.fromstring(base64.b64decode(link.partition("base64,")[2]))
        assert root.tag.endswith("svg")
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text, re.DOTALL)
    assert all(" n = " in caption for caption in captions)


def test_the_page_is_the_same_each_time_and_tells_neither_time_nor_engine(done: Run, text: str) -> None:
    timed = replace(done, manifest={**done.manifest, "timings": {"epochs_s": 12.3456}, "engine": "another", "cpu": "another"})
    assert report(timed) == text


def test_what_was_measured_of_gas_stands_beside_the_models_if_anything_was(done: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "svg", lambda *_: b"")
    unmeasured, measured = (report(run) for run in (replace(done, gas_measured=done.gas_measured[:0]), done))
    assert "<th>measured</th>" in measured
    assert "<th>measured</th>" not in unmeasured
    assert unmeasured.partition("<h2>Transactions</h2>")[0] == measured.partition("<h2>Transactions</h2>")[0]


def test_a_report_of_a_sample_says_so_wherever_it_is_one_and_counts_all(done: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "svg", lambda *_: b"")
    offset = 1
    kept = done.requests[(done.requests["request"] + offset) % 4 == 0].reset_index(drop=True)
    about = {**done.manifest["requests"], "every": 4, "offset": offset, "kept": len(kept)}
    sampled, whole = report(replace(done, requests=kept, manifest={**done.manifest, "requests": about})), report(done)
    assert sampled.count("every 4th") == 4
    assert sampled.count(" s ± 0.39%") == 2
    assert "every 4th" not in whole
    assert "±" not in whole
    for name, users in done.users.groupby("population"):
        row = f"<td>{name}</td><td>{len(users)}</td><td>{users['arrived'].sum()}</td>"
        assert row in sampled
        assert row in whole


def test_a_run_that_stopped_says_so_and_why(done: Run) -> None:
    stopped = replace(done, manifest={**done.manifest, "status": "failed", "reason": "NotOracle(nexus=<1>)"})
    assert "failed after 2 of 2 epochs: NotOracle(nexus=&lt;1&gt;)" in report(stopped)


def test_a_run_without_an_epoch_has_a_report_too() -> None:
    config = networks.read("baseline.yaml")
    page = Page(report(Run.of(config, Records(config), "interrupted")))
    assert "interrupted after 0 of 24 epochs" in " ".join(page.texts)
    assert page.tags.count("img") >= 5
