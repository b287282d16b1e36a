"""A real browser, driven by selenium.

Debian's chromium and chromium-driver. Where they are missing the tests that need them are skipped,
and say so; with CLAUDE_THROTTLE_TEST_BROWSER=required they fail.
"""

from __future__ import annotations

import base64
import contextlib
import shutil
import tempfile

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
MISSING = "" if CHROMIUM and DRIVER else "no chromium: apt-get install chromium chromium-driver"

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

#: Seconds that a script in the page may take.
TIMEOUT = 30

#: In each page, before its own script: what it would do in seconds waits in ``later`` until a test
#: has it done, and ``skip`` is how many milliseconds went by at once.
TIME_BY_HAND = """
    window.later = [];
    window.skip = 0;
    const [timeout, now] = [window.setTimeout.bind(window), performance.now.bind(performance)];
    window.setInterval = () => 0;
    window.setTimeout = (what, wait, ...rest) =>
        wait < 1000 ? timeout(what, wait, ...rest) : -window.later.push({what, wait});
    window.clearTimeout = (id) => { if (id < 0) window.later = []; };
    performance.now = () => now() + window.skip;
    window.refused = [];
    document.addEventListener("securitypolicyviolation", (one) => refused.push(one.blockedURI));
"""


class Browser:
    """One chromium with one tab."""

    def __init__(self, directory):
        options = ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, f"--user-data-dir={directory}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        # Both paths are given, or selenium would look for a driver on the network.
        self._driver = Chrome(options=options, service=Service(DRIVER))
        self._driver.set_script_timeout(TIMEOUT)
        self.tell("Page.addScriptToEvaluateOnNewDocument", source=TIME_BY_HAND)

    def close(self):
        with contextlib.suppress(Exception):  # it may have gone already
            self._driver.quit()

    def open(self, url):
        """Load *url*, with an empty console."""
        self._driver.get("about:blank")
        self.complaints()
        self._driver.get(url)

    def run(self, script, *arguments):
        """What the body of a function returns, which may be a promise."""
        return self._driver.execute_script(script, *arguments)

    def wait_for(self, condition, *arguments):
        """Until that expression is true; what it is then."""
        script = """
            const [seconds, rest] = [arguments[0], Array.prototype.slice.call(arguments, 1)];
            const until = performance.now() + 1000 * seconds;
            const holds = function () { return (%s); };
            return new Promise((done, fail) => {
                const look = () => {
                    const found = holds.apply(null, rest);
                    if (found) done(found);
                    else if (performance.now() > until) fail(new Error("never: " + holds));
                    else setTimeout(look, 10);
                };
                look();
            });"""
        return self.run(script % condition, TIMEOUT - 10, *arguments)

    def tell(self, command, **parameters):
        """A command of the DevTools protocol."""
        return self._driver.execute_cdp_cmd(command, parameters)

    def look_like(self, width, scheme, height=900):
        """So wide, in a light or dark scheme."""
        self.tell(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.tell("Emulation.setEmulatedMedia", features=features)

    def complaints(self):
        """What the console said since it was asked last, in plain words."""
        return [f"{one['level']}: {one['message']}" for one in self._driver.get_log("browser")]

    def picture(self, path):
        """The whole page, as PNG."""
        found = self.tell("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        with open(path, "wb") as file:
            file.write(base64.b64decode(found["data"]))


@contextlib.contextmanager
def browser():
    """A browser with a profile of its own; both are gone in the end."""
    directory = tempfile.mkdtemp()
    try:
        with contextlib.closing(Browser(directory)) as one:
            yield one
    finally:
        shutil.rmtree(directory, ignore_errors=True)
