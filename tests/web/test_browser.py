"""The page in a real browser: Debian's Chromium without a window."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, Route, expect, sync_playwright

from shala_audio.inference.predictor import Predictor
from shala_audio.task import Label, Task
from shala_audio.web import app as module
from shala_audio.web.limits import Limits
from tests.tiny import ASKED_TASK, tiny_model
from tests.web.test_app import wav

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None and os.environ.get("CI"):
    raise RuntimeError("no Chromium: .ci/run installs it")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]


@contextmanager
def serving(*predictors: Predictor) -> Iterator[str]:
    """The address of a page for models."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(module.create_app(predictors, ["127.0.0.1"], limits=Limits(seconds=60)), log_level="error")
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def address(tiny_lm, tiny_encoder):
    with serving(*(Predictor(tiny_model(tiny_lm, encoder), device="cpu") for encoder in (tiny_encoder, None))) as found:
        yield found


@pytest.fixture(scope="module")
def launch():
    """Starts Chromium with more arguments; ends it with the tests."""
    with sync_playwright() as running:
        yield lambda *more: running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *more])


@pytest.fixture(scope="module")
def browser(launch):
    """Without a microphone."""
    with launch() as browser:
        yield browser


@pytest.fixture
def page(browser, address):
    page = browser.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda sent: None if sent.url.startswith((address, "blob:")) else complaints.append(sent.url))
    page.goto(address)
    yield page
    page.close()
    # A refused upload is logged by the browser itself; anything else is ours.
    assert [text for text in complaints if "status of 422" not in text and not text.startswith("data:")] == []


def upload(page: Page, name: str, content: bytes) -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "audio/wav", "buffer": content})  # which is judged at once


def test_upload_shows_bars_entropy_and_no_timeline_of_a_short_clip(page):
    upload(page, "clip.wav", wav(1))
    expect(page.locator("#bars tr")).to_have_count(3)
    cells = page.locator("#bars td:nth-child(2)").all_inner_texts()
    assert sum(float(text.removesuffix(" %").removeprefix("under ")) for text in cells) == pytest.approx(100, abs=3)
    expect(page.locator("#people i")).to_have_count(10)
    expect(page.locator("#headline")).to_contain_text("No speech was found")
    page.click("#reliable summary")
    expect(page.locator("#trust")).to_contain_text("of at most 1.58 bits")
    expect(page.locator("#timeline-part")).to_be_hidden()
    expect(page.locator("#error")).to_be_empty()


def test_a_long_clip_gets_a_timeline_and_can_be_downloaded(page, tmp_path):
    upload(page, "clip.wav", wav(9))
    expect(page.locator("#timeline .moment")).to_have_count(4)
    page.locator("#timeline").click(position={"x": page.locator("#timeline").bounding_box()["width"] / 2, "y": 100})
    expect(page.locator("#playhead")).not_to_have_attribute("x1", "0")
    assert page.evaluate("document.querySelector('#player').currentTime") == pytest.approx(4.5, abs=0.1)
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert sum(found["probs"].values()) == pytest.approx(1)
    assert len(found["timeline"]["moments"]) == 4


def test_a_text(page):
    page.click("#tabs button:has-text('Text')")
    page.click("#predict")
    expect(page.locator("#error")).to_have_text("Write a text.")
    page.fill("textarea[name=comment]", "Oh no, not again. <b>&")
    page.click("#predict")
    expect(page.locator("#bars tr")).to_have_count(3)
    expect(page.locator("#error")).to_be_empty()


def test_a_wrong_file_is_refused_in_words(page):
    upload(page, "clip.wav", b"this is not sound" * 50)
    expect(page.locator("#error")).to_contain_text("not sound")
    expect(page.locator("#result")).to_be_hidden()
    upload(page, "notes.docx", b"this is not sound" * 50)
    expect(page.locator("#error")).to_have_text("This browser cannot read that as sound.")


def test_too_long_a_clip_is_refused_in_words(page):
    upload(page, "clip.wav", wav(63))
    expect(page.locator("#error")).to_contain_text("lasts 63 s; at most 60 s")


def test_sound_needs_no_button(page):
    expect(page.locator("#predict")).to_be_hidden()
    page.click("#tabs button:has-text('Text')")
    expect(page.locator("#predict")).to_be_visible()


@pytest.fixture
def early(browser, address):
    """A page that does not know its tasks yet, and the requests for them that are held."""
    page = browser.new_page()
    held: list[Route] = []
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.route("**/api/tasks", lambda route: held.append(route))
    page.goto(address)
    yield page, held
    page.close()
    assert complaints == []


def test_nothing_can_be_asked_before_the_page_knows_the_tasks(early):
    page, held = early
    expect(page.locator("#predict")).to_be_disabled()
    page.evaluate(
        """() => {
            const files = new DataTransfer();
            files.items.add(new File([""], "clip.wav"));
            document.querySelector("#form").dispatchEvent(new DragEvent("drop", { dataTransfer: files }));
        }"""
    )
    held[0].continue_()
    expect(page.locator("#predict")).to_be_enabled()


def test_recording_without_a_microphone_is_refused_politely(page):
    page.click("#record")
    expect(page.locator("#error")).to_contain_text("Choose a sound file instead.")


def test_recording(launch, address):
    with launch("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream") as browser:
        page = browser.new_page()
        page.goto(address)
        page.click("#record")
        expect(page.locator("#record")).to_contain_text("Stop (0:01)")
        page.click("#record")
        expect(page.locator("#chosen")).to_have_text("recording.wav")
        expect(page.locator("#bars tr")).to_have_count(3)


def test_samples_are_judged_by_one_click(page):
    page.click("#samples button:has-text('contested')")
    expect(page.locator("#chosen")).to_have_text("contested.ogg")
    expect(page.locator("#bars tr")).to_have_count(3)
    assert re.fullmatch(r"(\d of 10 would say \w+, \d \w+|All 10 would say \w+)", page.inner_text("#headline"))
    page.click("#tabs button:has-text('Text')")
    page.click("#samples button:first-of-type")
    expect(page.locator("#bars tr")).to_have_count(3)
    expect(page.locator("textarea")).to_have_value("Oh no, not again.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_cut_off_or_small(launch, address, scheme):
    """390 points wide: no sideways scrolling, and no text below 12 px, in pictures either."""
    with launch() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
        page.goto(address)
        upload(page, "clip.wav", wav(9))
        expect(page.locator("#timeline .moment")).to_have_count(4)
        page.click("#reliable summary")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        sizes = page.evaluate(SIZES)
        assert min(sizes.values()) >= 12, sizes
        contrasts = page.evaluate(CONTRASTS)
        assert min(contrasts.values()) >= 4.5, contrasts


# Of every element with words of its own: their height as shown, and their contrast to what lies behind (WCAG 2.2, 1.4.3).
WORDS = """
const found = {}, words = e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
for (const e of document.querySelectorAll("body *")) {
  const box = e.getBoundingClientRect();
  if (!words(e) || !box.width || box.width < 2 || e.tagName === "TITLE" || e.disabled) continue;
"""
SIZES = (
    "() => {"
    + WORDS
    + """
  const scale = e.ownerSVGElement ? e.ownerSVGElement.clientWidth / e.ownerSVGElement.viewBox.baseVal.width : 1;
  found[e.tagName + " " + e.textContent.trim().slice(0, 30)] = parseFloat(getComputedStyle(e).fontSize) * scale;
} return found; }"""
)
CONTRASTS = (
    "() => {"
    + """
const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
  .map(x => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
  if (c !== "transparent" && !c.endsWith(", 0)")) return c; } return "rgb(255, 255, 255)"; };
"""
    + WORDS
    + """
  const style = getComputedStyle(e), ink = e.ownerSVGElement ? style.fill : style.color;
  const [a, b] = [light(ink), light(behind(e))].sort((x, y) => y - x);
  found[e.tagName + " " + e.textContent.trim().slice(0, 30)] = (a + .05) / (b + .05);
} return found; }"""
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1100])
def test_axe_finds_no_barrier(browser, address, scheme, width):
    """Before an answer, after one with everything opened, and with a text's answer."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto(address)
    axe = Axe()

    def barriers() -> list[str]:
        found = axe.run(page).response
        assert len(found["passes"]) > 10, "the rules were tried"
        return [f"{one['id']}: {node['html'][:120]}" for one in found["violations"] for node in one["nodes"]]

    assert barriers() == []
    upload(page, "clip.wav", wav(9))
    expect(page.locator("#timeline .moment")).to_have_count(4)
    page.click("#reliable summary")
    assert barriers() == []
    page.click("#tabs button:has-text('Text')")
    page.fill("textarea[name=comment]", "Oh no, not again.")
    page.click("#predict")
    expect(page.locator("#timeline-part")).to_be_hidden()
    expect(page.locator("#bars tr")).to_have_count(3)
    assert barriers() == []
    page.close()


def test_a_file_that_is_chosen_before_the_tasks_are_known_is_judged_when_they_are(early):
    """It was an error in the console, and nothing was shown."""
    page, held = early
    upload(page, "clip.wav", wav(1))
    held[0].continue_()
    expect(page.locator("#bars tr")).to_have_count(3)


def test_where_one_may_choose_several_labels_each_has_its_own_share(browser, tiny_lm):
    predictor = Predictor(tiny_model(tiny_lm, task=ASKED_TASK), device="cpu")
    with serving(predictor) as address:
        page = browser.new_page()
        page.goto(address)
        expect(page.locator("#text-input textarea")).to_have_count(1)  # the label is none of the user's
        page.fill("#text-input textarea", "Well done.")
        page.click("#predict")
        expect(page.locator("#bars tr")).to_have_count(3)
        rates = predictor.predict_rates(["Well done."])[0]
        first = max(rates, key=rates.get)
        expect(page.locator("#headline")).to_contain_text(f"{round(10 * rates[first])} of 10 would choose {first}")
        expect(page.locator("#bars tr").first).to_contain_text(first)
        expect(page.locator("#contested-part")).to_be_hidden()
        expect(page.locator("#people")).to_be_hidden()
        assert Axe().run(page).violations_count == 0
        page.close()


def test_the_points_of_a_scale_stand_in_their_order(browser, tiny_lm):
    """They were sorted by their shares, and those beyond the sixth were hidden."""
    points = tuple(Label(str(n), str(n)) for n in range(1, 8))
    task = Task("stars", "text", points, "{{ text.comment }} How many stars?", "Stars:", ordered=True)
    with serving(Predictor(tiny_model(tiny_lm, task=task), device="cpu")) as address:
        page = browser.new_page()
        page.goto(address)
        page.fill("textarea", "So it goes.")
        page.click("#predict")
        expect(page.locator("#bars tr")).to_have_count(7)
        assert page.locator("#bars th").all_inner_texts() == [point.name for point in points]
        expect(page.locator("#all")).to_be_hidden()
        dots = [int(title) for title in page.locator("#people i").evaluate_all("dots => dots.map(dot => dot.title)")]
        assert len(dots) == 10 and dots == sorted(dots)
        page.close()
