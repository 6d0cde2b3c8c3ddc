"""Walk through the dashboard in a browser, and say for each walk what was wrong.

    .run/browser/bin/python -m tests.browser.walk URL CHROMIUM

Prints a JSON object a line: `name`, and `wrong`, which is null for a walk in which all was right. It knows
nothing of Retriever but its addresses: `tests/integration/test_dashboard_browser.py` serves them, and works.
"""

import json
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.request import Request, urlopen

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

EVIL = "\"'><script>window.hit=1</script><img src=x onerror=window.hit=1>"
PAGES = (
    "/dashboard/", "/dashboard/jobs", "/dashboard/parked", "/dashboard/operations", "/dashboard/batches",
    "/dashboard/schedules", "/dashboard/hosts", "/dashboard/kinds", "/dashboard/keys", "/dashboard/audit",
    "/dashboard/submit", "/dashboard/help",
)  # fmt: skip
LOOK_MS = 10_000

Walk = Callable[["Visitor"], None]
WALKS: list[Walk] = []


def walk(function: Walk) -> Walk:
    """Walk this one, too."""
    WALKS.append(function)
    return function


class Visitor:
    """Somebody with a browser; what its pages complain about is wrong."""

    def __init__(self, browser: Browser, url: str) -> None:
        self._browser = browser
        self.url = url
        self.complaints: list[str] = []

    @contextmanager
    def page(self, *, scheme: str = "light", width: int = 1280, height: int = 900) -> Iterator[Page]:
        """Yield a tab with cookies of its own."""
        context = self._browser.new_context(
            base_url=self.url, color_scheme=scheme, viewport={"width": width, "height": height}
        )
        context.set_default_timeout(LOOK_MS)
        page = context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        yield page
        context.close()

    def submit(self, url: str) -> None:
        """Hand in a check by the API."""
        body = json.dumps({"kind": "check", "args": {"url": url}}).encode()
        request = Request(f"{self.url}/jobs", body, {"Content-Type": "application/json"})  # noqa: S310
        urlopen(request, timeout=30).close()  # noqa: S310

    def jobs(self, query: str) -> list[dict[str, str]]:
        """Return what the API says of jobs."""
        with urlopen(f"{self.url}/jobs?{query}", timeout=30) as answer:  # noqa: S310
            found: list[dict[str, str]] = json.load(answer)["items"]
        return found


@walk
def somebody_submits_a_check_and_watches_it_finish(visitor: Visitor) -> None:
    """The page of a job goes from accepted to succeeded by itself."""
    with visitor.page() as page:
        page.goto("/dashboard/submit")
        page.get_by_label("URLs").fill("https://finish.example/me")
        page.get_by_role("button", name="Submit").click()
        expect(page.locator("#now .state-succeeded")).to_be_visible()
        expect(page).to_have_title(re.compile("succeeded"))
        expect(page.locator("[data-live-state]")).to_have_text("Live.")
        expect(page.locator("#hops")).to_contain_text("finish.example")
        assert page.locator("time").first.get_attribute("title"), "a time has no hint"


@walk
def a_search_narrows_the_list_and_keys_lead_through_it(visitor: Visitor) -> None:
    """The keys `/`, `j`, Enter and `g j` lead where they say."""
    with visitor.page() as page:
        page.goto("/dashboard/jobs")
        page.keyboard.press("/")
        page.keyboard.type("state:parked host:evil.example")
        page.keyboard.press("Enter")
        page.wait_for_url("**/dashboard/jobs?state=parked&host=evil.example")
        expect(page.locator("[data-rows] tbody tr")).to_have_count(1)
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile(r"/dashboard/jobs/[0-9a-f-]{36}$"))
        page.keyboard.press("g")
        page.keyboard.press("p")
        page.wait_for_url("**/dashboard/parked")
        page.keyboard.press("?")
        page.wait_for_url("**/dashboard/help")


@walk
def what_strangers_write_does_nothing(visitor: Visitor) -> None:
    """No field of any page that shows it runs a script, loads an image or breaks the policy."""
    (job,) = visitor.jobs("state=parked&host=evil.example")
    paths = [*PAGES, "/dashboard/jobs?host=evil.example", f"/dashboard/jobs/{job['id']}"]
    with visitor.page() as page:
        page.goto("/dashboard/parked")
        paths.append(page.locator("#groups a[href*='/parked/']").first.get_attribute("href") or "")
        for path in paths:
            page.goto(path)
            assert page.evaluate("window.hit") is None, f"{path} ran a script of a stranger"
            assert page.locator("img").count() == 0, f"{path} has an image"
        page.goto(f"/dashboard/jobs/{job['id']}")
        expect(page.locator("main")).to_contain_text("<script>window.hit=1</script>")
        page.locator("summary", has_text="Copy as curl").click()
        page.get_by_role("button", name="Copy", exact=True).click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()


@walk
def focus_selection_and_open_questions_outlive_an_update(visitor: Visitor) -> None:
    """A part that is in use stays as it is; it is brought up to date when it is left."""
    with visitor.page() as page:
        page.goto("/dashboard/submit")
        page.get_by_label("URLs").fill("https://hold.example/me")
        page.get_by_role("button", name="Submit").click()
        page.locator("summary", has_text="Cancel").click()
        question = page.locator("details.ask[open]")
        expect(question).to_be_visible()
        visitor.submit("https://release.example/")
        expect(page.locator("[data-live-state]")).to_have_text("Live; held where you read.")
        expect(question).to_be_visible()
        expect(page.locator("#now .state-accepted")).to_be_visible()
        page.locator("summary", has_text="Cancel").click()
        page.keyboard.press("Escape")
        expect(page.locator("#now .state-succeeded")).to_be_visible()
        page.keyboard.press("r")
        expect(page.locator("[data-live-state]")).to_contain_text("off")


@walk
def a_group_is_redriven_and_its_operation_cancelled(visitor: Visitor) -> None:
    """Group, dry run, rate, confirmation, operation, cancel."""
    with visitor.page() as page:
        page.goto("/dashboard/parked?host=many.example")
        page.locator("#groups tbody a").first.click()
        page.get_by_role("link", name="Redrive…").click()
        page.get_by_label("Jobs a second").fill("1")
        page.get_by_role("button", name=re.compile("Redrive 5 jobs")).click()
        page.wait_for_url("**/dashboard/operations/*")
        page.locator("summary", has_text="Cancel the rest").click()
        page.locator("details.ask[open] button").click()
        expect(page.locator("#operation")).to_contain_text("Cancelled")


@walk
def twelve_tabs_stay_alive_and_hidden_ones_ask_nothing(visitor: Visitor) -> None:
    """HTTP/1.1 gives a browser six connections to an origin."""
    with visitor.page() as page:
        context = page.context
        tabs = [context.new_page() for _ in range(12)]
        for tab in tabs:
            tab.goto("/dashboard/")
        for tab in tabs:
            tab.bring_to_front()
            tab.reload()
            expect(tab.locator("h1")).to_have_text("Overview")
        asked: list[str] = []
        hidden = tabs[0]
        hidden.on("request", lambda request: asked.append(request.url))
        # A headless browser hides no tab by itself.
        hidden.evaluate(
            "Object.defineProperty(document, 'hidden', {get: () => true});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        with tabs[1].expect_response("**/dashboard/"):
            pass
        assert asked == [], "a hidden tab has asked"


@walk
def every_page_is_readable_by_everybody(visitor: Visitor) -> None:
    """No violation of WCAG 2.2 A or AA that axe finds, in light, dark and on a phone."""
    axe = Axe()
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
    (job,) = visitor.jobs("state=parked&host=evil.example")
    for scheme, width, paths in (
        ("light", 1280, [*PAGES, f"/dashboard/jobs/{job['id']}"]),
        ("dark", 390, ["/dashboard/", "/dashboard/jobs", f"/dashboard/jobs/{job['id']}"]),
    ):
        with visitor.page(scheme=scheme, width=width) as page:
            for path in paths:
                page.goto(path)
                found = axe.run(page, options=options)
                assert not found.violations_count, f"{path} ({scheme}): {found.generate_report()[:3_000]}"
                wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                assert wide <= 0, f"{path} is {wide} pixels wider than the window"


def main() -> None:
    """Walk all, and print what was wrong."""
    url, chromium = sys.argv[1:3]
    with sync_playwright() as playwright:
        # A container has neither the namespaces of the sandbox nor much shared memory.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        for each in WALKS:
            visitor, wrong = Visitor(browser, url), None
            try:
                each(visitor)
                if visitor.complaints:
                    wrong = f"the browser complained: {visitor.complaints}"
            except Exception:
                wrong = traceback.format_exc(limit=-3)
            sys.stdout.write(json.dumps({"name": each.__name__, "wrong": wrong}) + "\n")
        browser.close()


if __name__ == "__main__":
    main()
