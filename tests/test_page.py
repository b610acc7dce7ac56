"""The web page in a browser."""

import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("flask", reason="the web page needs: pip install -r requirements-demo.txt")

from demo.server import MAX_UPLOAD, create_app
from denoising_diffusion_pytorch.predictor import Predictor
from tests.conftest import save_grey

SCREEN = {"viewport": {"width": 1280, "height": 720}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
TOWN = (Path(__file__).parents[1] / "examples" / "town.geojson").read_bytes()


class Visit:
    """The page in a headless Chromium."""

    def __init__(self, page, expect):
        self.page, self.expect = page, expect

    def answered(self, text="^Model"):
        self.page.wait_for_timeout(250)  # requests wait for further changes
        self.expect(self.page.locator("#status")).to_have_text(re.compile(text))

    def at(self, x, y, canvas="city"):
        box = self.page.locator(f"#{canvas}").bounding_box()
        return box["x"] + (x + 0.5) / 256 * box["width"], box["y"] + (y + 0.5) / 256 * box["height"]

    def click(self, x, y):
        self.page.mouse.click(*self.at(x, y))

    def drag(self, start, end):
        self.page.mouse.move(*self.at(*start))
        self.page.mouse.down()
        self.page.mouse.move(*self.at(*end), steps=4)
        self.page.mouse.up()

    def value(self, x, y, layer="model"):
        """Path gain, or another layer, and received power, once the maps are there."""
        self.answered()
        self.page.mouse.move(*self.at(x, y))
        found = re.search(layer + r" (\S+) dB.*received (\S+) dBm", self.page.inner_text("#readout"))
        return [*map(float, found.groups())]

    def upload(self, content, name, note):
        self.page.set_input_files("#upload", {"name": name, "mimeType": "", "buffer": content})
        self.expect(self.page.locator("#note")).to_contain_text(note)

    def download(self, layer, kind, path):
        self.page.select_option("#layer", layer)
        with self.page.expect_download() as download:
            self.page.click(f"[data-file={kind}]")
        download.value.save_as(path)
        return path


@pytest.fixture(scope="module")
def app():
    return create_app(Predictor())


@pytest.fixture
def visit(app, request):
    """A visit; parametrised by what describes the browser."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the browser test needs: pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("the browser test needs Chromium (apt install chromium)")
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_context(**getattr(request, "param", SCREEN)).new_page()
            page.set_default_timeout(60_000)
            sync_api.expect.set_options(timeout=60_000)
            problems = []
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.goto(f"http://127.0.0.1:{server.server_port}")
            visit = Visit(page, sync_api.expect)
            visit.answered()  # a random city to begin with
            yield visit
            assert not problems
            browser.close()
    finally:
        server.shutdown()
        thread.join()


def test_draw_place_measure_and_download(visit, tmp_path):
    page = visit.page
    page.click("#clear")
    page.click("[data-tool=build]")
    visit.drag((100, 60), (100, 180))
    page.click("[data-tool=place]")
    visit.click(100, 100)
    assert "Click outside the buildings" in page.inner_text("#status")
    visit.click(40, 120)
    shadow, _ = visit.value(140, 120)
    seen, received = visit.value(60, 120)
    assert seen > shadow + 10 and received == pytest.approx(seen + 23, abs=0.11)
    page.mouse.move(*visit.at(100, 120))
    assert page.inner_text("#readout") == "(100, 120) building"
    assert np.load(visit.download("model", "npy", tmp_path / "a.npy"))[120, 60] == pytest.approx(seen, abs=0.06)
    page.click("[data-tool=measure]")
    for value, said in (
        (20, "-3 is not a path gain"),
        (seen - 15 + 23, "^Model.*measured values: 1"),
    ):  # received power
        visit.click(60, 120)
        page.click("#forget")
        visit.click(60, 120)
        page.fill("#measured", str(value))
        page.keyboard.press("Enter")
        visit.answered(said)
    assert abs(visit.value(60, 120)[0] - seen + 15) < 4  # the map follows it
    page.click("[data-tool=place]")
    visit.click(200, 200)
    visit.answered("transmitters: 2")
    assert visit.value(200, 200)[0] > -55 and page.locator("#shown").input_value() == "2"
    visit.drag((201, 200), (151, 220))
    assert visit.value(151, 220)[0] > -55 > visit.value(200, 200)[0]
    page.mouse.dblclick(*visit.at(151, 220))
    visit.answered("transmitters: 1")
    page.click("#undo")
    visit.answered("transmitters: 2")
    visit.download("city", "png", tmp_path / "city.png")
    assert np.asarray(Image.open(tmp_path / "city.png").convert("L"))[120, 95:107].all()


def test_cars_are_drawn_moved_and_removed(visit, tmp_path):
    page, loss = visit.page, visit.page.locator("#figure-car_loss")
    page.click("#clear")
    visit.click(40, 120)
    page.click("[data-tool=car]")
    visit.drag((100, 120), (100, 140))  # points down
    visit.expect(loss).to_be_visible()
    assert visit.value(160, 120, "car loss")[0] > 2 and visit.value(160, 60, "car loss")[0] == 0
    assert page.evaluate("cars") == [{"x": 100, "y": 120, "degrees": 90}]
    visit.drag((101, 120), (101, 60))
    assert visit.value(160, 120, "car loss")[0] == 0
    page.click("#undo")
    assert visit.value(160, 120, "car loss")[0] > 2
    visit.click(100, 120)  # turns it
    visit.answered()
    assert page.evaluate("cars") == [{"x": 100, "y": 120, "degrees": 120}]
    assert np.load(visit.download("car_loss", "npy", tmp_path / "loss.npy")).max() > 2
    page.mouse.dblclick(*visit.at(100, 120))
    visit.expect(loss).to_be_hidden()
    visit.click(41, 121)
    visit.answered("transmitter 40,120: is inside a car")
    page.click("[data-tool=erase]")
    visit.click(45, 125)
    visit.answered()
    page.click("#cars")
    visit.expect(loss).to_be_visible()
    assert page.evaluate("cars.length") > 50
    page.click("#clear-cars")
    visit.expect(loss).to_be_hidden()


def test_uploads(visit, tmp_path):
    """A large city in its own coordinates; one in black on white; what is no city."""
    page = visit.page
    visit.upload(TOWN, "town.geojson", "256 m × 256 m of it are in view")
    visit.answered("Click in the city to place a transmitter")
    box = page.locator("#overview").bounding_box()
    page.mouse.click(box["x"] + 2, box["y"] + 2)  # the north-western corner
    visit.click(5, 5)
    visit.answered()
    page.mouse.move(*visit.at(0, 0))
    assert page.inner_text("#readout").startswith("(9.999855, 50.000094) transmitter 1: model")
    tif = Image.open(visit.download("model", "tif", tmp_path / "a.tif"))
    assert tif.tag_v2[33922][3:5] == pytest.approx((9.999848, 50.000099), abs=1e-6)
    visit.upload(bytes(MAX_UPLOAD + 1), "huge.geojson", "at most 8 MiB can be sent")
    city = np.full((256, 256), 255, np.uint8)
    city[100:140, 60:120] = 0
    save_grey(tmp_path / "black.png", city)
    visit.upload((tmp_path / "black.png").read_bytes(), "black.png", "Mostly built: are buildings black on white?")
    page.click("#invert")
    visit.expect(page.locator("#invert")).to_be_hidden()
    visit.click(200, 200)
    visit.answered()
    visit.upload(b"nothing", "no.png", "no.png: is neither a PNG")


@pytest.mark.parametrize("visit", [PHONE], indirect=True)
def test_a_tap_gives_the_value(visit):
    page = visit.page
    page.click("#clear")
    page.touchscreen.tap(*visit.at(128, 128))
    visit.answered()
    page.locator("#map-model").scroll_into_view_if_needed()
    page.touchscreen.tap(*visit.at(168, 128, "map-model"))
    assert page.inner_text("#readout").startswith("(168, 128) transmitter 1: model -")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
