"""The pictures of the page in the guides:  DEMO OUT  →  OUT/serve-desktop.png, OUT/serve-phone.png."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[2]))

from serve.served import serve

KILOBYTES = 300
# name → width, height, whether it is dark
PICTURES = {
    "serve-desktop.png": (1280, 900, False),
    "serve-phone.png": (390, 844, True),
}


def main(demo, out):
    """Search the demo's library by the sound of a video that the model was not trained on."""
    video = sorted((demo / "videos" / "test").glob("bird-*.mp4"))[0]
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        with serve(demo / "library", demo / "run", folder) as (_, address):
            for name, (width, height, dark) in PICTURES.items():
                scheme = "dark" if dark else "light"
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                show_hits(page, address, video)
                page.screenshot(path=out / name)
                shrink(out / name)
        browser.close()


def show_hits(page, address, video):
    """Until the first clip found has played half of its time, where it can be seen."""
    page.goto(f"{address}/#/search?as=audio")
    page.set_input_files("#file", video)
    page.wait_for_selector("#hits .card")
    page.wait_for_load_state("networkidle")
    play = page.locator("#hits .play").first
    play.click()
    page.wait_for_timeout(900)
    play.click()
    page.evaluate("scrollTo(0, 0)")
    page.mouse.move(0, 0)
    page.locator("#hits .play").first.evaluate("node => node.blur()")
    page.wait_for_load_state("networkidle")


def shrink(path):
    """To colours of a palette."""
    Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)
    size = path.stat().st_size
    sys.stdout.write(f"{path}: {size / 1000:.0f} kB\n")
    if size > 1000 * KILOBYTES:
        raise SystemExit(f"{path} has more than {KILOBYTES} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
