"""Pictures of the chat page for README and docs: `make demo`, then python docs/screenshots.py."""

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from browser_helpers import Browser, chat_page, free_port  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402
from server_process import Running  # noqa: E402

DEMO, DOCS = ROOT / "outputs" / "demo", ROOT / "docs"


def main() -> None:
    api = Running(
        "--model_id", DEMO / "base", "--lora_modules", f"sft={DEMO / 'sft'}", f"dpo={DEMO / 'dpo'}",
        "--max_num_seqs", 64, "--max_seq_length", 1024,
    )  # fmt: skip
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = chat_page(f"{api.url}/v1", f"sqlite:///{folder}/chat.db", port=port)
        browser = Browser(playwright)
        try:
            if len(sys.argv) < 2:
                pictures(browser, page.url)
            streaming(browser, page.url, api)
            page.stop()
            page = chat_page(f"{api.url}/v1", f"sqlite:///{folder}/chat.db", port=port)
            after_a_restart(browser, page.url, api)
        finally:
            browser.close()
            page.stop()
            api.stop()


def settings(tab, temperature_steps_down: int) -> None:
    tab.page.click("#chat-settings-open-modal")
    tab.page.focus("[role=slider] >> nth=0")
    for _ in range(temperature_steps_down):
        tab.page.keyboard.press("ArrowLeft")


def pictures(browser: Browser, url: str) -> None:
    tab = browser.open(url, height=760)
    tab.shot(DOCS / "page_welcome.png")
    settings(tab, 14)
    tab.shot(DOCS / "page_settings.png")
    tab.page.click("#confirm")
    tab.page.wait_for_timeout(6000)  # the toast goes
    tab.page.click("text=과제 고르기")
    tab.page.wait_for_selector(".task-form")
    tab.page.select_option("#task-picker", "task04_02")
    tab.page.click("#task-example")
    tab.shot(DOCS / "page_task_form.png")
    tab.page.click("#task-send")
    tab.page.wait_for_selector("[data-verdict]")
    tab.idle()
    tab.page.click(".positive-feedback-off >> visible=true")
    tab.page.fill("[role=dialog] textarea", "핵심을 잘 짚었다")
    tab.shot(DOCS / "page_thumb.png")
    tab.page.click("#submit-feedback")
    tab.page.wait_for_timeout(6000)
    tab.shot(DOCS / "page_task_answer.png")
    tab.page.click("#new-chat-button")
    tab.ready()
    tab.profile("arena")
    settings(tab, 14)
    tab.page.focus("[role=slider] >> nth=3")
    for _ in range(25):
        tab.page.keyboard.press("ArrowLeft")
    tab.page.click("#confirm")
    tab.page.wait_for_timeout(6000)
    tab.send("수출이 늘어난 까닭을 한 문장으로 말해 주세요.")
    tab.page.wait_for_selector("[data-arena=vote]")
    tab.page.set_viewport_size({"width": 1200, "height": 1000})
    tab.page.locator("[data-vote=tie]").scroll_into_view_if_needed()
    tab.shot(DOCS / "page_arena.png")
    tab.page.click("[data-vote=right]")
    tab.page.wait_for_selector("[data-arena=voted]")
    tab.shot(DOCS / "page_arena_voted.png")

    tab = browser.open(url, height=760)
    tab.send("갯벌이 중요한 까닭은 무엇인가요?")
    tab.page.click("button:has(svg.lucide-refresh-cw) >> nth=-1")
    tab.page.wait_for_selector("[data-branch]")
    tab.idle()
    tab.shot(DOCS / "page_versions.png")

    dark = browser.open(url, locale="en-US", height=760)
    dark.page.click("#theme-toggle")
    dark.page.click("[role=menuitem] >> nth=1")
    dark.shot(DOCS / "page_english_dark.png")

    phone = browser.open(url, width=390, height=844)
    phone.profile("arena")
    phone.send("바다가 파란 까닭은?")
    phone.page.wait_for_selector("[data-arena=vote]")
    phone.shot(DOCS / "page_phone.png")


def streaming(browser: Browser, url: str, api: Running) -> None:
    """The tiny model would end before anybody can press Stop: others keep the server busy."""
    body = {"model": "base", "prompt": "가", "max_tokens": 1000, "ignore_eos": True}
    with ThreadPoolExecutor(48) as others:
        for _ in range(48):
            others.submit(httpx.post, f"{api.url}/v1/completions", json=body, timeout=120, trust_env=False)
        tab = browser.open(url, height=760)
        settings(tab, 14)
        tab.page.click("#confirm")
        tab.page.wait_for_timeout(6000)
        tab.send("갯벌은 어떻게 만들어지나요?", wait=False)
        tab.page.wait_for_function("document.querySelector('.ai-message .message-content')?.innerText.length > 40")
        tab.page.screenshot(path=str(DOCS / "page_streaming.png"))
        tab.page.click("#stop-button")
        tab.idle()
        tab.shot(DOCS / "page_stopped.png")


def after_a_restart(browser: Browser, url: str, api: Running) -> None:
    """The page was restarted; then the server goes down."""
    tab = browser.open(url, height=760)
    tab.page.wait_for_timeout(6000)
    tab.page.click("text=갯벌은 어떻게 만들어지나요? >> nth=0")
    tab.page.wait_for_selector(".ai-message")
    tab.shot(DOCS / "page_history.png")
    api.stop()
    tab.send("그럼 갯벌에는 무엇이 사나요?", wait=False)
    tab.page.wait_for_selector("text=다시 시도합니다 >> visible=true")
    tab.shot(DOCS / "page_waiting.png")


if __name__ == "__main__":
    main()
