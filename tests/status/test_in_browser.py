"""The page in a real browser: what is drawn, what is said, and what can be read by whom."""

from __future__ import annotations

import copy
import re
import threading

import pytest
from selenium.common.exceptions import JavascriptException

from claude_throttle import Closed, QueueFull
from claude_throttle.testing import OWN_SPEND_LIMIT, Reply
from tests.support import status_samples as samples
from tests.support.calls import MODEL, ask
from tests.support.contrast import contrast
from tests.support.thorough import only_thorough
from tests.support.waiting import wait_until

LIVE = "document.querySelector('#connection').dataset.state === 'live'"

SIGNED_OUT = [
    ("401 Unauthorized", [("Content-Type", "application/json")], b"{}"),
    ("403 Forbidden", [("Content-Type", "text/html")], b"<p>no</p>"),
    ("302 Found", [("Location", "/login/?next=/status/data.json")], b""),
    ("302 Found", [("Location", "https://login.example.com/")], b""),
    ("200 OK", [("Content-Type", "text/html")], b"<h1>Log in</h1>"),
]

BROKEN = [
    ("500 Internal Server Error", [("Content-Type", "text/html")], b"<h1>oops</h1>"),
    ("503 Service Unavailable", [("Content-Type", "application/json")], b"{}"),
    ("200 OK", [("Content-Type", "application/json")], b'{"pid": 1, "thrott'),
    ("200 OK", [("Content-Type", "application/json")], b'{"error": "who are you?"}'),
]


@pytest.fixture
def opened(browser, site):
    """``opened(width, scheme, **throttlers)``: the browser, with the page drawn."""

    def open_page(width=1280, scheme="light", **throttlers):
        site.throttlers = throttlers or site.throttlers
        browser.look_like(width, scheme)
        browser.open(site.url)
        browser.wait_for(LIVE)
        return browser

    return open_page


def refresh(browser, site, until=LIVE):
    """Two seconds later."""
    asked = site.asked
    browser.run("const {what} = later.pop(); later = []; what();")
    browser.wait_for("later.length")
    assert site.asked == asked + 1
    return browser.wait_for(until)


def texts(browser, selector):
    script = (
        "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText.trim())"
    )
    return browser.run(script, selector)


def refused_permit(throttler):
    with pytest.raises(Closed):
        throttler.permit(model=MODEL)


def used(fake, throttle, **settings):
    """A throttler that was answered six times, in two lanes."""
    throttler = throttle(fake(rpm=600, itpm=30_000, otpm=8000), rpm=None, burst=None, **settings)
    for model in ("claude-sonnet-5", "claude-haiku-5-5"):
        for _ in range(3):
            throttler.call(**ask(model=model))
    return throttler


def no_complaint(browser):
    assert browser.complaints() == []
    assert browser.run("return refused") == []


def test_what_is_drawn_is_what_is_told(fake, throttle, site, opened):
    """Numbers, lanes and gauges, each as in data.json; no word on the console."""
    site.keep = True
    browser = opened(default=used(fake, throttle))
    refresh(browser, site)
    (told,) = site.last["throttlers"]
    assert texts(browser, "h2") == ["default"]
    assert texts(browser, ".lane header h3") == [lane["lane"] for lane in told["lanes"]]
    tiles = dict(zip(texts(browser, ".tile dt"), texts(browser, ".tile dd:not(.note)")))
    assert (tiles["Waiting"], tiles["Answered"], tiles["Failed"]) == ("0", "6", "0")
    assert tiles["A minute"] == f"{told['stats']['requests_per_minute']:,.0f}"
    facts = dict(zip(texts(browser, ".rest dt"), texts(browser, ".rest dd")))
    stats = told["stats"]
    assert facts["Tokens"] == f"{stats['input_tokens']:,} in, {stats['output_tokens']:,} out"
    assert facts["Sent"] == "6 requests, 0 again"
    (host, pid) = site.last["host"], site.last["pid"]
    assert texts(browser, "#processes button") == [f"{host} pid {pid}"]
    no_complaint(browser)


def test_requests_of_others_are_drawn_too(fake, throttle, site, opened):
    """An application that uses the official SDK only has answers, and nothing it called for."""
    throttler = throttle(fake(), rpm=None)
    for status in (200, 200, 529):
        with throttler.permit(model="claude-sonnet-5") as permit:
            permit.settle(status=status, headers={})
    browser = opened(default=throttler)
    tiles = dict(zip(texts(browser, ".tile dt"), texts(browser, ".tile dd:not(.note)")))
    assert (tiles["Answered"], tiles["Failed"]) == ("2", "0")
    facts = dict(zip(texts(browser, ".rest dt"), texts(browser, ".rest dd")))
    told = "3 requests through the SDK, a session or permit(): 2 answered, 1 refused"
    assert facts["Other requests"] == told
    no_complaint(browser)


def test_each_gauge_says_what_it_measures(fake, throttle, site, opened):
    """A name, bounds, a value, and that value in words; the bar as long as that."""
    site.keep = True
    browser = opened(default=used(fake, throttle))
    quotas = [quota for lane in site.last["throttlers"][0]["lanes"] for quota in lane["quotas"]]
    gauges = browser.run(
        """return [...document.querySelectorAll('[role=meter]')].map((one) => {
            const read = (name) => one.getAttribute('aria-' + name);
            const [bar, box] = [one.firstElementChild, one].map((n) => n.getBoundingClientRect());
            return [read('label'), read('valuemin'), +read('valuemax'), +read('valuenow'),
                    read('valuetext'), bar.width / (box.width - 2)];
        })"""
    )
    assert len(gauges) == len(quotas) == 6
    names = {
        "requests": "Requests",
        "input_tokens": "Input tokens",
        "output_tokens": "Output tokens",
    }
    for (label, least, most, now, text, share), quota in zip(gauges, quotas):
        assert label == f"{names[quota['kind']]} a minute"
        assert (least, most) == ("0", quota["burst"])
        assert now == pytest.approx(min(quota["burst"], quota["remaining"]))
        assert text == f"{now // 1:,.0f} of {quota['burst']:,.0f} free now"
        assert share == pytest.approx(now / most, abs=0.01)


def test_gauges_that_need_words(site, opened):
    """A quota that is spaced, one that is overdrawn, one for a day, and a lane that knows none."""
    site.instead = samples.busy
    browser = opened(default=None)
    labels, free = texts(browser, ".gauges h4"), texts(browser, ".gauge-head > span")
    assert labels == ["Requests a minute", "Requests a day", "Input tokens a minute", *labels[:1]]
    assert free[0] == "2 of 99 free now"
    assert free[1] == "400 of 1,000 free now"
    assert free[2] == "0 of 35,000 free now, 812 overdrawn"
    assert free[3] == "0 of 1 free now, next in 720 ms"
    assert texts(browser, ".gauges .none") == ["No limit is known before the first answer."]
    assert texts(browser, ".narrow td")[1:5] == ["42 ms", "9.7 s", "17 s", "18 s"]


def test_the_chart_shows_the_history(site, opened):
    """A bar for each interval that had requests, a mark for each that was refused."""
    site.instead = samples.busy
    browser = opened(default=None)
    history = samples.busy()["throttlers"][0]["history"]
    bars = browser.run(
        """return [...document.querySelectorAll('svg rect')].map(
            (one) => [one.getAttribute('class'), +one.getAttribute('height')])"""
    )
    sent = [height for name, height in bars if name in ("bar-sent", "bar-now")]
    assert len(sent) == 60
    assert [height > 0 for height in sent[-len(history) :]] == [one["sent"] > 0 for one in history]
    assert sent.index(max(sent)) == 60 - len(history) + samples.BUSIEST
    refused = [height for name, height in bars if name == "bar-refused"]
    marks = [one["rate_limited"] > 0 for one in history]
    assert [height > 0 for height in refused[-len(history) :]] == marks
    label = browser.run("return document.querySelector('svg').getAttribute('aria-label')")
    assert "most 150 a minute" in label
    assert "4 refused with 429" in label


STATES = ["unused", "busy", "paused", "suspended", "circuit_open", "fleet", "two", "broken"]


#: Of the notices one; the others in the thorough run.
BY_DEFAULT = ("busy", "suspended", "fleet")


@pytest.mark.parametrize(
    "state", [state if state in BY_DEFAULT else only_thorough(state) for state in STATES]
)
def test_it_can_be_read(state, site, opened):
    """Contrast of all texts, in both schemes; nothing wider than a phone; no complaint."""
    site.instead = getattr(samples, state)
    for width, scheme in ((360, "light"), (1280, "dark")):
        browser = opened(width, scheme, default=None)
        browser.run("for (const one of document.querySelectorAll('details')) one.open = true")
        found = contrast(browser)
        assert len(found) > 10
        assert [one for one in found if one.ratio < 4.5] == []
        wide = "return [document.documentElement.scrollWidth, window.innerWidth]"
        needed, there = browser.run(wide)
        assert needed <= there
        no_complaint(browser)


def test_contrast_is_measured(site, opened):
    """The measure itself: grey on white is found."""
    site.instead = samples.busy
    browser = opened(default=None)
    browser.run("document.querySelector('h3').style.color = '#999'")
    assert [one.text for one in contrast(browser) if one.ratio < 4.5] == ["Requests a minute"]


SHIFTS = """
    window.shifted = 0;
    new PerformanceObserver((list) => {
        for (const one of list.getEntries()) shifted += one.value;
    }).observe({type: "layout-shift", buffered: true});
    return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));"""


@pytest.mark.parametrize("width", [360, only_thorough(1280)])
def test_nothing_moves(width, fake, throttle, site, opened):
    """Cumulative layout shift from the first byte over several refreshes with other figures."""
    throttler = used(fake, throttle)
    browser = opened(width, default=throttler)
    for n in range(4):
        throttler.submit(**ask("x" * 10**n)).result(10)
        refresh(browser, site)
        browser.run("return new Promise((done) => requestAnimationFrame(done))")
    site.instead = samples.busy
    refresh(browser, site)
    browser.run(SHIFTS)
    assert browser.run("return shifted") < 0.05


def test_what_moves_is_measured(site, opened):
    """The measure itself: a box put before everything is found."""
    site.instead = samples.busy
    browser = opened(default=None)
    browser.run(
        """const box = document.createElement('p');
        box.style.height = '300px';
        return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
            document.body.prepend(box);
            requestAnimationFrame(done);
        })));"""
    )
    browser.run(SHIFTS)
    browser.wait_for("shifted > 0.05")


HOSTILE = "<img src=x onerror=\"document.title='hit'\"><script>document.title='hit'</script>"


def test_hostile_text_stays_text(fake, throttle, site, opened):
    """Names of throttlers and lanes, what the API and the store say, classes of errors."""
    server = fake()
    throttler = throttle(server, lanes={"claude-sonnet-5": HOSTILE})
    server.script(Reply(402, message=HOSTILE))
    assert throttler.submit(**ask()).exception(10)

    def hostile(data):
        one = copy.deepcopy(data)
        (told,) = one["throttlers"]
        told["stats"]["failed"] = {HOSTILE: 1}
        told["lanes"][0]["suspended"] = HOSTILE
        told["lanes"][0]["quotas"] = [{**samples.REQUESTS, "kind": HOSTILE, "source": HOSTILE}]
        told["store"] = f"{HOSTILE} cannot be reached"
        told["fleet"] = samples.fleet()["throttlers"][0]["fleet"]
        told["fleet"]["members"][0]["host"] = told["fleet"]["lanes"][0]["lane"] = HOSTILE
        wrong = {"name": "wrong", "error": HOSTILE}
        return {**one, "host": HOSTILE, "version": HOSTILE, "throttlers": [told, wrong]}

    site.instead = hostile
    browser = opened(**{HOSTILE: throttler})
    assert texts(browser, "h2") == [HOSTILE, "wrong"]
    assert texts(browser, ".lane header h3") == [HOSTILE]
    assert HOSTILE in texts(browser, ".notice q")[0]
    shown = browser.run("return document.body.innerText")
    assert shown.count(HOSTILE) >= 10
    assert browser.run("return document.querySelectorAll('main img, main script').length") == 0
    assert browser.run("return document.title") == "Claude throttle"
    no_complaint(browser)


def test_the_policy_is_in_force(site, opened):
    """Neither another script, nor another style, nor text as HTML."""
    site.instead = samples.busy
    browser = opened(default=None)
    with pytest.raises(JavascriptException, match="TrustedHTML"):
        browser.run("document.querySelector('h2').innerHTML = '<b>x</b>'")
    browser.run(
        """const style = document.createElement('style');
        style.textContent = 'h1 { display: none }';
        document.head.append(style);"""
    )
    assert browser.run("return document.querySelector('h1').offsetHeight") > 0
    browser.wait_for("refused.length")
    assert browser.complaints()


def test_a_suspension_is_told_with_what_to_do(fake, throttle, site, opened):
    """By a real one: the reason, the API's own words, the date; and said aloud when it begins."""
    server = fake()
    throttler = throttle(server)
    throttler.call(**ask())
    browser = opened(default=throttler)
    assert texts(browser, ".notice strong") == ["All is well"]
    assert browser.run("return document.querySelector('#announcer').textContent") == ""
    server.script(OWN_SPEND_LIMIT)
    assert throttler.submit(**ask()).exception(10)
    refresh(browser, site)
    assert texts(browser, ".notice strong") == ["Suspended: spend limit"]
    (words,) = texts(browser, ".notice")
    assert OWN_SPEND_LIMIT.message in words
    assert "What to do: Raise the limit" in words
    assert "2026-12-01" in words
    said = browser.run("return document.querySelector('#announcer').textContent")
    assert said == "default: Suspended: spend limit."


def test_a_pause_by_hand_is_told(fake, throttle, site, opened):
    """And that it is over."""
    throttler = used(fake, throttle)
    throttler.pause()
    browser = opened(default=throttler)
    assert texts(browser, ".notice strong") == ["Paused by hand"]
    throttler.resume()
    refresh(browser, site)
    assert texts(browser, ".notice strong") == ["All is well"]


def test_all_is_not_well_while_requests_of_others_wait(fake, throttle, site, opened):
    """They are in no queue of ours, and stand in line all the same."""
    throttler = throttle(fake(), rpm=1)
    throttler.permit(model=MODEL).close()
    thread = threading.Thread(target=lambda: refused_permit(throttler))
    thread.start()
    wait_until(lambda: throttler.stats().waiting)
    browser = opened(default=throttler)
    assert texts(browser, ".notice strong") == ["Calls are waiting"]
    tiles = dict(zip(texts(browser, ".tile dt"), texts(browser, ".tile dd:not(.note)")))
    assert tiles["Waiting"] == "1"
    throttler.close(timeout=0, cancel_pending=True)
    thread.join(20)


def test_who_is_turned_away_is_told_with_what_to_do(fake, throttle, site, opened):
    """In the last minute as a notice; all of them among the totals."""
    throttler = throttle(fake(), max_queue=1)
    throttler.pause()
    throttler.submit(**ask())
    for _ in range(7):
        with pytest.raises(QueueFull):
            throttler.submit(**ask())
    browser = opened(default=throttler)
    assert texts(browser, ".notice strong") == ["Paused by hand", "Turned away: the queue is full"]
    assert "7 requests in the last minute" in texts(browser, ".notice")[1]
    facts = dict(zip(texts(browser, ".rest dt"), texts(browser, ".rest dd")))
    assert facts["Turned away"] == "7 QueueFull"
    no_complaint(browser)


@pytest.mark.parametrize(
    "answer",
    [*SIGNED_OUT[:1], *map(only_thorough, SIGNED_OUT[1:-1]), *SIGNED_OUT[-1:]],
    ids=lambda answer: answer[0][:3],
)
def test_who_is_signed_out_is_told(answer, site, opened):
    """With a way back in; the last figures stay, and it goes on trying."""
    site.instead = samples.busy
    browser = opened(default=None)
    site.instead = answer
    refresh(browser, site, "document.querySelector('#connection').dataset.state === 'out'")
    (said,) = texts(browser, "#connection")
    assert said.startswith("You are signed out, or may not see this.")
    assert "Figures from" in said
    assert browser.run("return document.querySelector('#again').href") == site.url
    assert texts(browser, "h2") == ["default"]
    site.instead = samples.busy
    refresh(browser, site)
    assert texts(browser, "#connection")[0].startswith("Live")
    assert browser.run("return document.querySelector('#again').hidden")
    assert all("data.json" in one for one in browser.complaints())


@pytest.mark.parametrize(
    "answer",
    [BROKEN[0], only_thorough(BROKEN[1]), BROKEN[2], only_thorough(BROKEN[3])],
    ids=["500", "503", "half", "strange"],
)
def test_a_server_that_fails_is_told_and_asked_again(answer, site, opened):
    """In words; the next good answer ends it."""
    site.instead = samples.busy
    browser = opened(default=None)
    site.instead = answer
    refresh(browser, site, "document.querySelector('#connection').dataset.state === 'lost'")
    (said,) = texts(browser, "#connection")
    assert "trying again" in said
    assert (answer[0][:3] in said) == (answer[0][:3] != "200")
    site.instead = samples.busy
    refresh(browser, site)
    complaints = browser.complaints()
    assert all("data.json" in one for one in complaints)


def test_nothing_configured(fake, throttle, site, opened):
    """A word, which goes when there is something to show."""
    browser = opened()
    assert texts(browser, "main")[0] == "No throttler is configured."
    site.throttlers = {"default": throttle(fake())}
    refresh(browser, site)
    assert texts(browser, "main > .none") == []
    assert texts(browser, "h2") == ["default"]


def test_a_server_that_is_away_is_told(site, opened):
    """Nobody listens any more; the page is still there."""
    site.instead = samples.busy
    browser = opened(default=None)
    browser.tell("Network.enable")
    offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    browser.tell("Network.emulateNetworkConditions", offline=True, **offline)
    try:
        browser.run("later.pop().what()")
        browser.wait_for("document.querySelector('#connection').dataset.state === 'lost'")
        assert texts(browser, "#connection")[0].startswith("The server does not answer")
    finally:
        browser.tell("Network.emulateNetworkConditions", offline=False, **offline)
    refresh(browser, site)
    assert all("data.json" in one for one in browser.complaints())


def test_it_looks_every_two_seconds_and_not_while_hidden(site, opened):
    """Less often once nobody answers; at once when it is seen again."""
    site.instead = samples.busy
    browser = opened(default=None)
    waits = "return later.map((one) => one.wait)"
    assert browser.run(waits) == [2000]
    browser.run("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    asked = site.asked
    browser.run("later.pop().what(); document.dispatchEvent(new Event('visibilitychange'))")
    assert browser.run(waits) == []
    assert site.asked == asked
    browser.run("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    browser.wait_for("later.length === 1")
    assert site.asked == asked + 1
    site.instead = BROKEN[0]
    for _ in range(6):
        refresh(browser, site, "document.querySelector('#connection').dataset.state === 'lost'")
    assert browser.run(waits) == [10000]


def test_workers_are_kept_apart(site, opened):
    """Each answers for itself: the page stays with one, says so, and lets its reader choose."""
    pids = [2, 1]

    def worker(_data):
        pid = pids.pop(0) if len(pids) > 1 else pids[0]
        data = samples.busy()
        (told,) = data["throttlers"]
        told["stats"]["succeeded"] = 1000 * pid
        told["history"] = told["history"][-10 * pid :]
        return {**data, "pid": pid}

    def answered():
        return dict(zip(texts(browser, ".tile dt"), texts(browser, ".tile dd:not(.note)")))[
            "Answered"
        ]

    def bars():
        return browser.run(
            """const high = (one) => +one.getAttribute('height') > 0;
            return [...document.querySelectorAll('.bar-sent')].filter(high).length"""
        )

    site.instead = worker
    browser = opened(default=None)
    assert "other workers have their own" in texts(browser, "#about")[0]
    assert (answered(), bars()) == ("2,000", 18)
    refresh(browser, site)
    assert "2 processes answer here in turn" in texts(browser, "#about")[0]
    assert (answered(), bars()) == ("2,000", 18), "it stays with the first"
    assert len(texts(browser, "#processes button")) == 2
    browser.run("document.querySelector('#processes button').click()")
    assert (answered(), bars()) == ("1,000", 9)
    assert "pid 1" in texts(browser, "#about")[0]
    pids[:] = [2]
    for _ in range(9):
        refresh(browser, site)
    assert (answered(), bars()) == ("1,000", 9), "the other may come again"
    refresh(browser, site)
    assert (answered(), bars()) == ("2,000", 18), "it has not come for long"
    assert len(texts(browser, "#processes button")) == 1
    no_complaint(browser)


def test_the_keyboard_reaches_what_can_be_used(site, opened):
    """And keeps its place while figures change."""
    site.instead = samples.busy
    browser = opened(default=None)
    browser.run(
        "document.querySelector('summary').focus(); document.querySelector('details').open = true"
    )
    refresh(browser, site)
    assert browser.run("return document.activeElement.tagName") == "SUMMARY"
    assert browser.run("return document.querySelector('details').open")
    browser.run("document.querySelector('#processes button').focus()")
    refresh(browser, site)
    assert browser.run("return document.activeElement.tagName") == "BUTTON"


def test_what_screen_readers_are_told(site, opened):
    """Names of all that has a role; a heading for each section, in order."""
    site.instead = samples.fleet
    browser = opened(default=None)
    nodes = browser.tell("Accessibility.getFullAXTree")["nodes"]
    named = {
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node.get("ignored")
    }
    roles = {role for role, _ in named}
    assert {"main", "banner", "meter", "table", "image", "group", "button"} <= roles
    for role in ("meter", "button", "table", "region", "image"):
        assert all(name for one, name in named if one == role), role
    levels = browser.run(
        """return [...document.querySelectorAll('h1, h2, h3, h4')]
            .filter((one) => one.checkVisibility()).map((one) => +one.tagName[1])"""
    )
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:]))
    live = browser.run(
        "return [...document.querySelectorAll('[role=status],[aria-live]')].map((n) => n.id)"
    )
    assert sorted(live) == ["announcer", "connection-text"]


def test_without_javascript_it_says_so(site, browser):
    """And where the figures are."""
    site.instead = samples.busy
    browser.tell("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(site.url)
        # Without scripts the browser does not say when the page is there.
        wait_until(lambda: "off in this browser" in str(browser.tell("DOM.getDocument", depth=-1)))
    finally:
        browser.tell("Emulation.setScriptExecutionDisabled", value=False)
    assert re.search(r"<noscript>.*data\.json.*</noscript>", browser_page(browser, site), re.S)


def browser_page(browser, site):
    browser.open(site.url)
    return browser.run("return fetch(location.href).then((one) => one.text())")
