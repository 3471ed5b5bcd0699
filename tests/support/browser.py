"""A headless Chromium for tests of pages, on an empty profile and without the outside world."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "test-services"
UNAVAILABLE = 77
PATIENCE_S = 60.0
SHOTS = os.environ.get("EDGE_SCREENSHOT_DIR")
FLAGS = (
    "--headless",
    "--no-sandbox",  # a test may run as root, in a container
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
)


@contextlib.contextmanager
def chromium(profile: Path, *, width: int = 1280, height: int = 1000) -> Iterator[webdriver.Chrome]:
    """A browser until the block ends. Skips the test, aloud, where there can be none."""
    found = subprocess.run(
        [sys.executable, SCRIPT, "browser"], capture_output=True, text=True, check=False
    )
    if found.returncode == UNAVAILABLE:
        pytest.skip(f"PAGE NOT TESTED: {found.stderr.strip()}")
    assert found.returncode == 0, found.stderr
    browser, driver = found.stdout.split()
    options = Options()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    try:
        opened.set_page_load_timeout(60)
        yield opened
    finally:
        opened.quit()


def complaints(browser: webdriver.Chrome) -> list[str]:
    """What the page's console holds of errors and refused loads."""
    return [
        str(entry["message"])
        for entry in browser.get_log("browser")
        if entry["level"] in ("SEVERE", "WARNING")
    ]


def until(browser: webdriver.Chrome, met: Callable[[], bool]) -> None:
    """Wait for something to be so."""
    WebDriverWait(browser, PATIENCE_S).until(lambda _: met())


def text(browser: webdriver.Chrome, name: str) -> str:
    """What the element of this id shows."""
    return browser.find_element(By.ID, name).text


def keep_shot(browser: webdriver.Chrome, name: str, width: int = 1280) -> None:
    """Where a folder for them is named, keep a picture of the whole page for the docs."""
    if SHOTS:
        tall = "return document.body.scrollHeight + outerHeight - innerHeight"
        browser.set_window_size(width, int(browser.execute_script(tall)))
        browser.save_screenshot(str(Path(SHOTS) / name))
