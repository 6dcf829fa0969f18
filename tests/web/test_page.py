"The search page in a real browser, over a real index: what a visitor does, step by step."

import contextlib
import shutil
import threading
import time

import pytest
from PIL import Image
from tiny_index import tiny_searcher

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright, which drives the browser, is not installed")
pytest.importorskip("uvicorn", reason="the search page needs the extra [app]")

from fashionern.web.app import create_app, listen, make_server  # noqa: E402  they need the extra too

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="`chromium` is not on this machine's path")


@contextlib.contextmanager
def served(searcher, examples=("is red", "is longer")):
    "The address of the page over an index; it is served until the context ends."
    bound = listen("127.0.0.1", 0)
    server = make_server(create_app(searcher, examples, labels=["price"]))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.02)
    yield f"http://127.0.0.1:{bound.getsockname()[1]}/"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    "The page's address; it is served while the tests of this file run."
    with served(tiny_searcher(tmp_path_factory.mktemp("page"))) as address:
        yield address


@pytest.fixture(scope="module")
def untrained_address(tmp_path_factory):
    "The same over an encoder alone, which has a weight between photo and text."
    with served(tiny_searcher(tmp_path_factory.mktemp("untrained"), untrained=True)) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, address):
    "The page, just opened; after the test, no script may have failed on it."
    context = browser.new_context(viewport={"width": 1280, "height": 860}, color_scheme="light")
    page = context.new_page()
    errors = []
    page.set_default_timeout(15_000)
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.on("console", lambda m: errors.append(m.text) if "Content Security Policy" in m.text else None)
    page.goto(address)
    see(page, "#title", "Start from a photo")
    page.locator(".tile .pick img").first.wait_for()
    yield page
    context.close()
    assert not errors


def see(page, where: str, text: str) -> None:
    "Wait until the element shows the text and no request is pending."
    page.locator(f"body:not(.busy) {where}", has_text=text).first.wait_for()


def names(page) -> list[str]:
    "The names of the photos in the grid."
    return page.locator(".tile").evaluate_all("tiles => tiles.map(t => t.dataset.name)")


def focused(page) -> str:
    "The name of the photo that has the focus."
    return page.evaluate("document.activeElement.closest('.tile')?.dataset.name")


def search(page, text: str) -> None:
    page.fill("#text", text)
    page.press("#text", "Enter")


def cards(page) -> list[list[str]]:
    "Label and tooltip of each result."
    page.locator(".facts .labels").first.wait_for()
    return page.locator(".tile .labels").evaluate_all("cards => cards.map(card => [card.textContent, card.title])")


def test_a_measured_example_brings_a_photo_but_keeps_the_visitors_own(page, tmp_path):
    searcher = tiny_searcher(tmp_path)
    searcher.store.set_examples([{"text": "in blue", "name": "women/01.png", "share": 0.875, "chance": 0.1}])
    with served(searcher, ()) as address:
        page.goto(address)
        see(page, "#examples", "in blue")
        (button,) = page.locator("#examples button").all()
        assert button.get_attribute("title") == "Measured: 88 % of the first 8 results obey this text"
        button.click()
        see(page, "#title", "Like this, but: in blue")
        see(page, "#chosen-name", "01.png")
        page.goto(f"{address}?name=women/03.png")
        see(page, "#chosen-name", "03.png")
        page.locator("#examples button").click()
        see(page, "#title", "Like this, but: in blue")
        see(page, "#chosen-name", "03.png")


def test_each_card_shows_the_columns_in_labels(page):
    search(page, "is red")
    shown = cards(page)
    assert shown and all(f"price: {price}" in tooltip.split("\n") for price, tooltip in shown)


def test_each_card_shows_the_first_two_columns_by_default(page):
    about = page.evaluate("fetch('/api/about').then(r => r.json())")
    page.route("**/api/about", lambda route: route.fulfill(json=about | {"labels": []}))
    page.reload()
    search(page, "is red")
    shown = cards(page)
    assert shown
    for card, tooltip in shown:
        columns = dict(line.split(": ", 1) for line in tooltip.split("\n")[1:])
        assert card == f"{columns['colour']} · {columns['length']}"


def test_upload_search_follow_go_back_filter_and_explain(page, tmp_path):
    Image.new("RGB", (60, 80), "crimson").save(tmp_path / "mine.jpg")
    page.set_input_files("#file", tmp_path / "mine.jpg")
    see(page, "#title", "Photos like this one")
    assert page.inner_text("#chosen-name") == "mine.jpg"
    assert page.evaluate("document.activeElement.id") == "text"

    search(page, "has long sleeves")
    see(page, "#title", "Like this, but: has long sleeves")
    first = names(page)
    assert len(first) == 24 and page.locator(".rank").first.inner_text() == "1"
    assert page.locator(".pick img").first.bounding_box()["height"] > 150, "photos are large enough to see"

    page.locator(".tile .pick").nth(2).click()
    see(page, "#chosen-name", first[2].split("/")[-1])
    see(page, "#title", "Photos like this one")
    assert page.input_value("#text") == "" and first[2] not in names(page)
    search(page, "is red")
    see(page, "#title", "Like this, but: is red")
    trail = page.locator("#trail li").all_inner_texts()
    assert trail == ["like this", "has long sleeves", "like this", "is red"]

    page.go_back()
    page.go_back()
    see(page, "#title", "Like this, but: has long sleeves")
    assert names(page) == first and page.inner_text("#chosen-name") == "mine.jpg"
    assert page.input_value("#text") == "has long sleeves"
    page.go_forward()
    page.go_forward()
    see(page, "#title", "Like this, but: is red")

    page.click("#filters summary")
    page.select_option("select[data-column=brand]", label="O'Neill")
    see(page, "#filter-count", "1")
    see(page, "#status", "results")
    assert all(name.startswith("O'Neill") for name in names(page))

    page.locator(".tile").first.hover()
    page.locator(".explain").first.click()
    see(page, "#why-body", "is the sum of these")
    assert page.locator(".shade .cell").count() == 18, "nine parts of each photo"
    assert page.locator(".bar .label").all_inner_texts() == ["baseline", "photo", "text", "is", "red"]
    page.get_by_role("button", name="2 × 2 parts").click()
    assert page.locator(".shade .cell").count() == 8
    page.keyboard.press("Escape")
    page.locator("#why").wait_for(state="hidden")

    page.locator("#trail button").nth(1).click()
    see(page, "#title", "Like this, but: has long sleeves")
    assert page.locator("#trail li").count() == 2


def test_errors_are_shown(page, tmp_path):
    (tmp_path / "bad.png").write_text("not an image")
    page.set_input_files("#file", tmp_path / "bad.png")
    see(page, "#problem", "not a readable image")
    (tmp_path / "large.png").write_bytes(b"x" * 10_000_001)
    page.set_input_files("#file", tmp_path / "large.png")
    see(page, "#problem", "The limit is 10 MB")
    search(page, "<img src=x onerror=alert(1)>")
    see(page, "#title", "<img src=x")
    assert page.locator("#problem").is_hidden() and page.locator("#title img").count() == 0
    page.click("#filters summary")
    page.fill("#filter-text", "price <")
    page.press("#filter-text", "Enter")
    see(page, "#problem", "The filter is wrong at character")
    page.fill("#filter-text", "price < 1")
    page.press("#filter-text", "Enter")
    see(page, "#empty", "No photos match these filters.")
    page.click("#reset-empty")
    see(page, "#status", "24 results")
    page.route("**/api/search", lambda route: route.abort())
    search(page, "is blue")
    see(page, "#problem", "The server does not respond")


def test_what_of_a_text_is_ignored_is_above_the_results(page):
    line = page.locator("#ignored[aria-live=polite]")
    assert line.bounding_box()["height"] == 0, "an empty line takes no room"
    page.locator(".tile .pick").first.click()
    search(page, "is maxi")
    see(page, "#ignored", "I don't know the word 'maxi', so the results follow the photo alone.")
    assert line.bounding_box()["y"] < page.locator(".tile").first.bounding_box()["y"]
    search(page, "is red")
    see(page, "#title", "Like this, but: is red")
    assert line.inner_text() == ""
    page.go_back()
    see(page, "#ignored", "'maxi'")
    search(page, "is red and long" + ", red" * 30)
    see(page, "#ignored", "The text is too long: everything after")
    page.click("#clear")
    page.fill("#text", "")
    page.press("#text", "Enter")
    see(page, "#title", "Start from a photo")
    assert line.inner_text() == ""


def test_keyboard_only(page):
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.type("a red dress")
    page.keyboard.press("Enter")
    see(page, "#title", "a red dress")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert focused(page) == names(page)[1]
    page.keyboard.press("ArrowDown")
    columns = names(page).index(focused(page)) - 1
    assert columns >= 3
    page.keyboard.press("End")
    last = names(page)[-1]
    assert focused(page) == last
    page.keyboard.press("w")
    see(page, "#why-body", "is the sum of these")
    page.keyboard.press("Escape")
    page.locator("#why").wait_for(state="hidden")
    assert focused(page) == last, "the focus returns to the photo"
    page.keyboard.press("Enter")
    see(page, "#chosen-name", last.split("/")[-1])
    assert page.evaluate("document.activeElement.id") == "text"


def test_paste_drop_share_and_theme(page):
    give_photo = """([kind]) => fetch(document.querySelector('.tile img').src).then(r => r.blob()).then(blob => {
        const data = new DataTransfer();
        data.items.add(new File([blob], kind + '.jpg', {type: 'image/jpeg'}));
        const event = kind == 'paste' ? new ClipboardEvent('paste', {clipboardData: data, bubbles: true})
            : new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true});
        document.body.dispatchEvent(event);
    })"""
    theme = "document.documentElement.dataset.theme"
    for kind in ("paste", "drop"):
        page.evaluate(give_photo, [kind])
        see(page, "#chosen-name", f"{kind}.jpg")
    page.click("#theme")
    assert page.evaluate(theme) == "dark"
    search(page, "is red")
    see(page, "#title", "Like this, but: is red")
    results = names(page)
    shared = page.context.new_page()
    shared.goto(page.url)  # the address alone, in another tab
    see(shared, "#title", "Like this, but: is red")
    assert names(shared) == results and shared.evaluate(theme) == "dark"
    page.click("#clear")
    see(page, "#title", "is red")
    assert "Like this" not in page.inner_text("#title") and page.locator("#drop").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(browser, address, scheme):
    screen = {"width": 390, "height": 844}
    context = browser.new_context(viewport=screen, color_scheme=scheme, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(address)
    page.locator(".tile .pick").first.tap()
    page.locator(".rank").first.wait_for()
    see(page, "#title", "Photos like this one")
    assert page.evaluate("document.documentElement.scrollWidth") == 390, "nothing overflows to the right"
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, background[4:-1].split(","))) / 3 > 128
    assert light == (scheme == "light")
    page.locator(".explain").first.tap()
    see(page, "#why-body", "is the sum of these")
    assert page.evaluate("document.querySelector('#why').scrollWidth") <= 390
    context.close()


def test_every_control_has_an_accessible_name(page):
    search(page, "red")
    see(page, "#title", "red")
    nameless = page.locator("button, input, select, img").evaluate_all(
        """all => all.filter(e => e.offsetParent && !e.ariaLabel && !e.textContent.trim()
            && !e.labels?.length && e.alt !== '').map(e => e.outerHTML)"""
    )
    assert not nameless
    assert page.locator("[role=status][aria-live=polite]").count() == 1
    assert page.locator("[role=alert]").count() == 1


def slider(page):
    return page.get_by_role("slider", name="Balance of photo and text")


def scores(page) -> list[str]:
    "The scores of the results, as shown."
    return page.locator(".score").all_inner_texts()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_slider_weights_text_against_photo(browser, untrained_address, width):
    context = browser.new_context(viewport={"width": width, "height": 860})
    page = context.new_page()
    page.set_default_timeout(15_000)
    errors, asked = [], []
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.on("request", lambda r: asked.append(r.post_data_json) if r.url.endswith("/api/search") else None)
    page.goto(untrained_address)
    see(page, "#about", "sum over ern-tiny with random weights, no training, regions grid")
    page.locator(".tile .pick").first.click()
    see(page, "#title", "Photos like this one")
    by_photo = scores(page)
    assert slider(page).is_hidden(), "a photo alone has nothing to balance"
    search(page, "is red")
    see(page, "#title", "Like this, but: is red")
    assert slider(page).input_value() == "0.5" and "weight" not in page.url and "text_weight" not in asked[-1]
    plain = scores(page)

    slider(page).focus()
    page.keyboard.press("Home")
    page.wait_for_url("**weight=0")
    see(page, "#status", "24 results")
    assert asked[-1]["text_weight"] == 0 and scores(page) == by_photo
    assert slider(page).get_attribute("aria-valuetext") == "100 % photo, 0 % text"
    assert page.evaluate("document.activeElement.id") == "weight", "the slider keeps the focus"
    box = slider(page).bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["width"] > 100
    page.mouse.click(box["x"] + box["width"] - 3, box["y"] + box["height"] / 2)
    page.wait_for_url("**weight=1&**" if "&" in page.url.split("weight=")[1] else "**weight=1")
    see(page, "#status", "24 results")
    assert asked[-1]["text_weight"] == 1 and page.inner_text("#weight-shown") == "0 : 100"
    by_both = scores(page)
    assert by_both != plain and by_both != by_photo
    assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing overflows to the right"

    shared = context.new_page()
    shared.goto(page.url)  # the address alone, in another tab
    see(shared, "#title", "Like this, but: is red")
    assert slider(shared).input_value() == "1" and scores(shared) == by_both
    page.locator(".explain").first.dispatch_event("click")
    see(page, "#why-body", "no weights of its parts")
    assert page.locator(".bar .value").nth(1).inner_text() in ("+0.000", "−0.000"), "the photo's share"
    page.keyboard.press("Escape")
    page.click("#clear")
    see(page, "#title", "is red")
    assert slider(page).is_hidden() and "text_weight" not in asked[-1]
    page.go_back()
    see(page, "#title", "Like this, but: is red")
    assert slider(page).input_value() == "1"
    page.go_back()
    see(page, "#title", "Photos like this one")
    context.close()
    assert not errors


def test_a_wrong_weight_in_the_address_is_ignored(browser, untrained_address):
    page = browser.new_page()
    for weight in ("2", "-1", "many", "NaN"):
        page.goto(f"{untrained_address}?name=women%2F01.png&text=is+red&weight={weight}")
        see(page, "#title", "Like this, but: is red")
        assert slider(page).input_value() == "0.5" and "weight" not in page.url
    page.close()


def test_a_model_without_a_weight_has_no_slider(page):
    assert "dvr@mask_padding from a model of this test, encoder ern-tiny, regions crops" in page.inner_text("#about")
    page.locator(".tile .pick").first.click()
    search(page, "is red")
    see(page, "#title", "Like this, but: is red")
    assert slider(page).is_hidden()
