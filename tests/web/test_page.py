"The search page in a real browser, over a real index: what a visitor does, step by step."

import contextlib
import csv
import shutil
import threading
import time

import pytest
from PIL import Image
from tiny_index import tiny_searcher

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright, which drives the browser, is not installed")
pytest.importorskip("uvicorn", reason="the search page needs the extra [app]")

from starlette.applications import Starlette  # noqa: E402  they need the extra too
from starlette.routing import Mount  # noqa: E402

from fashionern.web.app import create_app, listen, make_server  # noqa: E402

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
def served(searcher, examples=("is red", "is longer"), labels=("price",), path="", **options):
    "The address of the page over an index, below this path; it is served until the context ends."
    app = create_app(searcher, examples, labels=labels, **options)
    bound = listen("127.0.0.1", 0)
    server = make_server(Starlette(routes=[Mount(path, app)]) if path else app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.02)
    yield f"http://127.0.0.1:{bound.getsockname()[1]}{path}/"
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
    with served(tiny_searcher(tmp_path_factory.mktemp("untrained"), untrained=True), scores=True) as address:
        yield address


@pytest.fixture(scope="module")
def shop_address(tmp_path_factory):
    "The page of a shop: 20 products with two photos each."
    searcher = tiny_searcher(tmp_path_factory.mktemp("shop"), products=True)
    with served(searcher, labels=(), title="Ann & Co", accent="#7a1f5c") as address:
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
    yield from opened(browser, address)


@pytest.fixture
def shop(browser, shop_address):
    "The page of the shop, just opened."
    yield from opened(browser, shop_address)


def opened(browser, address):
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


def test_a_visitor_searches_a_page_below_a_path(browser, tmp_path):
    with served(tiny_searcher(tmp_path, products=True), labels=(), path="/shop/search") as address:
        page = browser.new_page()
        page.set_default_timeout(15_000)
        refused = []
        page.on("response", lambda response: refused.append(response.url) if response.status >= 400 else None)
        page.goto(address)
        see(page, "#title", "Start from a photo")
        page.locator(".tile .pick").first.click()
        search(page, "is red")
        see(page, "#title", "Like this, but: is red")
        assert page.locator("#chosen-photo").evaluate("image => image.complete && image.naturalWidth > 0")
        assert page.url.startswith(f"{address}?")
        page.click(".brand")
        see(page, "#title", "Start from a photo")
        assert page.url == address and not refused
        page.close()


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

    page.click("#filters > summary")
    page.click("details[data-column=brand] > summary")
    page.locator("details[data-column=brand]").get_by_label("O'Neill").check()
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
    page.click("#filters > summary")
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
    page.unroute("**/api/search")
    page.get_by_role("button", name="Try again").click()
    see(page, "#status", "24 results")
    assert page.locator("#problem").is_hidden()


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
    last = names(page)[-1]
    page.keyboard.press("End")
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
        """all => all.filter(e => e.offsetParent && !e.ariaHidden && !e.ariaLabel && !e.textContent.trim()
            && !e.labels?.length && !(e.tagName == 'IMG' && e.hasAttribute('alt'))).map(e => e.outerHTML)"""
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


def titles(page) -> list[str]:
    "The names of the products in the grid."
    return page.locator(".tile .facts .labels > div:first-child").all_inner_texts()


def press(tile, label: str) -> None:
    "Click a button that appears when the pointer is on its tile."
    tile.hover()
    tile.get_by_label(label).click()


def choose(page, column: str, value: str) -> None:
    "Check a value of a filter."
    page.evaluate("document.querySelector('#filters').open = true")
    control = page.locator(f"details[data-column='{column}']")
    control.evaluate("details => { details.open = true; }")
    control.locator(f"input[value={value!r}]").check()


def test_products_have_a_name_a_price_and_a_link(shop):
    see(shop, "#about", "20 products, 40 photos")
    assert "encoder" not in shop.inner_text("#about"), "customers do not ask which model answers"
    assert shop.inner_text(".brand") == "Ann & Co" and shop.title() == "Ann & Co search"
    accent = shop.evaluate("getComputedStyle(document.querySelector('.go')).backgroundColor")
    assert accent == "rgb(122, 31, 92)"
    icon = shop.evaluate("fetch(document.querySelector('link[rel=icon]').href).then(r => r.text())")
    assert 'fill="#7a1f5c"' in icon
    search(shop, "a dress")
    see(shop, "#status", "20 results")
    assert sorted(titles(shop)) == [f"Dress {i:02}" for i in range(20)], "each product once"
    first = shop.locator(".tile").first
    number = int(titles(shop)[0].removeprefix("Dress "))
    assert first.locator("a").get_attribute("href") == f"https://shop.example/products/dress-{number}"
    assert first.locator(".price").inner_text() == f"{20 + number} €"
    assert first.locator(".pick img").get_attribute("alt") == titles(shop)[0]


def test_filters_and_order_work_without_a_query(shop):
    choose(shop, "Size", "S")
    see(shop, "#title", "7 products")
    assert set(titles(shop)) == {f"Dress {i:02}" for i in range(0, 20, 3)}, "S is a value of the list S | M"
    assert shop.evaluate("document.activeElement.value") == "S", "the focus stays on the value"
    choose(shop, "Size", "XL")
    see(shop, "#title", "13 products")
    shop.locator("[data-column='Variant Price'] input").nth(1).evaluate("e => { e.closest('details').open = true; }")
    shop.get_by_label("Variant Price, to").fill("30")
    shop.get_by_label("Variant Price, to").press("Enter")
    see(shop, "#title", "7 products")
    shop.select_option("#order", label="Variant Price, highest first")
    shop.locator("body:not(.busy) .tile").first.wait_for()
    shop.wait_for_function("document.querySelector('.tile .labels').innerText.startsWith('Dress 09')")
    assert titles(shop) == [f"Dress {i:02}" for i in (9, 8, 6, 5, 3, 2, 0)]
    shop.reload()
    see(shop, "#title", "7 products")
    assert titles(shop)[0] == "Dress 09", "the address has filters and order"
    shop.go_back()
    shop.wait_for_function("!location.search.includes('order')")
    search(shop, "a dress")
    see(shop, "#status", "7 results")


def test_dates_are_filtered_by_a_range(shop):
    shop.evaluate("document.querySelector('#filters').open = true")
    control = shop.locator("details[data-column=Added]")
    control.locator("summary").click()
    start = shop.get_by_label("Added, from")
    assert [start.get_attribute(name) for name in ("type", "min", "max")] == ["date", "2026-01-15", "2026-12-15"]
    start.fill("2026-06-01")
    start.press("Enter")
    see(shop, "#title", "10 products")
    assert sorted(titles(shop)) == [f"Dress {i:02}" for i in (5, 6, 7, 8, 9, 10, 11, 17, 18, 19)]
    start.press("Escape")
    assert control.get_attribute("open") is None, "Escape closes this filter"
    assert shop.evaluate("document.activeElement.tagName") == "SUMMARY" and shop.locator("#filters[open]").count() == 1
    see(shop, "#applied", "Added: from 2026-06-01")


def test_filters_in_use_are_above_the_results(shop):
    search(shop, "a dress")
    choose(shop, "Size", "S")
    choose(shop, "Size", "XL")
    see(shop, "#status", "13 results")
    shop.get_by_label("Variant Price, to").evaluate("e => { e.closest('details').open = true; }")
    shop.get_by_label("Variant Price, to").fill("30")
    shop.get_by_label("Variant Price, to").press("Enter")
    see(shop, "#status", "7 results")
    chips = shop.locator("#applied button span:first-child")
    assert chips.all_inner_texts() == ["Size: S", "Size: XL", "Variant Price: up to 30"]
    assert shop.locator("#applied").bounding_box()["y"] < shop.locator(".tile").first.bounding_box()["y"]
    shop.get_by_label("Remove the filter Size: S").press("Enter")
    see(shop, "#status", "3 results")
    assert shop.evaluate("document.activeElement.ariaLabel") == "Remove the filter Size: XL", "the focus is kept"
    shop.keyboard.press("Enter")
    see(shop, "#status", "11 results")
    shop.keyboard.press("Enter")
    see(shop, "#status", "20 results")
    assert chips.count() == 0 and shop.evaluate("document.activeElement.id") == "results"


def test_results_are_sorted(shop):
    search(shop, "a dress")
    see(shop, "#status", "20 results")
    by_score = titles(shop)
    first = "document.querySelector('.tile .labels').innerText.startsWith"
    shop.select_option("#order", label="Variant Price, lowest first")
    shop.wait_for_function(f"{first}('Dress 00')")
    assert titles(shop) == sorted(by_score)
    assert shop.locator(".rank").all_inner_texts() == [str(1 + by_score.index(title)) for title in sorted(by_score)]
    shop.select_option("#order", label="Name, Z to A")
    shop.wait_for_function(f"{first}('Dress 19')")
    assert titles(shop) == sorted(by_score, reverse=True)
    shop.select_option("#order", label="Best match")
    shop.wait_for_function(f"{first}({by_score[0]!r})")
    assert titles(shop) == by_score


def test_sorted_results_do_not_move_until_more_are_asked_for(page):
    search(page, "a dress")
    page.select_option("#order", label="price, lowest first")
    see(page, "#status", "24 best matches")
    page.locator(".tile").last.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    assert len(names(page)) == 24
    page.get_by_role("button", name="Show more").click()
    see(page, "#status", "40 best matches")
    assert page.locator(".tile .labels").all_inner_texts() == sorted(page.locator(".tile .labels").all_inner_texts())


def test_a_filter_with_many_values_is_searched(shop):
    shop.evaluate("document.querySelector('#filters').open = true")
    shop.locator("details[data-column=Vendor]").evaluate("details => { details.open = true; }")
    values = shop.locator("[data-column=Vendor] li")
    assert values.count() == 12 and values.first.inner_text().split() == ["Maker", "0", "2"], "of 2 products"
    shop.get_by_label("Find a value of Vendor").fill("11")
    assert values.all_inner_texts()[0].startswith("Maker 11") and values.count() == 1


def counts(page, column: str) -> dict[str, str]:
    "Value → number of products, as shown in a filter."
    items = page.locator(f"details[data-column='{column}'] li").all_inner_texts()
    return dict(item.rsplit("\n", 1) for item in items)


def wait_for_counts(page, column: str, expected: dict[str, str]) -> None:
    for _ in range(100):
        if counts(page, column) == expected:
            return
        page.wait_for_timeout(100)
    assert counts(page, column) == expected


def test_the_numbers_of_a_filter_follow_the_other_filters_and_the_query(shop):
    shop.evaluate("document.querySelectorAll('#filters, #filters details').forEach(one => { one.open = true; })")
    sizes = {"M": "14", "S": "7", "L": "7", "XL": "6"}
    assert counts(shop, "Size") == sizes and len(counts(shop, "Vendor")) == 12
    choose(shop, "Size", "XL")
    see(shop, "#title", "6 products")
    of_xl = {"Maker 2": "2", "Maker 5": "2", "Maker 11": "1", "Maker 8": "1"}
    wait_for_counts(shop, "Vendor", of_xl)
    assert counts(shop, "Size") == sizes, "the other sizes are alternatives"
    assert shop.evaluate("document.activeElement.value") == "XL", "the focus stays on the value"
    choose(shop, "Vendor", "Maker 8")
    see(shop, "#title", "1 product")
    wait_for_counts(shop, "Size", {"XL": "1"})
    assert counts(shop, "Vendor") == of_xl
    search(shop, "a dress")
    see(shop, "#status", "1 result")
    press(shop.locator(".tile").first, "Less like")
    see(shop, "#empty", "No products match these filters.")
    wait_for_counts(shop, "Vendor", {"Maker 2": "2", "Maker 5": "2", "Maker 11": "1", "Maker 8": "0"})
    shop.get_by_label("Remove the filter Vendor: Maker 8").click()
    see(shop, "#status", "5 results")
    wait_for_counts(shop, "Size", sizes | {"XL": "5"})
    shop.click("#reset")
    see(shop, "#status", "19 results")
    wait_for_counts(shop, "Size", sizes | {"XL": "5"})
    shop.locator("#judged button").click()
    see(shop, "#status", "20 results")
    wait_for_counts(shop, "Size", sizes)


def test_scores_are_shown_on_the_operators_wish_alone(shop, browser, untrained_address):
    search(shop, "a dress")
    see(shop, "#status", "20 results")
    assert scores(shop) == []
    assert "score" not in shop.locator(".tile .pick").first.get_attribute("aria-label")
    page = browser.new_page()
    page.goto(untrained_address)
    search(page, "a dress")
    see(page, "#status", "24 results")
    assert len(scores(page)) == 24 and float(scores(page)[0]) <= 1
    page.close()


def test_products_are_sorted_by_date(shop):
    shop.select_option("#order", label="Added, newest first")
    shop.locator(".tile .labels", has_text="Dress 11").first.wait_for()
    see(shop, "#title", "20 products")
    assert titles(shop)[0] == "Dress 11" and set(titles(shop)[-2:]) == {"Dress 00", "Dress 12"}
    search(shop, "a dress")
    see(shop, "#status", "20 best matches")
    assert titles(shop)[0] == "Dress 11"
    shop.select_option("#order", label="Added, oldest first")
    see(shop, "#status", "20 best matches")
    assert set(titles(shop)[:2]) == {"Dress 00", "Dress 12"} and titles(shop)[-1] == "Dress 11"


def test_a_text_that_names_a_value_offers_it_as_a_filter(shop):
    search(shop, "something by makers 11, please")
    see(shop, "#ignored", "I don't know the words")
    offered = shop.get_by_role("group", name="Filters that the text names")
    assert offered.get_by_role("button").all_inner_texts() == ["Vendor: Maker 11"]
    offered.get_by_role("button").click()
    see(shop, "#status", "1 result")
    assert titles(shop) == ["Dress 11"] and offered.is_hidden()
    assert shop.input_value("#text") == "something by makers 11, please"


def test_a_range_the_wrong_way_round_is_turned(shop):
    shop.evaluate("document.querySelectorAll('#filters, #filters details').forEach(one => { one.open = true; })")
    shop.get_by_label("Variant Price, from").fill("30")
    shop.get_by_label("Variant Price, to").fill("25")
    shop.get_by_label("Variant Price, to").press("Enter")
    see(shop, "#title", "6 products")
    see(shop, "#applied", "Variant Price: 25 – 30")
    assert shop.get_by_label("Variant Price, from").input_value() == "25"


@pytest.mark.parametrize("width", [1280, 390])
def test_long_names_leave_everything_in_its_place(browser, shop_address, tmp_path, width):
    def long(route):
        gallery = route.fetch().json()
        gallery["photos"][0]["title"] = "Donaudampfschifffahrtsgesellschaftskapitänsmützenüberzugspulloverkollektion"
        gallery["photos"][1]["title"] = "Long-sleeved everyday pullover of organic cotton, with contrast stitching"
        gallery["photos"][2]["title"] = "Hat"
        route.fulfill(json=gallery)

    page = browser.new_page(viewport={"width": width, "height": 860})
    page.set_default_timeout(15_000)
    page.route("**/api/gallery**", long)
    page.goto(shop_address)
    page.locator(".tile .pick img").first.wait_for()
    names = page.locator(".labels > div:first-child")
    heights = [names.nth(i).bounding_box()["height"] for i in range(3)]
    assert heights[0] == pytest.approx(2 * heights[2], abs=2) and heights[1] == pytest.approx(heights[0], abs=2)
    page.locator(".tile .pick").nth(1).click()
    see(page, "#title", "Photos like this one")
    form = page.locator("#search").bounding_box()
    for part in ("#go", "#chosen-photo", "#clear"):
        box = page.locator(part).bounding_box()
        assert box["x"] >= form["x"] and box["x"] + box["width"] <= form["x"] + form["width"] + 1, part
    search(page, "x" * 600)
    see(page, "#title", "xxx")
    assert page.locator("#title").bounding_box()["height"] < 70, "two lines"
    page.close()


@pytest.mark.parametrize(["width", "height"], [(390, 844), (640, 430)])  # a phone; a laptop at 200 %
def test_a_new_text_leads_to_the_results_below_the_form(browser, shop_address, width, height):
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(15_000)
    page.goto(shop_address)
    page.locator(".tile .pick img").first.wait_for()
    assert page.locator("#results").bounding_box()["y"] > 0.45 * height
    search(page, "a dress")
    see(page, "#status", "20 results")
    assert 0 <= page.locator("#title").bounding_box()["y"] < height / 3
    assert page.locator(".tile").first.bounding_box()["y"] < height / 2
    page.close()


def test_a_new_visit_starts_again(shop, shop_address):
    search(shop, "is red")
    shop.get_by_label("Keep refining").check()
    search(shop, "is long")
    see(shop, "#title", "is red and is long")
    shop.reload()
    see(shop, "#title", "is red and is long")
    assert shop.locator("#texts li").count() == 2, "a reload goes on"
    shop.goto(shop_address)
    search(shop, "a dress")
    see(shop, "#title", "a dress")
    search(shop, "a skirt")
    see(shop, "#title", "a skirt")
    assert shop.locator("#title", has_text="a dress and").count() == 0


def test_a_photo_that_is_gone_can_be_left_out(shop, shop_address):
    shop.goto(f"{shop_address}?name=gone.jpg&text=is+red")
    see(shop, "#problem", "no such photo")
    shop.get_by_role("button", name="Search without it").click()
    see(shop, "#title", "is red")
    see(shop, "#status", "20 results")
    assert shop.locator("#problem").is_hidden() and "gone" not in shop.url
    shop.goto(f"{shop_address}?upload=gone")
    see(shop, "#problem", "no longer available")
    shop.get_by_role("button", name="Show all photos").click()
    see(shop, "#title", "Start from a photo")


def test_the_grid_is_one_stop_for_the_tab_key(shop):
    search(shop, "a dress")
    see(shop, "#status", "20 results")
    stops = "[...document.querySelectorAll('#grid :is(a, button, input)')].filter(one => one.tabIndex >= 0)"
    assert shop.evaluate(f"new Set({stops}.map(one => one.closest('.tile'))).size") == 1
    shop.locator(".tile .pick").first.focus()
    shop.keyboard.press("ArrowRight")
    assert shop.evaluate(f"{stops}.map(one => one.closest('.tile').dataset.name)[0]") == names(shop)[1]
    assert shop.evaluate(f"{stops}.some(one => one.tagName === 'A')"), "the link of the product too"


def test_a_photo_of_too_many_pixels_is_made_smaller(page, tmp_path):
    Image.new("RGB", (7000, 6000), "crimson").save(tmp_path / "large.png")
    assert (tmp_path / "large.png").stat().st_size < 3e6
    page.set_input_files("#file", tmp_path / "large.png")
    see(page, "#title", "Photos like this one")
    assert page.locator("#problem").is_hidden()


def test_a_file_that_is_no_photo_leaves_the_results(page, tmp_path):
    search(page, "is red")
    see(page, "#status", "24 results")
    (tmp_path / "list.pdf").write_bytes(b"%PDF-1.4")
    page.set_input_files("#file", tmp_path / "list.pdf")
    see(page, "#problem", "not a readable image")
    see(page, "#status", "24 results")


def test_more_and_less_like_a_result(shop):
    search(shop, "a dress")
    see(shop, "#status", "20 results")
    before = titles(shop)
    tile = shop.locator(".tile").first
    box = tile.bounding_box()
    for button in tile.locator(".actions button").all():
        where = button.bounding_box()
        assert where["x"] >= box["x"] and where["x"] + where["width"] <= box["x"] + box["width"], "nothing is cut off"
    press(shop.locator(".tile").nth(19), "More like")
    see(shop, "#judged", "more like")
    see(shop, "#status", "20 results")
    assert titles(shop) != before and "like=" in shop.url
    assert shop.locator(".judge[aria-pressed=true]").count() == 1
    press(shop.locator(".tile", has_text=before[0]), "Less like")
    see(shop, "#status", "19 results")
    assert before[0] not in titles(shop)
    shop.locator("#judged button").nth(1).click()
    see(shop, "#status", "20 results")
    shop.go_back()
    see(shop, "#status", "19 results")


def test_the_focus_stays_in_place_when_a_result_is_refused(shop):
    search(shop, "a dress")
    see(shop, "#status", "20 results")
    second = shop.locator(".tile").nth(1)
    second.locator(".pick").focus()
    second.get_by_label("Less like").press("Enter")
    see(shop, "#status", "19 results")
    assert focused(shop) == names(shop)[1]


def test_keep_refining_or_start_again(shop):
    search(shop, "is red")
    see(shop, "#title", "is red")
    shop.get_by_label("Keep refining").check()
    search(shop, "is long")
    see(shop, "#title", "is red and is long")
    assert shop.locator("#texts li").count() == 2 and shop.input_value("#text") == ""
    shop.get_by_label("Remove “is red”").click()
    see(shop, "#title", "is long")
    shop.get_by_label("Start again").check()
    search(shop, "is blue")
    see(shop, "#title", "is blue")
    assert "is long" not in shop.inner_text("#title")


def test_several_references_and_a_part_of_the_first(shop, tmp_path):
    asked = []
    shop.on("request", lambda r: asked.append(r.post_data_json) if r.url.endswith("/api/search") else None)
    shop.locator(".tile .pick").first.click()
    see(shop, "#title", "Photos like this one")
    Image.new("RGB", (60, 80), "crimson").save(tmp_path / "mine.jpg")
    with shop.expect_file_chooser() as chooser:
        shop.click("#add")
    chooser.value.set_files(tmp_path / "mine.jpg")
    see(shop, "#title", "Photos like these")
    assert [list(one) for one in asked[-1]["references"]] == [["upload"]] and shop.locator("#others li").count() == 1
    shop.click("#crop")
    frame = shop.locator("#chosen-photo").bounding_box()
    x, y = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
    shop.mouse.move(x - 60, y - 60)
    shop.mouse.down()
    shop.mouse.move(x, y, steps=3)
    shop.mouse.up()
    shop.wait_for_url("**box=**")
    see(shop, "#status", "results")
    left, top, right, bottom = asked[-1]["box"]
    assert 0 <= left < right < 0.6 and 0 <= top < bottom < 0.6
    shop.locator("#box").focus()
    shop.keyboard.press("ArrowRight")
    shop.wait_for_function(f"!location.search.includes({f'box={left:.3f}'!r})")
    see(shop, "#status", "results")
    assert asked[-1]["box"][0] == pytest.approx(left + 0.05, abs=2e-3)
    shop.keyboard.press("Escape")
    assert shop.get_attribute("#crop", "aria-pressed") == "false"
    shop.click("#whole")
    shop.wait_for_function("!location.search.includes('box')")
    shop.locator("#others button").click()
    see(shop, "#title", "Photos like this one")


def test_the_larger_view_is_closed_by_escape_and_by_the_back_button(shop):
    search(shop, "a dress")
    see(shop, "#status", "20 results")
    length = shop.evaluate("history.length")
    shop.locator(".larger").first.click(force=True)
    see(shop, "#view-body", "Search from this photo")
    assert shop.inner_text("#view-title") == titles(shop)[0]
    assert shop.locator("#view dt").all_inner_texts() == ["Size", "Vendor", "Variant Price", "Added", "colour"]
    shop.locator("#view .strip button").nth(1).wait_for()
    shop.keyboard.press("ArrowRight")
    shop.wait_for_function(f"document.querySelector('#view-title').innerText == {titles(shop)[1]!r}")
    shop.get_by_label("Previous photo").click()
    shop.wait_for_function(f"document.querySelector('#view-title').innerText == {titles(shop)[0]!r}")
    assert shop.get_by_label("Previous photo").is_disabled() and shop.get_by_label("Next photo").is_enabled()
    shop.keyboard.press("Escape")
    shop.locator("#view").wait_for(state="hidden")
    shop.wait_for_function("!history.state.dialog")
    shop.locator(".larger").first.click(force=True)
    shop.locator("#view").wait_for(state="visible")
    shop.go_back()
    shop.locator("#view").wait_for(state="hidden")
    see(shop, "#title", "a dress")
    assert shop.evaluate("history.length") == length + 1, "the entry of the dialog is used again"
    search(shop, "a dress")
    shop.go_back()
    see(shop, "#title", "Start from a photo")


def test_back_takes_one_step_at_a_time(shop):
    length = shop.evaluate("history.length")
    search(shop, "a dress")
    see(shop, "#status", "20 results")
    search(shop, "a dress")
    choose(shop, "Size", "S")
    see(shop, "#status", "7 results")
    shop.select_option("#order", label="Name, A to Z")
    see(shop, "#status", "7 best matches")
    press(shop.locator(".tile").first, "Less like")
    see(shop, "#status", "6 best matches")
    shop.locator(".explain").first.click(force=True)
    see(shop, "#why-body", "is the sum of these")
    shop.go_back()
    shop.locator("#why").wait_for(state="hidden")
    see(shop, "#status", "6 best matches")
    assert shop.evaluate("history.length") == length + 5, "one entry a step, and one for the explanation"
    for status in ("7 best matches", "7 results", "20 results"):
        shop.go_back()
        see(shop, "#status", status)
    shop.go_back()
    see(shop, "#title", "Start from a photo")


def test_a_copied_link_brings_the_uploaded_photo_along(shop, shop_address, tmp_path):
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "mine.png")
    shop.set_input_files("#file", tmp_path / "mine.png")
    see(shop, "#title", "Photos like this one")
    search(shop, "is red")
    see(shop, "#title", "Like this, but: is red")
    shop.evaluate("() => { navigator.clipboard.writeText = async text => { window.copied = text; }; }")
    shop.click("#copy")
    see(shop, "#copy", "Link copied")
    link = shop.evaluate("window.copied")
    assert link.startswith(shop_address) and "#photo=" in link and len(link) < 30_000
    gone = link.replace("upload=", "upload=gone")  # as after a restart of the server
    other = shop.context.new_page()
    other.goto(gone)
    see(other, "#title", "Like this, but: is red")
    see(other, "#status", "20 results")
    assert "gone" not in other.url and "#" not in other.url


def test_a_selection_is_saved_as_csv(shop):
    search(shop, "a dress")
    see(shop, "#status", "20 results")
    for index in (0, 2):
        shop.locator(".select input").nth(index).check(force=True)
    see(shop, "#selection", "2 photos selected")
    with shop.expect_download() as download:
        shop.click("#save")
    rows = list(csv.DictReader(download.value.path().read_text(encoding="utf-8-sig").splitlines()))
    assert [row["title"] for row in rows] == [titles(shop)[0], titles(shop)[2]]
    assert 1 >= float(rows[0]["score"]) > float(rows[1]["score"]), "scores are for the operator, not for the page"
    assert rows[0]["price as shown"].endswith("€") and rows[0]["Size"] and rows[0]["link"].startswith("https://shop.example")
    shop.click("#unselect")
    assert shop.locator("#selection").is_hidden() and not shop.locator(".select input:checked").count()


def test_more_photos_appear_at_the_end_of_the_page(page):
    assert len(names(page)) == 24
    page.locator(".tile").last.scroll_into_view_if_needed()
    page.locator(".tile").nth(39).wait_for()
    assert len(set(names(page))) == 40
    search(page, "a dress")
    see(page, "#status", "24 results")
    assert page.locator("#title").bounding_box()["y"] >= 0, "a new search starts at its first result"
    page.locator(".tile").last.scroll_into_view_if_needed()
    see(page, "#status", "40 results")


def test_a_large_photo_is_made_smaller_before_it_is_sent(page, tmp_path):
    Image.effect_noise((2400, 1800), 90).convert("RGB").save(tmp_path / "large.png")
    assert (tmp_path / "large.png").stat().st_size > 3e6
    page.evaluate(
        """() => { const send = fetch; window.fetch = (url, options) => {
            if (url === 'api/upload') window.sent = options.body.size;
            return send(url, options); }; }"""
    )
    page.set_input_files("#file", tmp_path / "large.png")
    see(page, "#title", "Photos like this one")
    assert 1_000 < page.evaluate("window.sent") < 3e6


@pytest.fixture
def phone(browser, shop_address):
    "The page of the shop on a phone."
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.set_default_timeout(15_000)
    page.goto(shop_address)
    page.locator(".tile .pick img").first.wait_for()
    yield page
    context.close()


def test_a_phone_takes_a_photo(phone, shop, tmp_path):
    assert shop.locator("#camera").is_hidden(), "a computer has no camera to point at a dress"
    Image.new("RGB", (60, 80), "crimson").save(tmp_path / "shot.jpg")
    with phone.expect_file_chooser() as chooser:
        phone.get_by_role("button", name="Take a photo").tap()
    camera = chooser.value.element
    assert camera.get_attribute("capture") == "environment" and camera.get_attribute("accept") == "image/*"
    chooser.value.set_files(tmp_path / "shot.jpg")
    see(phone, "#title", "Photos like this one")
    assert phone.locator("#camera").is_hidden(), "Change and Add photo offer the camera too"
    assert phone.evaluate("document.activeElement.id") != "text", "the keyboard would cover the results"
    search(phone, "is red")
    see(phone, "#title", "Like this, but: is red")
    assert phone.evaluate("document.activeElement.id") != "text"


def test_filters_on_a_phone_lead_to_the_results(phone):
    phone.locator("#filters > summary").tap()
    phone.locator("details[data-column=Size] > summary").tap()
    phone.locator("details[data-column=Size]").get_by_label("XL").check()
    see(phone, "#title", "6 products")
    phone.get_by_role("button", name="Show the results").tap()
    assert phone.locator("#filters[open]").count() == 0
    assert 0 <= phone.locator("#title").bounding_box()["y"] < 300
    assert phone.locator(".tile").first.bounding_box()["y"] < 844


def walk(page, photo):
    "Bring the page into each of its states and yield the name of the state."
    yield "gallery"
    page.set_input_files("#file", photo)
    see(page, "#title", "Photos like this one")
    yield "a photo's results"
    search(page, "is maxi")
    see(page, "#ignored", "I don't know the word 'maxi'")
    yield "a text that is ignored"
    page.get_by_label("Keep refining").check()
    search(page, "is red")
    see(page, "#title", "is red")
    page.locator(".select input").first.check(force=True)
    page.locator(".judge").first.dispatch_event("click")
    see(page, "#judged", "more like")
    page.locator(".judge").nth(3).dispatch_event("click")
    see(page, "#judged", "less like")
    yield "a refined query, with marked and selected results"
    page.click("#crop")
    yield "crop"
    page.keyboard.press("Escape")
    page.locator(".larger").first.dispatch_event("click")
    see(page, "#view-body", "Search from this photo")
    page.locator("#view .strip button").nth(1).wait_for()
    yield "larger view"
    page.keyboard.press("Escape")
    page.locator(".explain").first.dispatch_event("click")
    see(page, "#why-body", "is the sum of these")
    yield "explanation"
    page.keyboard.press("Escape")
    page.locator("#why").wait_for(state="hidden")
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    choose(page, "Size", "XL")
    see(page, "#filter-count", "1")
    see(page, "#status", "results")
    yield "filters"
    page.fill("#filter-text", '"Variant Price" < 1')
    page.press("#filter-text", "Enter")
    see(page, "#empty", "No products match these filters.")
    yield "nothing found"
    page.fill("#filter-text", "price <")
    page.press("#filter-text", "Enter")
    see(page, "#problem", "The filter is wrong")
    yield "error"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing(browser, shop_address, tmp_path, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    Image.new("RGB", (60, 80), "crimson").save(tmp_path / "mine.jpg")
    phone = {"has_touch": True, "is_mobile": True} if width < 800 else {}
    context = browser.new_context(viewport={"width": width, "height": 860}, color_scheme=scheme, **phone)
    page = context.new_page()
    page.set_default_timeout(15_000)
    page.goto(shop_address)
    page.locator(".tile .pick img").first.wait_for()
    found = {}
    for state in walk(page, tmp_path / "mine.jpg"):
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{state}: overflows to the right"
        report = axe.Axe().run(page)
        for violation in report.response["violations"]:
            nodes = [node["html"][:160] + " " + node["failureSummary"] for node in violation["nodes"]]
            found[state, violation["id"]] = nodes
    context.close()
    assert not found
