"""The operator page in Chromium: over calls that the test makes happen, and over a real server with a real call."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from mediaserver.api.tokens import TokenStore
from mediaserver.rtp.codec import audioop
from mediaserver.speech.script import Words
from tests.interop.chromium import chromium, needs_chromium, screenshot, watched_page
from tests.interop.fake_node import FakeNode
from tests.interop.server import StartServer, free_tcp_port
from tests.mediaserver.api.fake_calls import FakeCalls

pytestmark = needs_chromium

LOUD = re.compile(r"scaleX\((0\.[5-9]|1)")
HOSTILE = "<img src=x onerror=\"document.title='owned'\"> & <script>document.title='owned'</script>"
PHONE = {"width": 375, "height": 700}
DESK = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeNode]:
    with FakeNode(tmp_path_factory.mktemp("node"), pbx={"host": "pbx.example"}) as node:
        yield node


@pytest.fixture
def node(shared: FakeNode) -> FakeNode:
    """As it was in the beginning: no calls."""
    shared.do(clear)
    return shared


@pytest.fixture(scope="module")
def signed_in(browser: Browser, shared: FakeNode) -> Iterator[Page]:
    """May do everything."""
    with watched_page(browser, shared.url, viewport=DESK) as watched:
        sign_in(watched.page, shared.url, shared.token("admin"))
        yield watched.page


@pytest.fixture
def page(signed_in: Page, node: FakeNode) -> Page:
    """Shows that there are no calls."""
    assert not node.calls.draining
    expect(signed_in.locator("#no-calls")).to_be_visible()
    return signed_in


def clear(calls: FakeCalls) -> None:
    for call in calls.running():
        call.end()
    calls.calls.clear()
    calls.orders.clear()
    calls.draining = False


def sign_in(page: Page, url: str, token: str) -> None:
    page.goto(url)
    page.fill("#token", token)
    page.press("#token", "Enter")
    expect(page.locator("#board")).to_be_visible()


def test_only_a_token_lets_in_and_only_to_what_it_may(browser: Browser, node: FakeNode) -> None:
    call = node.do(lambda calls: calls.arrive())
    with watched_page(browser, node.url, viewport=DESK) as watched:
        page = watched.page
        page.goto(node.url)
        expect(page.locator("#token")).to_be_focused()
        page.keyboard.type("ctl_wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#notice")).to_contain_text("unknown")
        expect(page.locator("#board")).to_be_hidden()

        page.fill("#token", node.token("calls:read"))
        page.click("#sign-in-form button")
        expect(page.locator("#node")).to_have_text("taking calls")
        page.reload()
        page.click("text=Hang up")
        expect(page.locator("#notice")).to_contain_text("Not allowed")
        assert not call.over
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]

        page.click("#sign-out")
        expect(page.locator("#sign-in")).to_be_visible()
        page.reload()
        expect(page.locator("#sign-in")).to_be_visible()


def test_calls_come_and_speak_and_go(page: Page, node: FakeNode) -> None:
    expect(page.locator("#no-calls")).to_be_visible()
    call = node.do(lambda calls: calls.arrive())
    node.do(lambda _: [call.say((Words(HOSTILE),)), call.say((Words("The second."),))])
    row = page.locator(f'[data-call="{call.id}"]')
    expect(row).to_contain_text("alice@pbx.example")
    expect(row.locator(".text")).to_have_text(HOSTILE)  # text, and never markup
    assert page.locator("#call-list img, #call-list script").count() == 0
    assert page.title() == "Chatterline"
    expect(row).to_contain_text("+1")
    expect(page.locator("#tile-calls")).to_have_text("1")
    expect(row.locator(".out")).to_have_attribute("style", LOUD)
    expect(row.locator(".in")).to_have_attribute("style", re.compile(r"scaleX\(0\.[1-9]"))

    node.do(lambda _: call.pass_utterance())
    expect(row).to_contain_text("The second.")
    node.do(lambda _: [call.pass_utterance(), call.hold()])
    expect(row).to_contain_text("silent")
    expect(row).to_contain_text("held by us")
    node.do(lambda _: call.end())
    expect(row).to_have_count(0)
    expect(page.locator("#no-calls")).to_be_visible()


def test_what_has_the_focus_keeps_it_while_the_list_changes(page: Page, node: FakeNode) -> None:
    first = node.do(lambda calls: calls.arrive())
    button = page.locator(f'[data-call="{first.id}"] >> text=Hang up')
    button.focus()
    top = button.bounding_box()
    second = node.do(lambda calls: calls.arrive())
    node.do(lambda _: first.say((Words("Something long is said. " * 20),)))
    expect(page.locator(f'[data-call="{second.id}"]')).to_be_visible()
    expect(page.locator(f'[data-call="{first.id}"]')).to_contain_text("Something long")

    expect(button).to_be_focused()
    assert button.bounding_box() == top  # nothing has jumped
    page.keyboard.press("Enter")
    expect(page.locator(f'[data-call="{first.id}"]')).to_have_count(0)
    assert node.do(lambda _: first.done) == ["hang_up"]


def test_a_call_is_heard_and_let_go(page: Page, node: FakeNode) -> None:
    call = node.do(lambda calls: calls.arrive())
    other = node.do(lambda calls: calls.arrive())
    listen = page.locator(f'[data-call="{call.id}"] >> text=Listen')
    listen.click()
    expect(listen).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#listen-outbound")).to_have_attribute("style", LOUD)
    until(page, lambda: page.evaluate("chatterline.heard") > 50)
    assert page.evaluate("chatterline.playing") == "running"

    page.click(f'[data-call="{other.id}"] >> text=Listen')  # one at a time
    expect(listen).to_have_attribute("aria-pressed", "false")
    until(page, lambda: page.evaluate("chatterline.heard") > 10)
    node.do(lambda _: other.end())
    expect(page.locator("#listen-what")).to_contain_text("ended")
    expect(page.locator("#listen-stop")).to_be_disabled()
    until(
        page,
        lambda: node.do(lambda _: not [one for one in call.audio["outbound"] if "Meter" not in type(one).__name__]),
    )


def test_a_call_is_placed_and_followed(page: Page, node: FakeNode) -> None:
    expect(page.locator("#trunk option")).to_have_text(["pbx", "self (this server)"])
    expect(page.locator("#trunk")).to_have_value("self")
    page.select_option("#trunk", "pbx")
    page.fill("#to", "+15550100")
    page.fill("#text", "Hello <b>there</b>.")
    page.click("#place")
    expect(page.locator("#placed")).to_have_text("ringing")
    [order] = node.do(lambda calls: calls.orders)
    assert (order.trunk, order.to, order.hang_up_after) == ("pbx", "+15550100", True)
    assert order.script == (Words("Hello <b>there</b>."),)

    node.do(lambda calls: calls.calls[0].answer())
    expect(page.locator("#placed")).to_have_text("answered")
    until(page, lambda: page.evaluate("chatterline.heard") > 10)
    node.do(lambda calls: calls.calls[0].pass_utterance())
    expect(page.locator("#placed")).to_have_text("ended: said")
    expect(page.locator("#listen-stop")).to_be_disabled()


def test_a_call_that_nobody_answers(page: Page, node: FakeNode) -> None:
    page.click("#place")
    expect(page.locator("#placed")).to_have_text("ringing")
    expect(page.locator("#listen-what")).to_have_text("Waiting for the answer.")
    node.do(lambda calls: calls.calls[0].end("no_answer"))

    expect(page.locator("#placed")).to_have_text("ended: no answer")
    expect(page.locator("#listen-what")).to_have_text("The call was not answered.")


def test_drain_and_back(page: Page, node: FakeNode) -> None:
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.click("#drain")
    assert not node.calls.draining

    page.once("dialog", lambda dialog: dialog.accept())
    page.click("#drain")
    expect(page.locator("#node")).to_have_text("draining")
    assert node.calls.draining
    page.click("#place")
    expect(page.locator("#notice")).to_contain_text("That failed")
    page.click("#drain")
    expect(page.locator("#node")).to_have_text("taking calls")
    assert not node.calls.draining


def test_fifty_of_many_calls_are_shown(page: Page, node: FakeNode) -> None:
    node.do(lambda calls: [calls.arrive() for _ in range(70)])

    expect(page.locator(".call")).to_have_count(50)
    expect(page.locator("#calls-count")).to_have_text("the oldest 50 of 70")
    metered = node.do(lambda calls: [call for call in calls.running() if call.audio["inbound"]])
    assert len(metered) <= 50


def test_a_server_that_is_gone_for_a_moment(page: Page) -> None:
    page.route("**/v1/**", lambda route: route.abort())
    expect(page.locator("#node")).to_have_text("no answer")
    expect(page.locator("#notice")).to_contain_text("does not answer")
    page.unroute("**/v1/**")
    expect(page.locator("#node")).to_have_text("taking calls")
    expect(page.locator("#notice")).to_be_hidden()


def test_it_fits_a_desk_and_a_phone_by_day_and_by_night(page: Page, node: FakeNode, tmp_path: Path) -> None:
    call = node.do(lambda calls: calls.arrive())
    node.do(lambda _: call.say((Words("Unbreakable" * 40),)))
    expect(page.locator(".call")).to_contain_text("Unbreakable")
    for name, size in (("desk", DESK), ("phone", PHONE)):
        page.set_viewport_size(size)
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)
            screenshot(page, tmp_path, f"{name}-{scheme}")

            assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (max(map(int, re.findall(r"\d+", ground)[:3])) < 60) == (scheme == "dark")
    page.set_viewport_size(DESK)


def test_the_arithmetic_of_the_scripts(page: Page) -> None:
    decoded = page.evaluate(
        """async () => {
            const { decode } = await import("/page/mulaw.js");
            const all = String.fromCharCode(...Array.from({ length: 256 }, (_, code) => code));
            return Array.from(decode(btoa(all)), (sample) => Math.round(sample * 32768));
        }"""
    )
    expected = audioop.ulaw2lin(bytes(range(256)), 2)
    assert decoded == [int.from_bytes(expected[n : n + 2], "little", signed=True) for n in range(0, 512, 2)]

    figures = page.evaluate(
        """async () => {
            const { combined, quantile, Growth } = await import("/page/figures.js");
            const one = combined([
                { labels: {}, bounds: [0.1, 0.2, 0.4], counts: [0, 10, 10, 10] },
                { labels: {}, bounds: [0.1, 0.2, 0.4], counts: [0, 0, 10, 20] },
            ]);
            const growth = new Growth();
            return [one.counts, one.total, quantile(one, 0.25), quantile(one, 0.5), quantile(one, 1),
                quantile(combined([]), 0.5), growth.read({ a: 5 }, 1), growth.read({ a: 7 }, 1),
                growth.read({ a: 1 }, 2)];
        }"""
    )
    assert figures[:2] == [[0, 10, 10, 10], 30]
    assert figures[2] == pytest.approx(0.175)
    assert figures[3:6] == [pytest.approx(0.3), 0.4, None]
    assert figures[6:] == [{"a": 0}, {"a": 2}, {"a": 0}]

    points = page.evaluate(
        """async () => {
            const { History } = await import("/page/figures.js");
            const history = new History(300);
            for (const at of [1000, 1002, 1290, 1301, 1301]) history.add(at, [at]);
            return history.points;
        }"""
    )
    assert points == [[299, [1002]], [11, [1290]], [0, [1301]]]  # what was not looked at is a gap

    units = page.evaluate(
        """async () => {
            const { clock, party, milliseconds } = await import("/page/units.js");
            const { ceiling } = await import("/page/charts.js");
            return [clock(75), clock(3675), party("sip:alice@pbx.example:5060;transport=udp"), party("sips:10.0.0.1"),
                party(""), milliseconds(0.0834), milliseconds(null), ceiling(7, 5), ceiling(0, 1), ceiling(101, 5)];
        }"""
    )
    assert units == ["1:15", "1:01:15", "alice@pbx.example", "10.0.0.1", "unknown", "83 ms", "–", 10, 1, 200]


def test_a_real_server_calls_itself_and_is_heard(
    browser: Browser, chatterline_server: StartServer, tmp_path: Path
) -> None:
    port = free_tcp_port()
    tokens = tmp_path / "tokens"
    secret = TokenStore(tokens).add("page", ("admin",), time.time())[1]
    server = chatterline_server(API__PORT=str(port), API__TOKENS_FILE=str(tokens))
    url = f"http://127.0.0.1:{port}"
    with watched_page(browser, url, viewport=DESK) as watched:
        page = watched.page
        sign_in(page, url, secret)
        page.fill("#text", "This is a test of the operator page, long enough to be looked at.")
        page.click("#place")
        expect(page.locator(".call")).to_have_count(2)  # as the one that calls, and as the one that is called
        placed = page.locator(".call", has_text="placed to")
        expect(placed).to_contain_text("This is a test of the operator page")
        expect(placed.locator(".out")).to_have_attribute("style", LOUD)
        expect(page.locator("#listen-outbound")).to_have_attribute("style", LOUD)
        until(page, lambda: page.evaluate("chatterline.heard") > 100)
        expect(page.locator("#tile-first")).to_contain_text("ms")
        expect(page.locator("#engines")).to_contain_text("embedded")
        assert page.locator("#first-chart rect[height]").count() > 5
        screenshot(page, tmp_path, "real")

        expect(page.locator("#placed")).to_contain_text("ended", timeout=30_000)
        expect(page.locator("#no-calls")).to_be_visible()
        page.once("dialog", lambda dialog: dialog.accept())
        page.click("#drain")
        expect(page.locator("#node")).to_have_text("draining")
    assert secret not in server.log


def until(page: Page, condition: Callable[[], bool]) -> None:
    """Playwright's wait_for_function() evaluates strings in the page, which its policy forbids."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        page.wait_for_timeout(20)
