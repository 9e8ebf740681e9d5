"""The headless Chromium that the page is tested in: one of the system, else playwright's own.

python tests/shared/chromium.py    # says which one starts; ends with 1 where there is none
"""

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-quic")
_INSTALL = "make browser installs one"


class NoBrowser(Exception):
    """Says in one line why there is no browser."""


def launch(playwright: "Playwright") -> "Browser":
    """Start a headless Chromium. Raises `NoBrowser` where none is installed, or none starts."""
    from playwright.sync_api import Error

    own = playwright.chromium.executable_path
    found = [*filter(None, map(shutil.which, _NAMES)), *([own] if Path(own).is_file() else [])]
    if not found:
        raise NoBrowser(f"no Chromium ({', '.join(_NAMES)}, or playwright's own); {_INSTALL}")
    for executable in found:
        try:
            return playwright.chromium.launch(executable_path=executable, args=list(_ARGUMENTS))
        except Error as error:
            first = str(error).strip().splitlines()[0]
    raise NoBrowser(f"{found[-1]} does not start ({first}); {_INSTALL}")


def main() -> None:
    """Start it once."""
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        sys.exit("no playwright; pip install 'bridge-diffusion[browser]'")
    with sync_playwright() as playwright:
        try:
            browser = launch(playwright)
        except NoBrowser as error:
            sys.exit(str(error))
        print(f"Chromium {browser.version} starts")
        browser.close()


if __name__ == "__main__":
    main()
