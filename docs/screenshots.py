"""Pictures of the chat page and of the evaluation's report, for README and docs: `make demo`, then
python docs/screenshots.py."""

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from browser_helpers import Browser, Tab, chat_page, free_port  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402
from server_process import Running  # noqa: E402

DEMO, DOCS, WORLD = ROOT / "outputs" / "demo", ROOT / "docs", ROOT / "sample_data" / "world"
SHOP = "노람 가게는 책을 판다. 쉬는 날은 수요일이다. 노람 가게는 오후 7시에 문을 닫는다."
WELCOME = "이 작은 모델은 지어낸 세계의 짧은 글을 읽고 답합니다. 그 밖의 것은 알지 못합니다."
FESTIVAL = "두손 축제는 해마다 5월에 열린다. 대표 행사는 씨름이다. 두손 축제의 대표 행사는 무엇입니까?"


def main() -> None:
    if sys.argv[1:] == ["report"]:
        return report()
    report()
    api = Running(
        "--model_id", DEMO / "base", "--lora_modules", f"sft={DEMO / 'sft'}", f"dpo={DEMO / 'dpo'}",
        "--max_num_seqs", 64, "--max_seq_length", 1024, "--task_examples", WORLD / "test_names.jsonl",
    )  # fmt: skip
    port = free_port()
    first_page = ("--starters_path", WORLD / "starters.txt", "--welcome", WELCOME)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = chat_page(f"{api.url}/v1", f"sqlite:///{folder}/chat.db", *first_page, port=port)
        browser = Browser(playwright)
        try:
            if len(sys.argv) < 2:
                pictures(browser, page.url)
            streaming(browser, page.url, api)
            page.stop()
            page = chat_page(f"{api.url}/v1", f"sqlite:///{folder}/chat.db", *first_page, port=port)
            after_a_restart(browser, page.url, api)
        finally:
            browser.close()
            page.stop()
            api.stop()


def report() -> None:
    with sync_playwright() as playwright:
        browser = Browser(playwright)
        tab = browser.open((DEMO / "evaluation" / "report.html").as_uri(), height=980, ready=False)
        tab.page.wait_for_selector("article")
        tab.shot(DOCS / "evaluation.png")
        browser.close()


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
    compare(tab)

    tab = browser.open(url, height=760)
    tab.send(FESTIVAL)
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
    for question in (FESTIVAL, "감자는 무엇입니까?", f"{SHOP} 노람 가게는 무슨 요일에 쉽니까?"):
        phone.send(question)
        if phone.page.locator("[data-arena=vote]").count():  # none where two models gave the same answer
            break
    phone.shot(DOCS / "page_phone.png")


def compare(tab: Tab) -> None:
    """A comparison that the DPO model wins, on the right: which two models answer is drawn at random."""
    for _ in range(30):
        if "오른쪽 dpo" in tab.text():
            break
        tab.page.click("#new-chat-button")
        tab.ready()
        tab.profile("arena")
        settings(tab, 14)
        tab.page.focus("[role=slider] >> nth=3")
        for _ in range(25):
            tab.page.keyboard.press("ArrowLeft")
        tab.page.click("#confirm")
        tab.page.wait_for_timeout(6000)
        tab.send(f"{SHOP} 노람 가게가 쉬는 날은 언제입니까?")
        tab.page.wait_for_selector("[data-arena=vote], [data-arena=same]")
        if not tab.page.query_selector("[data-arena=vote]"):
            continue
        tab.page.set_viewport_size({"width": 1200, "height": 1000})
        tab.page.locator("[data-vote=tie]").scroll_into_view_if_needed()
        tab.shot(DOCS / "page_arena.png")
        tab.page.click("[data-vote=right]")
        tab.page.wait_for_selector("[data-arena=voted]")
    tab.shot(DOCS / "page_arena_voted.png")


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
        tab.send(f"{SHOP} 노람 가게는 무슨 요일에 쉽니까?", wait=False)
        tab.page.wait_for_function("document.querySelector('.ai-message .message-content')?.innerText.length > 12")
        tab.page.screenshot(path=str(DOCS / "page_streaming.png"))
        tab.page.click("#stop-button")
        tab.idle()
        tab.shot(DOCS / "page_stopped.png")


def after_a_restart(browser: Browser, url: str, api: Running) -> None:
    """The page was restarted; then the server goes down."""
    tab = browser.open(url, height=760)
    tab.page.wait_for_timeout(6000)
    tab.page.click("text=노람 가게는 무슨 요일에 쉽니까? >> nth=0")
    tab.page.wait_for_selector(".ai-message")
    tab.shot(DOCS / "page_history.png")
    api.stop()
    tab.send(f"{SHOP} 노람 가게는 언제 문을 닫습니까?", wait=False)
    tab.page.wait_for_selector("text=다시 시도합니다 >> visible=true")
    tab.shot(DOCS / "page_waiting.png")


if __name__ == "__main__":
    main()
