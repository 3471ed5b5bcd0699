"""The console in a real browser: it shows what the API says, and complains of nothing."""

from __future__ import annotations

import asyncio
import importlib.resources
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from edge_runtime.agent.protocol import LogChunk
from fleet.rollout.states import Phase
from fleet.web.api import ASSETS
from tests.support.browser import chromium, complaints, keep_shot, text, until
from tests.support.console import COUNT, MARKUP, a_busy_fleet
from tests.support.fleet_api import Api, fleet_api


def enter(browser: webdriver.Chrome, url: str, secret: str, place: str = "") -> None:
    """Open the page and give it a token."""
    browser.get(f"{url}{place}")
    until(browser, lambda: "a token is needed" in text(browser, "state"))
    browser.find_element(By.ID, "token").send_keys(secret)
    browser.find_element(By.CSS_SELECTOR, "#token-form button").click()


def go(browser: webdriver.Chrome, name: str, shown: str) -> None:
    """Follow a link by its text and wait for the view."""
    browser.find_element(By.LINK_TEXT, name).click()
    until(browser, lambda: browser.find_element(By.ID, shown).is_displayed())


def url_of(api: Api) -> str:
    return str(api.client.make_url("/"))


async def test_fleet_boxes_and_telemetry_are_shown(tmp_path: Path) -> None:
    async with fleet_api(tmp_path, page_items=100) as api:
        await a_busy_fleet(api)
        url, secret = url_of(api), api.secrets["viewer"]

        def look() -> None:
            with chromium(tmp_path / "profile") as browser:
                enter(browser, url, secret)
                until(browser, lambda: "viewer, viewer" in text(browser, "state"))
                until(browser, lambda: f"{COUNT}" in text(browser, "fleet-cards"))
                assert "silent 3" in text(browser, "fleet-health")
                assert "unreachable 1" in text(browser, "fleet-health")
                assert "fetching 3" in text(browser, "fleet-states")
                assert "reverted 1" in text(browser, "fleet-states")
                assert "assistant 2, second try" in text(browser, "fleet-rollouts")
                assert "first try" not in text(browser, "fleet-rollouts")
                keep_shot(browser, "fleet-console.png")
                look_at_boxes(browser)
                look_at_a_box(browser)
                look_at_telemetry(browser)
                look_at_cost(browser)
                browser.find_element(By.ID, "leave").click()
                until(browser, lambda: "a token is needed" in text(browser, "state"))
                assert browser.execute_script("return sessionStorage.length") == 0
                assert complaints(browser) == []

        await asyncio.to_thread(look)


def look_at_boxes(browser: webdriver.Chrome) -> None:
    go(browser, "Boxes", "boxes-rows")
    rows = browser.find_element(By.ID, "boxes-rows")
    until(browser, lambda: len(rows.find_elements(By.TAG_NAME, "tr")) == COUNT)
    assert f"site={MARKUP}" in text(browser, "boxes-rows")
    assert not browser.find_elements(By.TAG_NAME, "b")
    Select(browser.find_element(By.ID, "health")).select_by_visible_text("unreachable")
    show = browser.find_element(By.CSS_SELECTOR, "#box-filter button")
    show.click()
    until(browser, lambda: len(rows.find_elements(By.TAG_NAME, "tr")) == 1)
    where = browser.find_element(By.ID, "where")
    where.send_keys("labls.site")
    show.click()
    until(browser, lambda: "labls" in text(browser, "boxes-error"))
    where.clear()
    where.send_keys('labels.site == "bergen"')
    Select(browser.find_element(By.ID, "health")).select_by_visible_text("any")
    show.click()
    until(browser, lambda: len(rows.find_elements(By.TAG_NAME, "tr")) == COUNT // 2)
    assert text(browser, "boxes-error") == ""
    refused = complaints(browser)
    assert refused
    assert all("labls.site" in one and "400" in one for one in refused), refused


def look_at_a_box(browser: webdriver.Chrome) -> None:
    go(browser, "t~b3", "box-items")
    assert "reverted, crashes: 3 crashes in probation" in text(browser, "box-items")
    assert "x86_64, 4 cores" in text(browser, "box-facts")
    assert "2 of 2" in text(browser, "box-cards")
    assert not browser.find_element(By.ID, "box-orders").is_displayed()
    hours = browser.find_elements(By.CSS_SELECTOR, "#box-hours tr")
    assert len(hours) == 20
    keep_shot(browser, "fleet-console-box.png")


def look_at_telemetry(browser: webdriver.Chrome) -> None:
    go(browser, "Telemetry", "telemetry-cards")
    cards = text(browser, "telemetry-cards")
    assert "20.0 %" in cards, cards  # from the cache: one of five lookups
    assert "9.1 %" in cards, cards  # escalated: one of eleven questions
    assert browser.find_elements(By.CSS_SELECTOR, "#chart rect.cache")
    assert "talk" in text(browser, "endpoints")
    assert "100.0 %" in text(browser, "endpoints")
    assert "rapl" in text(browser, "money")
    keep_shot(browser, "fleet-console-telemetry.png")


def look_at_cost(browser: webdriver.Chrome) -> None:
    go(browser, "Cost", "cost-cards")
    until(browser, lambda: "EUR" in text(browser, "cost-cards"))
    rows = [one.text for one in browser.find_elements(By.CSS_SELECTOR, "#cost-rows tr")]
    assert [one.split()[0] for one in rows] == ["talk", "summary", "intent", "(idle)"]
    assert "100.0 %" in rows[1], rows  # every summary was a frontier's
    assert browser.find_elements(By.CSS_SELECTOR, "#cost-plot rect.s0")
    assert "t~b2 100.0 %" in text(browser, "budgets-rows")
    keep_shot(browser, "fleet-console-cost.png")
    Select(browser.find_element(By.ID, "cost-by")).select_by_visible_text("owner")
    Select(browser.find_element(By.ID, "cost-what")).select_by_visible_text("share escalated")
    until(browser, lambda: "desk" in text(browser, "cost-legend"))
    assert browser.find_elements(By.CSS_SELECTOR, "#cost-plot path.trace")
    Select(browser.find_element(By.ID, "cost-by")).select_by_visible_text("budget")
    until(browser, lambda: "tenant:desk" in text(browser, "cost-rows"))
    assert "may fall under several" in text(browser, "cost-note")


async def test_a_rollout_is_read_and_steered(tmp_path: Path) -> None:
    async with fleet_api(tmp_path, page_items=100) as api:
        world = await a_busy_fleet(api)
        url, secret = url_of(api), api.secrets["operator"]

        def look() -> None:
            with chromium(tmp_path / "profile") as browser:
                enter(browser, url, secret, "#/rollouts")
                until(browser, lambda: "rolled back" in text(browser, "rollouts-rows"))
                look_at_the_bad_one(browser)
                go(browser, "Rollouts", "rollouts-rows")
                go(browser, "assistant 2, second try", "rollout-waves")
                parts = browser.find_elements(By.CSS_SELECTOR, "#rollout-waves .legend span")
                assert ", ".join(one.text.removeprefix("■ ") for one in parts) == (
                    "confirmed 10, confirmed 12, open 1, lost 1, waiting 16"
                )
                guards = text(browser, "rollout-guards")
                assert "escalation_rate moved by" in guards
                assert "evidence of no harm" in guards
                keep_shot(browser, "fleet-console-rollout.png")
                pause(browser, "<b>shops</b> are full")
                assert "<b>shops</b> are full" in text(browser, "rollout-history")
                assert not browser.find_elements(By.TAG_NAME, "b")
                assert complaints(browser) == []

        await asyncio.to_thread(look)
        assert world.store.tables["rollouts"]["r-2"].state.phase is Phase.PAUSED


def look_at_the_bad_one(browser: webdriver.Chrome) -> None:
    go(browser, "assistant 2, first try", "rollout-guards")
    guards = text(browser, "rollout-guards")
    assert "boxes: crashed" in guards
    assert "reached again from" in guards
    assert "reverted" in guards
    assert browser.find_elements(By.CSS_SELECTOR, "#rollout-guards strong.bad")
    assert "rolling back" in text(browser, "rollout-history")
    assert browser.find_elements(By.CSS_SELECTOR, "#rollout-actions button") == []
    keep_shot(browser, "fleet-console-guards.png")


def pause(browser: webdriver.Chrome, reason: str) -> None:
    offered = [
        one.text for one in browser.find_elements(By.CSS_SELECTOR, "#rollout-actions button")
    ]
    assert offered == ["pause", "retry", "halt", "rollback", "cancel"]
    assert not browser.find_element(By.ID, "confirm").is_displayed()
    browser.find_element(By.CSS_SELECTOR, "[data-action=pause]").click()
    browser.find_element(By.ID, "reason").send_keys(reason)
    browser.find_element(By.ID, "confirm").click()
    until(browser, lambda: "done: paused" in text(browser, "rollout-said"))
    until(browser, lambda: "resume" in text(browser, "rollout-actions"))


async def test_a_box_is_told_to_report_and_its_log_is_read(tmp_path: Path) -> None:
    async with fleet_api(tmp_path) as api:
        await a_busy_fleet(api)
        box, lines = "t~b3", ("a line", "<b>another</b>")
        api.orders.logs.expect("order-2", box)
        api.orders.logs.add(box, LogChunk(order="order-2", part=0, last=True, lines=lines))
        url, secret = url_of(api), api.secrets["operator"]

        def look() -> None:
            with chromium(tmp_path / "profile") as browser:
                enter(browser, url, secret, f"#/box/{box}")
                until(browser, lambda: browser.find_element(By.ID, "box-orders").is_displayed())
                browser.find_element(By.CSS_SELECTOR, "[data-order=report]").click()
                until(browser, lambda: "sent" in text(browser, "box-said"))
                browser.find_element(By.CSS_SELECTOR, "[data-order=log]").click()
                until(browser, lambda: "2 lines" in text(browser, "box-said"))
                assert text(browser, "box-log") == "\n".join(lines)
                assert complaints(browser) == []

        await asyncio.to_thread(look)
        assert api.orders.sent == [(box, "report"), (box, "log")]


async def test_a_wrong_token_is_asked_for_again_and_a_phone_shows_all(tmp_path: Path) -> None:
    async with fleet_api(tmp_path) as api:
        await a_busy_fleet(api)
        url, secret = url_of(api), api.secrets["viewer"]

        def look() -> None:
            with chromium(tmp_path / "profile", width=500, height=900) as browser:
                enter(browser, url, "eft_wrong", "#/rollout/r-1")
                until(browser, lambda: "opens nothing" in text(browser, "state"))
                browser.find_element(By.ID, "token").send_keys(secret)
                browser.find_element(By.CSS_SELECTOR, "#token-form button").click()
                until(browser, lambda: "first try" in text(browser, "rollout-title"))
                assert not browser.find_element(By.ID, "rollout-orders").is_displayed()
                for place in ("fleet", "boxes", "box/t~b3", "rollout/r-1", "telemetry"):
                    browser.execute_script(f"location.hash = '#/{place}'")
                    view = place.split("/")[0]
                    main = browser.find_element(By.CSS_SELECTOR, f"main[data-view={view}]")
                    until(browser, main.is_displayed)
                    wide = "return document.documentElement.scrollWidth - window.innerWidth"
                    assert browser.execute_script(wide) <= 0, place

        await asyncio.to_thread(look)


async def test_the_page_loads_nothing_from_elsewhere_and_needs_no_token(tmp_path: Path) -> None:
    async with fleet_api(tmp_path) as api:
        for path, (_, content_type) in ASSETS.items():
            async with api.client.get(path) as response:
                assert (response.status, response.content_type) == (200, content_type), path
                policy = response.headers["content-security-policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert "://" not in (await response.text()).replace(
                    "http://www.w3.org/2000/svg", ""
                )
        folder = importlib.resources.files("fleet.web") / "page"
        assert {one.name for one in folder.iterdir()} == {name for name, _ in ASSETS.values()}
        assert (await api.ask("GET", "/console/../api.py", role=None))[0] == 404
