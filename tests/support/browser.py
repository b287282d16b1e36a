"""A real browser, driven by the W3C WebDriver protocol: JSON over HTTP, so no library is needed.

Debian's chromium and chromium-driver. Where they are missing the tests that need them are skipped,
and say so; with CLAUDE_THROTTLE_TEST_BROWSER=required they fail.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import shutil
import subprocess
import tempfile

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

#: Seconds for one answer of the driver.
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
        self._driver = subprocess.Popen(
            [DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._session, self._connection = "", None
        try:
            self._begin(directory)
        except BaseException:
            self.close()
            raise

    def _begin(self, directory):
        for line in self._driver.stdout:
            if "started successfully on port" in line:
                port = int(line.rstrip(".\n").rsplit(" ", 1)[1])
                break
        else:
            raise RuntimeError("chromedriver does not start")
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={directory}"]}
        capabilities = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        found = self._ask("POST", "", {"capabilities": {"alwaysMatch": capabilities}})
        self._session = f"/{found['sessionId']}"
        self._ask("POST", "/timeouts", {"script": 1000 * TIMEOUT})
        self.tell("Page.addScriptToEvaluateOnNewDocument", source=TIME_BY_HAND)

    def _ask(self, method, path, body=None):
        text = None if body is None else json.dumps(body)
        self._connection.request(method, f"/session{self._session}{path}", text)
        answer = json.loads(self._connection.getresponse().read())["value"]
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(f"{answer['error']}: {answer['message']}")
        return answer

    def close(self):
        with contextlib.suppress(Exception):  # it may have gone already
            self._ask("DELETE", "")
        if self._connection is not None:
            self._connection.close()
        self._driver.terminate()
        self._driver.wait(10)
        self._driver.stdout.close()

    def open(self, url):
        """Load it; nothing that was said before is remembered."""
        self._ask("POST", "/url", {"url": "about:blank"})
        self.complaints()
        self._ask("POST", "/url", {"url": url})

    def run(self, script, *arguments):
        """What the body of a function returns, which may be a promise."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

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
        return self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

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
        said = self._ask("POST", "/se/log", {"type": "browser"})
        return [f"{one['level']}: {one['message']}" for one in said]

    def picture(self, path):
        """The whole page, as PNG."""
        found = self.tell("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        with open(path, "wb") as file:
            file.write(base64.b64decode(found["data"]))


@contextlib.contextmanager
def browser():
    """A browser of nobody's, gone in the end."""
    directory = tempfile.mkdtemp()
    try:
        with contextlib.closing(Browser(directory)) as one:
            yield one
    finally:
        shutil.rmtree(directory, ignore_errors=True)
