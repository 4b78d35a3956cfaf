"""The user study: which pairs are drawn, and the page in a real browser."""

import base64
import csv
import io
import json
import math
import re
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from inpaint.highres import SizeRule
from training import evaluate, study

SIDE = 48
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LEVELS = {"dark<model": 40, "middling": 120, "telea": 220}  # what each model paints


class Paint:
    """A filler that paints every hole with one level."""

    rule = SizeRule()
    learned = False

    def __init__(self, level):
        self.level = level

    def __call__(self, pixels, holes):
        return np.full_like(pixels, self.level)


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    """A page of 12 pairs: three combinations of models, four photographs, one hole of a quarter."""
    path = tmp_path_factory.mktemp("study") / "study.html"
    hole = np.zeros((SIDE, SIDE), bool)
    hole[: SIDE // 2, : SIDE // 2] = True
    photographs = {
        f"{n}</script>.png": np.full((SIDE, SIDE, 3), 80 + n, np.uint8) for n in range(4)
    }
    fillers = {name: Paint(level) for name, level in LEVELS.items()}
    assert study.write(photographs, {"20-30": [hole]}, fillers, 12, path) == 12
    return path


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs the dev extra")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, page_path):
    """The page, opened; whatever it tried to load or complained about fails the test."""
    context = browser.new_context(viewport={"width": 1000, "height": 760})
    page = context.new_page()
    wrong = []
    page.on(
        "request", lambda r: r.url.startswith(("file:", "data:", "blob:")) or wrong.append(r.url)
    )
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(page_path.as_uri())
    yield page
    context.close()
    assert not wrong


def data(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="study">(.*?)</script>', text, re.DOTALL)[1])


def level(uri):
    """What was painted into the hole of a picture in the page."""
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
    return round(float(pixels[8:16, 8:16].mean()))


def better(page):
    """The side whose model paints darker, as the page shows it now."""
    levels = [level(page.get_attribute(f"#{side} img", "src")) for side in ("left", "right")]
    return "left" if levels[0] < levels[1] else "right"


def wilson(wins, decided):
    z, share = 1.959964, wins / decided
    middle = share + z * z / (2 * decided)
    reach = z * math.sqrt(share * (1 - share) / decided + z * z / (4 * decided**2))
    return tuple((middle + sign * reach) / (1 + z * z / decided) for sign in (-1, 1))


def rows(page, table):
    text = page.inner_text(f"#{table} tbody").replace("\u00a0", " ")
    return [line.split("\t") for line in text.splitlines()]


def saved(page, button):
    with page.expect_download() as download:
        page.click(button)
    return download.value.suggested_filename, download.value.path().read_text()


def test_every_combination_of_models_is_drawn_equally_often_and_no_pair_twice():
    pairs = study.draw_pairs(["a", "b", "telea"], ["1", "2", "3"], ["x", "y"], 12)
    assert Counter(pair.models for pair in pairs) == {
        ("a", "b"): 4,
        ("a", "telea"): 4,
        ("b", "telea"): 4,
    }
    assert len(set(pairs)) == 12
    assert pairs == study.draw_pairs(["a", "b", "telea"], ["1", "2", "3"], ["x", "y"], 12)


def test_there_are_no_more_pairs_than_combinations_photographs_and_buckets_allow():
    assert len(study.draw_pairs(["a", "b"], ["1", "2"], ["x"], 50)) == 2


def test_classical_models_meet_each_other_only_if_there_are_no_others():
    models = ["a", *evaluate.REFERENCES]
    pairs = study.draw_pairs(models, ["1"], ["x"], 9)
    assert {pair.models for pair in pairs} == {("a", name) for name in evaluate.REFERENCES}
    alone = study.draw_pairs(evaluate.REFERENCES, ["1"], ["x"], 9)
    assert [pair.models for pair in alone] == [tuple(evaluate.REFERENCES)]


def test_the_page_holds_each_picture_once_and_nothing_of_elsewhere(page_path):
    held = data(page_path)
    assert held["models"] == list(LEVELS)
    assert len(held["pictures"]) == 4 * (1 + 3)
    for pair in held["pairs"]:
        assert level(held["pictures"][pair["masked"]]) == 255
        painted = [level(held["pictures"][place]) for place in pair["results"]]
        assert painted == [list(LEVELS.values())[model] for model in pair["models"]]
    assert not re.search(r"https?:|\bsrc=|\bhref=", page_path.read_text(encoding="utf-8"))


def test_pairs_end_where_the_pictures_would_be_too_heavy(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "LARGEST", 100_000)
    noise = np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3), dtype=np.uint8)
    hole = np.zeros((SIDE, SIDE), bool)
    hole[:4] = True
    photographs = {str(number): pixels for number, pixels in enumerate(noise)}
    fillers = {name: Paint(value) for name, value in LEVELS.items()}
    written = study.write(photographs, {"01-10": [hole]}, fillers, 24, tmp_path / "s.html")
    held = data(tmp_path / "s.html")
    assert 0 < written == len(held["pairs"]) < 24
    assert sum(map(len, held["pictures"])) <= 100_000


def test_names_stay_hidden_until_all_pairs_are_judged(page):
    for number in range(12):
        assert page.inner_text("#count") == f"Pair {number + 1} of 12"
        assert not any(name in page.inner_text("main:visible") for name in LEVELS)
        assert level(page.get_attribute("#masked", "src")) == 255
        page.click(f"#{better(page)}")
    assert page.is_hidden("#judge")
    assert page.inner_text("#judged") == "12 of 12 pairs judged"
    low, high = (round(100 * x) for x in wilson(4, 4))
    assert rows(page, "pairs") == [
        ["dark<model", "middling", "4", "0", "0", f"100 % ({low} % to {high} %)"],
        ["dark<model", "telea", "4", "0", "0", f"100 % ({low} % to {high} %)"],
        ["middling", "telea", "4", "0", "0", f"100 % ({low} % to {high} %)"],
    ]
    low, high = (round(100 * x) for x in wilson(4, 8))
    models = rows(page, "models")
    assert [row[0] for row in models] == list(LEVELS)
    assert models[1] == ["middling", "4", "4", "0", f"50 % ({low} % to {high} %)"]


def test_keys_judge_take_back_and_leave_undecided(page):
    page.keyboard.press("Backspace")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#count") == "Pair 2 of 12"
    page.keyboard.press("Backspace")
    assert page.inner_text("#count") == "Pair 1 of 12"
    for _ in range(12):
        page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.id") == "judged"
    assert {tuple(row[2:]) for row in rows(page, "pairs")} == {("0", "0", "4", "none decided")}


def test_judging_can_be_stopped_and_gone_on_with(page):
    assert page.is_disabled("#stop")
    page.keyboard.press({"left": "ArrowLeft", "right": "ArrowRight"}[better(page)])
    page.click("#stop")
    assert page.inner_text("#judged") == "1 of 12 pairs judged"
    (row,) = rows(page, "pairs")
    assert row[2:5] == ["1", "0", "0"]
    page.keyboard.press("ArrowLeft")  # of no pair now
    page.click("#on")
    assert page.inner_text("#count") == "Pair 2 of 12"


def test_the_second_click_of_a_double_one_judges_nothing(page):
    page.dblclick("#left")
    assert page.inner_text("#count") == "Pair 2 of 12"


def test_everything_can_be_reached_and_pressed_with_the_tab_key(page):
    reached = []
    for _ in range(3):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached == ["left", "right", "tie"]  # the others have nothing to do yet
    page.keyboard.press("Enter")
    assert page.inner_text("#count") == "Pair 2 of 12"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "back"
    assert all(page.evaluate("[...document.images].map((image) => image.alt)"))


def test_counts_and_judgements_are_saved_as_csv_and_json(page):
    for number in range(12):
        side = better(page)
        page.click(f"#{side}" if number else "#tie")
    name, text = saved(page, "#csv")
    assert name == "study.csv"
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [(line["model"], line["other"]) for line in lines] == [
        ("dark<model", "middling"),
        ("dark<model", "telea"),
        ("middling", "telea"),
    ]
    assert Counter((line["wins"], line["ties"]) for line in lines) == {("4", "0"): 2, ("3", "1"): 1}
    for line in lines:
        wins = int(line["wins"])
        assert (float(line["low"]), float(line["high"])) == pytest.approx(wilson(wins, wins))
    name, text = saved(page, "#json")
    assert name == "study.json"
    everything = json.loads(text)
    assert [row["wins"] for row in everything["pairs"]] == [int(line["wins"]) for line in lines]
    assert everything["judgements"][0]["winner"] is None
    for judgement in everything["judgements"][1:]:
        assert judgement["winner"] == judgement[judgement["choice"]]
        assert LEVELS[judgement["winner"]] == min(LEVELS[judgement[s]] for s in ("left", "right"))


def test_order_and_sides_are_drawn_anew_for_each_viewer(browser, page_path):
    seen = set()
    page = browser.new_page()
    for _ in range(3):
        page.goto(page_path.as_uri())
        order = page.evaluate("trials.map(({ pair, sides }) => [pair.results, sides])")
        assert sorted(pair for pair, _ in order) == sorted(
            p["results"] for p in data(page_path)["pairs"]
        )
        assert all(sorted(sides) == [0, 1] for _, sides in order)
        seen.add(json.dumps(order))
    page.close()
    assert len(seen) == 3


def test_the_page_fits_a_phone(browser, page_path):
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True)
    page = context.new_page()
    page.goto(page_path.as_uri())
    widths = "[document.documentElement.scrollWidth, innerWidth]"
    wide, room = page.evaluate(widths)
    assert wide <= room
    left, right = page.locator("#left").bounding_box(), page.locator("#right").bounding_box()
    assert left["y"] == right["y"]
    assert min(left["width"], right["width"]) > 150
    assert right["y"] + right["height"] < 740  # both results at one look
    page.tap("#left")
    page.tap("#stop")
    assert page.inner_text("#judged") == "1 of 12 pairs judged"
    wide, room = page.evaluate(widths)
    assert wide <= room
    context.close()
