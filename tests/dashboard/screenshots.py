"""Pictures of the pages in a real Chromium, to be looked at: light and dark, wide and narrow.

`make screenshots` writes them to var/screenshots. It fails where Chromium says that a page went against its
own content security policy, or had an error.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import uvicorn

from dashboard.scenes import ENVIRON, NOW_US, TOKEN, fill, written
from meter_mw.dashboard import app
from meter_mw.journal.parked import park
from meter_mw.policy.loader import load

PAGES = {
    "overview": "/",
    "customers": "/customers",
    "customer": "/customer?subject=acme",
    "jumped": "/customer?subject=globex",
    "features": "/features",
    "delivery": "/delivery",
    "missing": "/nowhere",
}
SIZES = {"wide": (1200, 1500), "narrow": (500, 2200)}
SCHEMES = {"dark": 0, "light": 1}
"""As Blink numbers them."""
_FAULTS = ("Content Security Policy", "Uncaught", "ERR_")


class Server:
    """Pages on a free port, while it is open."""

    def __init__(self, folder: Path, token: str | None = None) -> None:
        pages = app(load(folder / "meter.yaml", ENVIRON), token=token, clock=lambda: NOW_US * 1000)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._server = uvicorn.Server(uvicorn.Config(pages, port=self.port, log_level="warning"))
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> str:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.05)
        return f"http://127.0.0.1:{self.port}"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()


def shot(chromium: str, url: str, size: tuple[int, int], scheme: int, path: Path) -> list[str]:
    """Take a picture, and give what Chromium says is wrong."""
    command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += ["--enable-logging=stderr", f"--blink-settings=preferredColorScheme={scheme}"]
    command += [f"--window-size={size[0]},{size[1]}", f"--screenshot={path}", url]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stderr
    assert path.stat().st_size > 1000, f"{path} is empty"
    return [line for line in said.splitlines() if "CONSOLE" in line and any(map(line.__contains__, _FAULTS))]


def main(target: Path) -> int:
    """Take all pictures; return how many lines Chromium had to say."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("found no Chromium; expected one on the PATH: apt-get install chromium")
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder)
        written(folder)
        park(folder / "var", "webhook", "410 Gone: the endpoint was removed", b'{"id": "event-1"}')
        with Server(folder) as open_to_all, Server(folder, TOKEN) as locked:
            pages = {each: open_to_all + path for each, path in PAGES.items()} | {"token": f"{locked}/"}
            faults = [
                fault
                for page, url in pages.items()
                for size, pixels in SIZES.items()
                for scheme, number in SCHEMES.items()
                for fault in shot(chromium, url, pixels, number, target / f"{page}-{size}-{scheme}.png")
            ]
    print(*faults, f"{len(pages) * 4} pictures in {target}", sep="\n")
    return len(faults)


if __name__ == "__main__":
    os.environ.pop("METER_DASHBOARD_TOKEN", None)
    sys.exit(min(1, main(Path(sys.argv[1]))))
