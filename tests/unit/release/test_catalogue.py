"""The catalogue in a real browser: filters, zoom, window and level from stored pixels; nothing from elsewhere."""

from __future__ import annotations

import base64
import io
import os
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from numcodecs import blosc
from PIL import Image

from medgan.release import images as packing
from medgan.release import retract
from medgan.release.catalogue import preview
from tests.builders import browser as browsers

needs_browser = pytest.mark.skipif(
    browsers.program() is None and "MEDGAN_REQUIRE_TOOLS" not in os.environ, reason="no Chromium on this machine"
)
SHOWN = "document.querySelector('#source').textContent"


class Server(ThreadingHTTPServer):
    """A static web server that a page's burst of requests does not overrun."""

    request_queue_size = 128


class _Fresh(SimpleHTTPRequestHandler):
    """Nothing may come from the browser's cache: a file changed twice in one second has one modification time."""

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")
        super().end_headers()


@pytest.fixture
def site(published):
    quiet = type("Quiet", (_Fresh,), {"log_message": lambda *_: None})
    handler = partial(quiet, directory=str(published.zones.registry))
    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser():
    with browsers.Browser() as opened:
        yield opened


@pytest.fixture
def tab(browser):
    browser.open("about:blank")
    browser.requests.clear()
    browser.problems.clear()
    return browser


def click(tab, row):
    tab.run(f"document.querySelector('.tile[data-i=\"{row}\"]').click()")


@needs_browser
def test_page_loads_without_complaint_and_asks_nobody_else(tab, site):
    tab.open(f"{site}/index.html")
    tab.run("document.querySelector('.set h2 a').click()")
    tab.until("document.readyState === 'complete' && document.querySelectorAll('.tile').length === 128")
    assert tab.run("document.querySelector('#status').textContent") == "active"
    click(tab, tab.run("document.querySelector('.tile').dataset.i"))
    tab.until(f"{SHOWN} !== ''")
    assert tab.problems == []
    assert {address.split("/")[2] for address in tab.requests if address.startswith("http")} == {site.split("/")[2]}
    assert [address for address in tab.requests if not address.startswith((site, "data:"))] == []


@needs_browser
def test_enlarged_image_shows_the_stored_pixels_live(tab, site, published):
    tab.open(f"{site}/chest-demo/1.0.0/index.html")
    reader = f"import('{site}/chest-demo/1.0.0/zarrita.js')"
    for row in (0, 15, 16, 700, 1023, 1024, 1099):
        values = tab.run(
            f"{reader}.then(m => m.openImages('{site}/chest-demo/1.0.0/images.zarr/images'))"
            f".then(read => read({row})).then(pixels => Array.from(pixels))"
        )
        assert np.array_equal(np.array(values, np.uint16), published.built.images[row].reshape(-1))
    click(tab, tab.run("document.querySelector('.tile').dataset.i"))
    tab.until(f"{SHOWN}.includes('Stored pixels')")
    before = tab.run("document.querySelector('#zoom canvas').toDataURL()")
    tab.run("(i => { i.value = 0.3; i.dispatchEvent(new Event('input')); })(document.querySelector('#window'))")
    assert tab.run("document.querySelector('#zoom canvas').toDataURL()") != before
    assert tab.problems == []


@needs_browser
def test_browser_detects_every_flipped_bit(tab, site, published):
    shard = published.folder / "images.zarr/images/c/1/0/0"
    shard.chmod(0o644)
    good = shard.read_bytes()
    index = np.frombuffer(good[-64 * 16 - 4 : -4], "<u8").reshape(64, 2)
    rng = np.random.default_rng(3)
    tab.open(f"{site}/chest-demo/1.0.0/index.html")
    offset, length = map(int, index[0])
    places = [
        *(offset * 8 + rng.choice(length * 8, 170, replace=False)),
        *((len(good) - 1028) * 8 + rng.choice(8224, 30)),
    ]
    for place in map(int, places):
        body = bytearray(good)
        body[place // 8] ^= 1 << (place % 8)
        shard.write_bytes(bytes(body))
        outcome = tab.run(
            f"import('{site}/chest-demo/1.0.0/zarrita.js')"
            f".then(m => m.openImages('{site}/chest-demo/1.0.0/images.zarr/images'))"
            ".then(read => read(1024)).then(() => 'read', problem => 'refused')"
        )
        assert outcome == "refused", place


@needs_browser
def test_browser_unpacks_every_form_of_block_as_numcodecs_does(tab, site):
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.integers(0, 3, (16, 100, 77)), axis=2).astype("<u2")  # last block is short
    noise = rng.integers(0, 65536, (16, 40, 40)).astype("<u2")  # stored, not compressed
    tab.open(f"{site}/chest-demo/1.0.0/index.html")
    for array in (smooth, noise, smooth[:3, :5, :7]):
        for block in (0, 32768, packing.BLOCK_BYTES):
            codec = blosc.Blosc(packing.CODEC, packing.LEVEL, blosc.SHUFFLE, blocksize=block)
            packed = codec.encode(np.ascontiguousarray(array))
            plain = tab.run(
                f"import('{site}/chest-demo/1.0.0/zarrita.js').then(m => m.unblosc(Uint8Array.from(atob("
                f"'{base64.b64encode(packed).decode()}'), c => c.charCodeAt(0))))"
                ".then(bytes => [...bytes].map(b => b.toString(16).padStart(2, '0')).join(''))"
            )
            assert bytes.fromhex(plain) == array.tobytes()


@needs_browser
def test_filters_hide_what_does_not_fit_and_say_how_many_remain(tab, site, published):
    tab.open(f"{site}/chest-demo/1.0.0/index.html")
    tab.run(
        "(s => { s.value = 'F'; s.dispatchEvent(new Event('change')); })(document.querySelector('[data-filter=sex]'))"
    )
    shown = tab.run("[...document.querySelectorAll('.tile:not(.out)')].map(t => Number(t.dataset.i))")
    assert shown
    assert set(published.built.labels["sex"].iloc[shown]) == {"F"}
    assert tab.run("document.querySelector('#shown').textContent") == f"{len(shown)} of 128 shown"


@needs_browser
def test_keyboard_alone_opens_walks_and_closes(tab, site):
    tab.open(f"{site}/chest-demo/1.0.0/index.html")
    tab.run("document.querySelector('.tile').focus()")
    tab.press("ArrowRight")
    assert tab.run("document.activeElement.dataset.t") == "1"
    tab.run("document.activeElement.click()")
    first = tab.run("document.querySelector('#zoom-title').textContent")
    tab.run("document.querySelector('[data-close]').focus()")
    tab.press("ArrowRight")
    assert tab.run("document.querySelector('#zoom-title').textContent") != first
    tab.press("Escape")
    tab.until("!document.querySelector('#zoom').open")
    assert tab.run("document.activeElement.classList.contains('tile')")


@needs_browser
def test_page_works_from_a_file_with_the_preview(tab, published):
    tab.open((published.folder / "index.html").as_uri())
    click(tab, tab.run("document.querySelector('.tile').dataset.i"))
    tab.until(f"{SHOWN} === 'Preview, 8 bits'")
    assert tab.run("document.querySelector('#status').textContent") == "active"
    assert tab.problems == []


@needs_browser
def test_withdrawn_version_says_so_on_its_own_unchanged_page(tab, site, published):
    retract.withdraw("chest-demo@1.0.0", "labels were <b>swapped</b>", zones=published.zones)
    tab.open(f"{site}/chest-demo/1.0.0/index.html")
    assert tab.run("document.querySelector('#status').textContent") == "withdrawn"
    assert "labels were <b>swapped</b>" in tab.run("document.querySelector('#banner').textContent")
    assert tab.problems == []


@needs_browser
def test_promoted_version_shows_its_channel_on_its_page_and_in_the_registry(tab, site, published):
    retract.promote("chest-demo@1.0.0", "stable", zones=published.zones)
    tab.open(f"{site}/chest-demo/1.0.0/index.html")
    assert tab.run("document.querySelector('#status').textContent") == "active · stable"
    tab.open(f"{site}/index.html")
    assert "active · stable" in tab.run("document.querySelector('table').textContent")
    assert tab.problems == []


def test_page_names_every_promise_in_plain_html_and_stays_small(published):
    page = (published.folder / "index.html").read_text()
    for words in ("SYNTHETIC", "What was not tested", "medgan pull chest-demo@1.0.0", "CC-BY-4.0", "attack"):
        assert words in page
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//(?!creativecommons)""", page)
    sent = len(page) + sum(path.stat().st_size for path in (published.folder / "preview").glob("class-*"))
    sent += (published.folder / "viewer.js").stat().st_size
    assert sent < 500_000


@needs_browser
def test_every_control_has_a_name(tab, site):
    tab.open(f"{site}/chest-demo/1.0.0/index.html")
    nameless = tab.run(
        "[...document.querySelectorAll('button, select, input, img, [role=img]')]"
        ".filter(e => !(e.getAttribute('aria-label') || e.alt || e.textContent.trim() || e.labels?.length)).length"
    )
    assert nameless == 0
    assert tab.run("document.documentElement.lang") == "en"
    assert tab.run("document.querySelectorAll('h1').length") == 1


@pytest.mark.parametrize(("side", "classes"), [(64, 1), (128, 2), (256, 12), (64, 60)])
def test_pictures_of_a_page_stay_within_their_share_however_large_and_many(side, classes):
    rng = np.random.default_rng(0)
    small = rng.normal(30000, 9000, (classes * 9, 16, 16))
    images = np.kron(small, np.ones((side // 16, side // 16)))
    images = np.clip(images + rng.normal(0, 2000, images.shape), 0, 65535).astype(np.uint16)
    sheets = preview.sheets(images, [f"{row % classes:02}" for row in range(len(images))], {})
    assert len(sheets) == classes
    assert sum(len(sheet.body) for sheet in sheets) <= preview.SHEETS_BYTES
    assert sum(len(sheet.rows) for sheet in sheets) <= preview.TILES_A_PAGE
    for sheet in sheets:
        with Image.open(io.BytesIO(sheet.body)) as picture:
            assert picture.width % preview.COLUMNS == 0
            assert picture.height % sheet.lines == 0
