"""The page as a browser shows it: headless Chromium, where there is one."""

import json
import math

import pytest
from browser import PROGRAM, Browser
from test_page import run

from realuid_lightning.reporting import read_runs, write_page

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs chromium")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name in ("<script>alert(1)<|script>", "a" * 200):
        run(folder / name, steps=(10, 20, 30), samplers=("raw", "ema_0.9", "ema_0.999"))
        rows = "".join(f"{step},{math.exp(-step / 9)}\n" for step in range(30))
        (folder / name / "metrics.csv").write_text(f"step,train/loss\n{rows}")
        (folder / name / "times.jsonl").write_text(json.dumps({"step": 1, "bins": [0.25, 0.75], "gap": [1, 2]}))
        (folder / name / "config.yaml").write_text(f"long: {'x' * 500}\n")
        (folder / name / "fits.json").write_text(json.dumps([{"command": ["realuid", "x" * 300], "to_step": 3}]))
    write_page(read_runs([folder]), folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser():
    with Browser() as opened:
        yield opened


SIZES = [(390, 844, "light"), (390, 844, "dark"), (1400, 900, "light"), (1400, 900, "dark")]


@pytest.mark.parametrize(("width", "height", "scheme"), SIZES)
def test_it_fits_the_window_says_nothing_and_asks_for_nothing(browser, file, width, height, scheme):
    browser.open(file, width, height, scheme)
    assert not browser.told("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    asked = [each["request"]["url"] for each in browser.told("Network.requestWillBeSent")]
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert sum(url.startswith("file") for url in asked) == 1
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.ask("document.title").startswith("<script>")
    back, text = browser.ask("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    assert contrast(back, text) > 7
    assert (luminance(back) < 0.1) == (scheme == "dark")


def luminance(colour):
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(*colours):
    dark, light = sorted(map(luminance, colours))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_curves_and_small_text_stand_out(browser, file, scheme):
    browser.open(file, scheme=scheme)
    names = ["--card", "--faint", *(f"--c{number}" for number in range(8))]
    script = """(name) => { const part = document.createElement("i"); part.style.color = `var(${name})`;
    document.body.append(part); const colour = getComputedStyle(part).color; part.remove(); return colour; }"""
    card, faint, *curves = browser.ask(f"{json.dumps(names)}.map({script})")
    assert contrast(card, faint) > 4.5
    assert all(contrast(card, colour) > 3 for colour in curves)


def test_the_slider_shows_the_pictures_of_its_step(browser, file):
    browser.open(file)
    shown = """[...document.querySelector("[data-steps]").querySelectorAll("img")]
    .filter(image => image.offsetWidth > 0).map(image => image.dataset.at)"""
    assert browser.ask(shown) == ["2"] * 3
    slider = """const slider = document.querySelector("[data-steps] input"); slider.focus();"""
    browser.ask(slider)
    browser.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowLeft", code="ArrowLeft", windowsVirtualKeyCode=37)
    assert browser.ask(shown) == ["1"] * 3
    assert browser.ask('document.querySelector("[data-steps] output").textContent') == "step 20"
    assert browser.ask('document.querySelector("[data-steps] input").getAttribute("aria-valuetext")') == "step 20"


def test_a_legend_hides_and_shows_a_curve_in_all_figures_of_its_section(browser, file):
    browser.open(file)
    shown = 'document.querySelectorAll(".curves svg g[data-line]:not(.hidden)").length'
    whole = browser.ask(shown)
    browser.ask('document.querySelector(".legend button").click()')
    assert browser.ask(shown) == whole - 1
    assert browser.ask('document.querySelector(".legend button").getAttribute("aria-pressed")') == "false"
    browser.ask('document.querySelector(".legend button").click()')
    assert browser.ask(shown) == whole


def test_every_figure_and_picture_has_a_name(browser, file):
    browser.open(file)
    assert browser.ask('[...document.querySelectorAll("svg[role=img]")].every(each => each.ariaLabel)')
    assert browser.ask("[...document.images].every(each => each.alt && each.naturalWidth > 0)")
    assert browser.ask('document.querySelectorAll("main section h2").length') == 7
