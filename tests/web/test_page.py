"The search page in a real browser, over a true index: what a visitor does, one step after the other."

import shutil
import threading
import time

import pytest
from PIL import Image
from tiny_index import tiny_searcher

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser is driven by the package playwright, which is not installed")
pytest.importorskip("uvicorn", reason="the search page needs the extra [app]")

from fashionern.web.app import create_app, listen, make_server  # noqa: E402  they need the extra too

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no browser `chromium` on this machine's path")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    "Where the page is served, while the tests of this file run."
    searcher = tiny_searcher(tmp_path_factory.mktemp("page"))
    bound = listen("127.0.0.1", 0)
    server = make_server(create_app(searcher, ["is red", "is longer"], labels=["price"]))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.02)
    yield f"http://127.0.0.1:{bound.getsockname()[1]}/"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, address):
    "The page, just opened; no script may have failed on it when the test is over."
    context = browser.new_context(viewport={"width": 1280, "height": 860}, color_scheme="light")
    page, wrong = context.new_page(), []
    page.set_default_timeout(15_000)
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.on("console", lambda m: wrong.append(m.text) if "Content Security Policy" in m.text else None)
    page.goto(address)
    see(page, "#title", "Start from a photo")
    page.locator(".tile .pick img").first.wait_for()
    yield page
    context.close()
    assert not wrong


def see(page, where: str, text: str) -> None:
    "Wait until the text stands there and nothing is under way."
    page.locator(f"body:not(.busy) {where}", has_text=text).first.wait_for()


def shown(page) -> list[str]:
    "The names of the photos in the grid."
    return page.locator(".tile").evaluate_all("tiles => tiles.map(t => t.dataset.name)")


def ask(page, text: str) -> None:
    page.fill("#text", text)
    page.press("#text", "Enter")


def test_each_card_tells_the_columns_that_were_asked_for(page):
    ask(page, "is red")
    page.locator(".facts .of").first.wait_for()
    told = page.locator(".tile .of").evaluate_all("cards => cards.map(card => [card.textContent, card.title])")
    assert told and all(f"price: {price}" in facts.split("\n") for price, facts in told)


def test_each_card_tells_the_first_two_columns_unless_asked_otherwise(page):
    of_page = page.evaluate("fetch('/api/about').then(r => r.json())")
    page.route("**/api/about", lambda route: route.fulfill(json=of_page | {"labels": []}))
    page.reload()
    ask(page, "is red")
    page.locator(".facts .of").first.wait_for()
    told = page.locator(".tile .of").evaluate_all("cards => cards.map(card => [card.textContent, card.title])")
    assert told
    for card, facts in told:
        columns = dict(line.split(": ", 1) for line in facts.split("\n")[1:])
        assert card == f"{columns['colour']} · {columns['length']}"


def test_upload_search_click_back_filter_explain(page, tmp_path):
    Image.new("RGB", (60, 80), "crimson").save(tmp_path / "mine.jpg")
    page.set_input_files("#file", tmp_path / "mine.jpg")
    see(page, "#title", "Photos like this one")
    assert page.inner_text("#chosen-name") == "mine.jpg" and page.evaluate("document.activeElement.id") == "text"
    ask(page, "has long sleeves")
    see(page, "#title", "Like this, but: has long sleeves")
    first = shown(page)
    assert len(first) == 24 and page.locator(".rank").first.inner_text() == "1"
    assert page.locator(".pick img").first.bounding_box()["height"] > 150, "photos are large enough to be looked at"
    page.locator(".tile .pick").nth(2).click()
    see(page, "#chosen-name", first[2].split("/")[-1])
    see(page, "#title", "Photos like this one")
    assert page.input_value("#text") == "" and first[2] not in shown(page)
    ask(page, "is red")
    see(page, "#title", "Like this, but: is red")
    assert page.locator("#trail li").all_inner_texts() == ["like this", "has long sleeves", "like this", "is red"]
    page.go_back()
    page.go_back()
    see(page, "#title", "Like this, but: has long sleeves")
    assert shown(page) == first and page.inner_text("#chosen-name") == "mine.jpg" and page.input_value("#text") == "has long sleeves"
    page.go_forward()
    page.go_forward()
    see(page, "#title", "Like this, but: is red")
    page.click("#filters summary")
    page.select_option("select[data-column=brand]", label="O'Neill")
    see(page, "#filter-count", "1")
    see(page, "#status", "results")
    assert all(name.startswith("O'Neill") for name in shown(page))
    page.locator(".tile").first.hover()
    page.locator(".ask-why").first.click()
    see(page, "#why-body", "is the sum of these")
    assert page.locator(".shade .cell").count() == 18 and page.locator(".bar .label").all_inner_texts() == ["blank", "reference", "sentence", "is", "red"]
    page.get_by_role("button", name="quarters").click()
    assert page.locator(".shade .cell").count() == 8
    page.keyboard.press("Escape")
    page.locator("#why").wait_for(state="hidden")
    page.locator("#trail button").nth(1).click()
    see(page, "#title", "Like this, but: has long sleeves")
    assert page.locator("#trail li").count() == 2


def test_what_goes_wrong_is_told(page, tmp_path):
    (tmp_path / "bad.png").write_text("no picture at all")
    page.set_input_files("#file", tmp_path / "bad.png")
    see(page, "#problem", "no picture that can be read")
    (tmp_path / "large.png").write_bytes(b"x" * 10_000_001)
    page.set_input_files("#file", tmp_path / "large.png")
    see(page, "#problem", "more than 10 MB")
    ask(page, "<img src=x onerror=alert(1)>")
    see(page, "#title", "<img src=x")
    assert page.locator("#problem").is_hidden() and page.locator("#title img").count() == 0
    page.click("#filters summary")
    page.fill("#sentence", "price <")
    page.press("#sentence", "Enter")
    see(page, "#problem", "The filter is wrong at character")
    page.fill("#sentence", "price < 1")
    page.press("#sentence", "Enter")
    see(page, "#empty", "Nothing fits these filters.")
    page.click("#loosen")
    see(page, "#status", "24 results")
    page.route("**/api/search", lambda route: route.abort())
    ask(page, "is blue")
    see(page, "#problem", "The server does not answer")


def test_by_keyboard_alone(page):
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.type("a red dress")
    page.keyboard.press("Enter")
    see(page, "#title", "a red dress")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    name = lambda: page.evaluate("document.activeElement.closest('.tile')?.dataset.name")
    assert name() == shown(page)[1]
    page.keyboard.press("ArrowDown")
    columns = shown(page).index(name()) - 1
    assert columns >= 3
    page.keyboard.press("End")
    assert name() == shown(page)[-1]
    page.keyboard.press("w")
    see(page, "#why-body", "is the sum of these")
    page.keyboard.press("Escape")
    page.locator("#why").wait_for(state="hidden")
    assert name() == shown(page)[-1], "the focus returns to where it was"
    last = name()
    page.keyboard.press("Enter")
    see(page, "#chosen-name", last.split("/")[-1])
    assert page.evaluate("document.activeElement.id") == "text"


def test_pasted_dropped_shared_and_remembered(page, address):
    give = """([kind]) => fetch(document.querySelector('.tile img').src).then(r => r.blob()).then(blob => {
        const data = new DataTransfer(); data.items.add(new File([blob], kind + '.jpg', {type: 'image/jpeg'}));
        document.body.dispatchEvent(kind == 'paste' ? new ClipboardEvent('paste', {clipboardData: data, bubbles: true})
            : new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true}));
    })"""
    for kind in ("paste", "drop"):
        page.evaluate(give, [kind])
        see(page, "#chosen-name", f"{kind}.jpg")
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    ask(page, "is red")
    see(page, "#title", "Like this, but: is red")
    found = shown(page)
    again = page.context.new_page()
    again.goto(page.url)  # the address alone, in another tab
    see(again, "#title", "Like this, but: is red")
    assert shown(again) == found and again.evaluate("document.documentElement.dataset.theme") == "dark"
    page.click("#clear")
    see(page, "#title", "is red")
    assert "Like this" not in page.inner_text("#title") and page.locator("#drop").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(browser, address, scheme):
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(address)
    page.locator(".tile .pick").first.tap()
    page.locator(".rank").first.wait_for()
    see(page, "#title", "Photos like this one")
    assert page.evaluate("document.documentElement.scrollWidth") == 390, "nothing stands out to the right"
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, ground[4:-1].split(","))) / 3 > 128
    assert light == (scheme == "light")
    page.locator(".ask-why").first.tap()
    see(page, "#why-body", "is the sum of these")
    assert page.evaluate("document.querySelector('#why').scrollWidth") <= 390
    context.close()


def test_everything_has_a_name(page):
    ask(page, "red")
    see(page, "#title", "red")
    nameless = page.locator("button, input, select, img").evaluate_all(
        "all => all.filter(e => e.offsetParent && !e.ariaLabel && !e.textContent.trim() && !e.labels?.length && e.alt !== '').map(e => e.outerHTML)")  # fmt: skip
    assert not nameless
    assert page.locator("[role=status][aria-live=polite]").count() == 1 and page.locator("[role=alert]").count() == 1
