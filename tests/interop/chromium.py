"""Debian's Chromium without a screen, driven by playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
EXECUTABLE = os.environ.get("CHROMIUM") or shutil.which("chromium")

needs_chromium = pytest.mark.skipif(EXECUTABLE is None, reason="apt install chromium, or name one in CHROMIUM")


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=EXECUTABLE, headless=True, args=list(FLAGS))
        yield browser
        browser.close()


class Watched:
    """A page of its own session, and what went wrong in it: at the end it must be nothing."""

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self.page: Page = context.new_page()
        self.page.set_default_timeout(15_000)
        self.origin = origin
        self.errors: list[str] = []
        self.outside: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self._said(message.type, message.text))
        self.page.on("request", lambda request: self._asked(request.url))

    def expect_no_trouble(self) -> None:
        assert self.errors == []
        assert self.outside == []

    def _said(self, kind: str, text: str) -> None:
        # A request that the server refuses is logged by the browser; that the page shows it is tested.
        if kind in ("error", "warning") and not text.startswith(("Failed to load resource", "WebSocket connection to")):
            self.errors.append(text)

    def _asked(self, url: str) -> None:
        if urlsplit(url).netloc != urlsplit(self.origin).netloc:
            self.outside.append(url)


@contextmanager
def watched_page(browser: Browser, origin: str, **options: object) -> Iterator[Watched]:
    context = browser.new_context(**options)  # type: ignore[arg-type]
    watched = Watched(context, origin)
    yield watched
    watched.expect_no_trouble()
    context.close()


def screenshot(page: Page, directory: Path, name: str) -> None:
    """The whole page as PNG, to be looked at."""
    page.screenshot(path=directory / f"{name}.png", full_page=True)
