"""The page in a browser: Chromium opens it, as a person at a desk and one with a phone would, by day and by night."""

import json
import shutil
from pathlib import Path

import pytest

from infra import cli
from schemas import manifest as manifests
from schemas import records, shards
from tests.infra.test_report import HOSTILE, SCRIPT, make_hostile, rewrite

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
# What a page must be, asked in the page.
OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"
PICTURES = """async () => {
    const all = [...document.images];
    all.forEach(one => { one.loading = 'eager'; });
    await Promise.all(all.map(one => one.decode().catch(() => {})));
    return all.map(one => [one.alt, one.naturalWidth, one.width, one.height]);
}"""
# Contrast of every text with what it stands on, as WCAG reckons it.
CONTRAST = """() => {
    const parse = colour => colour.match(/[0-9.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = one => {
        for (let at = one; at; at = at.parentElement) {
            const colour = parse(getComputedStyle(at).backgroundColor);
            if (colour.length < 4 || colour[3] > 0) return colour;
        }
        return [255, 255, 255];
    };
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let lowest = [21, ''];
    while (walker.nextNode()) {
        const one = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
        if (!text || !one.checkVisibility()) continue;
        const style = getComputedStyle(one), drawn = one.namespaceURI.endsWith('svg');
        const colour = parse(drawn ? style.fill : style.color);
        const [a, b] = [light(colour), light(ground(one))].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < lowest[0]) lowest = [ratio, text.slice(0, 60)];
    }
    return lowest;
}"""


@pytest.fixture(scope="module")
def pages(miniature, tmp_path_factory) -> dict[str, Path]:
    """The page of a round with hostile rows and with a truth, and that of two rounds compared."""
    root = tmp_path_factory.mktemp("report")
    hostile = root / "round"
    shutil.copytree(miniature, hostile, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    for name in ("corpora/pool", "curated"):
        rewrite(hostile / name, make_hostile)
    pool = manifests.read(str(hostile / "corpora/pool"))
    rows = shards.open_dataset(str(hostile / "corpora/pool"), pool).read(range(96))
    (hostile / "sources").mkdir()
    kinds = ("matched", "mismatched", "boilerplate")
    truth = {records.record_uid(row): kinds[place % 3] for place, row in enumerate(rows)}
    (hostile / "sources/truth.json").write_text(json.dumps(truth))
    (hostile / "embeddings/manifest.json").write_text("{}")  # so that the page has its warnings as well
    found = {"one": root / "one.html", "two": root / "two.html"}
    assert cli.main(["report", str(hostile), f"--output={found['one']}"]) == 0
    assert cli.main(["report", str(hostile), str(miniature), f"--output={found['two']}"]) == 0
    return found


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["one", "two"])
def test_the_page_in_chromium(browser, pages, name, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    heard: list[str] = []
    asked: list[str] = []
    opened = context.new_page()
    opened.on("console", lambda message: heard.append(f"console: {message.text}"))
    opened.on("pageerror", lambda error: heard.append(f"error: {error}"))
    opened.on("dialog", lambda dialog: heard.append(f"dialog: {dialog.message}"))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(pages[name].as_uri(), wait_until="load")
    assert opened.evaluate(OVERFLOW) <= 0
    shown = opened.evaluate(PICTURES)
    assert len(shown) > 10
    assert all(alt and natural > 0 and shown_width == shown_height for alt, natural, shown_width, shown_height in shown)
    opened.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert opened.evaluate(OVERFLOW) <= 0
    said = opened.evaluate("document.body.innerText")
    assert SCRIPT in said
    assert '"><img src=x onerror=alert(1)>' in said
    assert HOSTILE[7][:2000] in said
    assert opened.evaluate("document.scripts.length") == 0
    assert opened.locator("h1").count() == 1
    assert opened.locator("[role=img]").count() >= 4
    assert opened.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].every(a => document.querySelector(a.hash))"
    )
    ratio, text = opened.evaluate(CONTRAST)
    assert ratio >= 4.5, text
    assert heard == []
    assert [url for url in asked if not url.startswith("data:")] == [pages[name].as_uri()]
    context.close()
