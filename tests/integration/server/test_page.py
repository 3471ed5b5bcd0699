"""The box's page in a real browser: it shows what the daemon did, and complains of nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from edge_runtime.router.frontier.memory import fails
from tests.support.browser import chromium, complaints, keep_shot, text, until
from tests.support.routed import certificate, json_label, routed

LOCAL_FIRST = {
    "endpoints": {
        "letters": {"models": ["letter-class"]},
        "talk": {"models": ["echo"], "policy": "local-only"},
    }
}
PROMISE = certificate("4" * 64, "letter-class", 0.93)


def ask(browser: webdriver.Chrome, who: str, what: str) -> str:
    """Ask in the page and return the newest entry of the talk."""
    until(browser, lambda: who in text(browser, "model"))
    Select(browser.find_element(By.ID, "model")).select_by_visible_text(who)
    talk = browser.find_element(By.ID, "talk")
    before = len(talk.find_elements(By.TAG_NAME, "li"))
    browser.find_element(By.ID, "text").send_keys(what)
    browser.find_element(By.ID, "send").click()
    until(browser, lambda: len(talk.find_elements(By.TAG_NAME, "li")) == before + 1)
    newest = talk.find_element(By.TAG_NAME, "li")
    until(browser, lambda: bool(newest.find_elements(By.CLASS_NAME, "who")))
    return newest.text


async def test_the_page_shows_who_answered_and_why(tmp_path: Path) -> None:
    async with routed(json_label("vowel"), PROMISE, cached=True, **LOCAL_FIRST) as daemon:
        url = str(daemon.client._base_url)
        for letter in "btzkaeb":
            await daemon.post("/v1/classify", {"model": "letters", "input": f"{letter}la"})

        def look() -> None:
            with chromium(tmp_path) as browser:
                browser.get(url)
                until(browser, lambda: "version" in text(browser, "state"))
                until(browser, lambda: "confident 4" in text(browser, "reasons"))
                assert "low-confidence 2, cached 1" in text(browser, "reasons")
                kept = ask(browser, "letters (classify)", "<b>tree</b>")
                assert "consonant" not in kept
                kept = ask(browser, "letters (classify)", "tree")
                assert "consonant 0.9" in kept
                assert "local: letter-class@1.0 · confident" in kept
                sent = ask(browser, "letters (classify)", "apple")
                assert sent.splitlines()[1] == "vowel"
                assert "frontier: big · low-confidence" in sent
                said = ask(browser, "talk (generate)", "hello there")
                assert "hello there" in said.split("\n", 1)[1]
                until(browser, lambda: "apple" not in text(browser, "recent"))
                until(browser, lambda: "talk" in text(browser, "recent"))
                assert "5.0 % wrong, 90.0 % sure" in text(browser, "models")
                assert "in force" in text(browser, "models")
                assert "Frontiers: big" in text(browser, "frontiers")
                assert browser.find_elements(By.CSS_SELECTOR, "#chart rect.local")
                assert not browser.find_elements(By.CSS_SELECTOR, "#talk b")
                assert complaints(browser) == []
                keep_shot(browser, "box-page.png")

        await asyncio.to_thread(look)


async def test_a_degraded_answer_is_said_aloud_and_a_phone_shows_all(tmp_path: Path) -> None:
    async with routed(lambda _: fails(503), PROMISE, **LOCAL_FIRST) as daemon:
        url = str(daemon.client._base_url)

        def look() -> None:
            with chromium(tmp_path, width=500, height=900) as browser:
                browser.get(url)
                said = ask(browser, "letters (classify)", "apple")
                assert "degraded" in said
                until(browser, lambda: "degraded" in text(browser, "recent"))
                wide = browser.execute_script(
                    "return document.documentElement.scrollWidth - window.innerWidth"
                )
                assert wide <= 0
                keep_shot(browser, "box-page-narrow.png", width=500)

        await asyncio.to_thread(look)
