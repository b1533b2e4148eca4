"""`lattice view` in a real browser: what a visitor moves is what the page shows."""

import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from lattice_cli.main import main
from lattice_sim import networks, run
from lattice_sim.pictures import BLUE, GREY
from tests.require import require

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

EPOCHS = 4
QUICK = ["--set", "chain.epoch=5m", "--set", f"sim.epochs={EPOCHS}"]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def view() -> Any:
    require(find_spec("solara") is not None, "the extra view")
    import lattice_sim.view

    return lattice_sim.view


@pytest.fixture(scope="module")
def browser(view: Any) -> Iterator[Any]:
    require(CHROMIUM is not None, "chromium")
    require(find_spec("playwright") is not None, "playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        nowhere_else = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
        browser = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", nowhere_else])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def url(browser: Any) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "lattice_cli.main", "view", "local.yaml", "--no-browser", "--port", str(port), *QUICK]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            assert server.stderr.readline().startswith(f"http://127.0.0.1:{port}")
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.send_signal(signal.SIGINT)
            server.stderr.close()


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.elsewhere = []
    page.on("request", lambda asked: page.elsewhere.append(asked.url) if "127.0.0.1" not in asked.url else None)
    page.goto(url)
    page.get_by_text("no epoch yet").wait_for(timeout=120_000)
    yield page
    page.close()


def stepped(page: Any, epoch: int) -> int:
    """Requests an hour that the page tells of the next epoch."""
    page.get_by_role("button", name="Step").click()
    told = page.get_by_text(re.compile(rf"epoch {epoch}: "))
    told.wait_for(timeout=120_000)
    found = re.search(r": ([\d,]+) requests an hour", told.inner_text())
    assert found
    return int(found[1].replace(",", ""))


def drawn(page: Any, colour: str) -> list[float]:
    """Heights above the page's foot, in the charts as they are shown, of the first line of a colour."""
    svg = page.locator("img").last.evaluate("async image => (await fetch(image.src)).text()")
    line = re.search(rf'<path d="([^"]+)"[^>]*stroke: {colour.lower()}[^>]*stroke-linecap: square', svg)
    return [] if line is None else [-float(y) for y in re.findall(r"[ML] \S+ (\S+)", line[1])]


def until(page: Any, condition: Callable[[], bool]) -> None:
    """The picture comes after the text."""
    for _ in range(200):
        if condition():
            return
        page.wait_for_timeout(50)
    raise AssertionError("the page does not come to show it")


def test_a_slider_moves_a_chart_and_nothing_comes_from_elsewhere(page: Any) -> None:
    assert drawn(page, BLUE) == []
    before = [stepped(page, epoch) for epoch in (1, 2)]
    until(page, lambda: len(drawn(page, BLUE)) == 2)
    slider = page.locator(".v-input", has_text="requests a day").get_by_role("slider")
    slider.focus()
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    page.get_by_role("button", name="Reset").click()
    page.get_by_text("no epoch yet").wait_for(timeout=30_000)
    after = [stepped(page, epoch) for epoch in (1, 2)]
    assert sum(after) > 1.2 * sum(before)
    until(page, lambda: len(drawn(page, BLUE)) == len(drawn(page, GREY)) == 2)
    assert all(now > old for now, old in zip(drawn(page, BLUE), drawn(page, GREY), strict=True))
    assert [asked for asked in page.elsewhere if not asked.startswith(("data:", "blob:"))] == []


def test_playing_goes_on_to_the_last_epoch(page: Any) -> None:
    page.get_by_role("button", name="▶").click()
    page.get_by_text(f"epoch {EPOCHS}: ").wait_for(timeout=60_000)
    assert page.get_by_role("button", name="Step").is_disabled()


@pytest.mark.parametrize("name", ["baseline.yaml", "local.yaml"])
def test_every_slider_stands_at_the_configs_own_value_and_moves_to_values_that_it_takes(view: Any, name: str) -> None:
    from lattice_core.config import revise

    config = networks.read(name)
    found = view.sliders(config)
    mine = {path: slider["value"] if isinstance(slider, dict) else slider.value for path, slider in found.items()}
    assert revise(config, mine) == config
    for path, slider in found.items():
        ends = slider["values"] if isinstance(slider, dict) else (slider.min, slider.max)
        for end in ends:
            revise(config, {path: end})


def test_charts_are_of_what_a_run_measured_by_epoch(view: Any) -> None:
    done = run("local.yaml", {"sim.epochs": 3, "chain.epoch": "5m", "chain.backend": "revm"})
    frame = view.by_epoch(done)
    assert frame.index.tolist() == [1, 2, 3]
    assert (frame["arrivals_per_h"] / 12).tolist() == pytest.approx(done.epochs["arrived"].tolist())
    assert frame["settled_lai"].sum() == pytest.approx(done.summary()["settled_nlai"] / 1e9)
    assert 2 * frame["revenue_lai, laptop"].sum() == pytest.approx(done.summary()["settled_nlai"] / 1e9)
    assert frame["revenue_gini"].between(0, 0.5).all()  # of two nodes
    assert {column for chart in view.charts(networks.read("local.yaml")) for column, *_ in chart.lines} == set(frame)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.yaml"], "nowhere.yaml: does not exist"),
        (["local.yaml", "--port", "0"], "--port: must be from 1 to 65535, not 0"),
        (["local.yaml", "--set", "routing.explore=2"], "routing.explore"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_port_in_use_and_a_folder_that_is_no_run_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["view", "local.yaml", "--port", str(port)]) == 2
        assert f"--port {port}: " in capsys.readouterr().err
    assert main(["view", str(tmp_path)]) == 2
    assert "must be a run directory" in capsys.readouterr().err
