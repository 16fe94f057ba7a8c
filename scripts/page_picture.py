"""The screenshots of the page in the documents: what it shows of one clip, on a desk and on a phone, in a Chromium that is installed.

python scripts/page_picture.py default clip.wav docs/images
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import urllib.request

from playwright.sync_api import expect, sync_playwright

PORT = 8765


def main() -> None:
    model, clip, out = sys.argv[1:]
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    assert chromium, "no Chromium"
    server = subprocess.Popen([sys.executable, "-m", "shala_audio", "serve", model, "--port", str(PORT)])
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/api/tasks").read()
                break
            except OSError:
                assert server.poll() is None, "the page did not start"
                time.sleep(0.5)
        with (
            sync_playwright() as running,
            running.chromium.launch(executable_path=chromium, args=["--no-sandbox"]) as browser,
        ):
            for name, width, scheme in (("page", 760, "light"), ("page_phone", 390, "dark")):
                page = browser.new_page(
                    viewport={"width": width, "height": 900}, device_scale_factor=1.5, color_scheme=scheme
                )
                page.goto(f"http://127.0.0.1:{PORT}/")
                page.set_input_files("#file", clip)
                expect(page.locator("#result")).to_be_visible(timeout=300_000)
                expect(page.locator("#status")).to_be_empty(timeout=300_000)
                page.screenshot(path=f"{out}/{name}.png", full_page=True)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
