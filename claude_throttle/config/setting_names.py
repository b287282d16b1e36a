"""What an unknown setting was meant to be, by the words that people and other libraries use.

``requests_per_minute`` resembles no setting by its letters, but says which one is meant. Imported
only for an error.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

#: Similarity above which a name is a misspelling, whatever words it contains; and the least one
#: that is worth a hint.
MISSPELT, SIMILAR = 0.8, 0.6

_OF_A_CLIENT = (
    "a client that you have keeps its own settings: anthropic.Anthropic(middleware="
    "[throttler.middleware()]), or throttler.session() for requests"
)
_OF_A_CALL = "it belongs to each call: throttler.call(model=…, max_tokens=…, messages=[…])"
_OF_OURS = "it belongs to each call: throttler.call(…, NAME=…)"
_PER_SECOND = "quotas are per minute; 5 requests a second are rpm=Quota(5, per=1)"

#: The first pattern that is found in a name, in lower case and without underscores, decides: a
#: setting, or a sentence.
_RULES: tuple[tuple[str, str], ...] = (
    (r"^(priority|tenant|raw|block|extraheaders)$", _OF_OURS),
    (
        r"^(model|modelname|engine|messages?|prompt|system|systemprompt|temperature|top[pk]|tools?"
        r"|toolchoice|stopsequences|stop|thinking|stream|metadata|betas|extrabody"
        r"|max(output|completion)?tokens(tosample)?)$",
        _OF_A_CALL,
    ),
    (r"client|^session$|^anthropic$|^sdk$|^middleware$|^transport$|^adapter$", _OF_A_CLIENT),
    (r"timeout|deadline|maxwait|maxtime", "timeout"),
    (r"admin", "admin_key"),
    (r"backoff|jitter|initialdelay|retrydelay", "retries wait by themselves, as the API's "
     "retry-after says and with jitter; max_retries= is their number"),
    (r"retr(y|ies)|attempts|tries$", "max_retries"),
    (r"concurren|workers?|thread|parallel|inflight|simultaneous|semaphore", "max_concurrency"),
    (r"tokens?perday|daily.*token|token.*daily|dailytpd|tpd", "tpd"),
    (r"perday|daily|rpd", "rpd"),
    (r"persec|^rps$|^qps$|^tps$|maxrps|maxqps", _PER_SECOND),
    (r"perhour|hourly", "a quota for an hour is rpm=Quota(1_000, per=3_600)"),
    (r"^(per|period|window|(min)?interval|delay)(seconds?|s|size|length)?$|timewindow|ratewindow",
     "a quota brings its period: rpm=60 is one request a second, rpm=Quota(10, per=1) are ten"),
    (r"(input|prompt|context).*(token|tpm|limit)|itpm", "itpm"),
    (r"(output|completion|response|generat).*(token|tpm|limit)|otpm", "otpm"),
    (r"tokens?(per|limit|rate|budget|quota|min)|(max|limit).*tokens|tpm|^tokens$", "tpm"),
    (r"burst|bucket|capacity", "burst"),
    (r"queue|backlog|pending|maxwaiting|^maxsize", "max_queue"),
    (r"header", "default_headers"),
    (r"(auth|bearer|access|oauth|^)token$|bearer|^auth$", "auth_token"),
    (r"key$|secret|credential|password", "api_key"),
    (r"proxy", "proxies"),
    (r"redis|sqlite|store|storage|backend|broker|cacheurl|database|^db", "shared"),
    (r"ur[li]$|endpoint|host|apibase|server|gateway", "base_url"),
    (r"cert|verify|ssl|tls|cabundle|cafile", "ca_bundle"),
    (r"connection|pool", "max_connections"),
    (r"test|mock|dryrun|fake|stub|offline", "testing"),
    (r"margin|safety|reserve|slack|utili[sz]ation", "headroom"),
    (r"callback|hook|listener|^on", "on_event"),
    (r"log|debug|verbose",
     'changes of state are logged: logging.getLogger("claude_throttle").setLevel("INFO")'),
    (r"plan$|tier", "tier"),
    (r"provider|cloud|vendor", "platform"),
    (r"version", "api_version"),
    (r"rate|limit|request|calls?|rpm|quota|throughput", "rpm"),
)  # fmt: skip


def meant_by(name: str, settings: Collection[str]) -> str:
    """The setting that *name* was meant to be, or a sentence that says what to write; or ""."""
    spelt = name.lower()
    misspelt = _most_similar(spelt, settings, MISSPELT)
    return misspelt or _by_its_words(spelt) or _most_similar(spelt, settings, SIMILAR)


def _most_similar(name: str, settings: Collection[str], cutoff: float) -> str:
    return next(iter(difflib.get_close_matches(name, settings, n=1, cutoff=cutoff)), "")


def _by_its_words(name: str) -> str:
    bare = re.sub(r"[^a-z0-9]", "", name)
    found = next((meant for pattern, meant in _RULES if re.search(pattern, bare)), "")
    return found.replace("NAME", name)


def hint(name: str, settings: Collection[str]) -> str:
    """The end of a message about an unknown setting: what was meant, if that can be told."""
    if name in settings:
        return f": it is Throttler's own: Throttler(settings, {name}=…)"
    meant = meant_by(name, settings)
    if meant.isidentifier():
        return f"; did you mean {meant}=?"
    return f": {meant}" if meant else ""
