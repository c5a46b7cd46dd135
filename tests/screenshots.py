"""Pictures of the page of a running service, to be looked at by whoever changed it.

``python tests/screenshots.py http://127.0.0.1:8723 FOLDER --user 42`` writes one a window: on a
desk and on a phone, by day and by night, with what opens opened.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from browsers import chromium

DESK: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
}


def take(url: str, into: Path, user: str) -> None:
    """Write the pictures."""
    into.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        for window, size in (("desk", DESK), ("phone", PHONE)):
            for scheme in ("light", "dark"):
                context = browser.new_context(color_scheme=scheme, **size)
                _through(context.new_page(), url, user, str(into / f"{window}-{scheme}"))
                context.close()


def _through(page: Any, url: str, user: str, begins: str) -> None:
    def keep(what: str, *, whole: bool = True) -> None:
        page.wait_for_selector("#lists:not([aria-busy])")
        # What moves and fades comes to rest.
        page.wait_for_timeout(800)
        page.screenshot(path=f"{begins}-{what}.png", full_page=whole)
        print(f"{begins}-{what}.png")

    page.goto(url)
    page.wait_for_selector("#atlas-whole:not([hidden])", timeout=120_000)
    keep("nobody")
    page.fill("#user", user)
    page.wait_for_selector("#users button")
    keep("found", whole=False)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_timeout(500)
    page.click("#recommended .why summary >> nth=0")
    keep("user")
    page.locator("#atlas").scroll_into_view_if_needed()
    keep("map", whole=False)
    page.click("#compose summary")
    page.click("#filters summary")
    # Only towers that read a history can be given one.
    if page.locator("#recommended .plus").count() > 1:
        page.click("#recommended .plus >> nth=1")
    page.locator("#diversity").fill("0.5")
    keep("composed")
    page.click("#recommended .name >> nth=0")
    page.wait_for_selector("#item-similar li")
    keep("item", whole=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--user", default="1")
    asked = parser.parse_args()
    take(asked.url, asked.folder, asked.user)
