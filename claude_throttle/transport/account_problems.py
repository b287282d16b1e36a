"""Problems of the account that the status does not show: by error type, by error code, by words.

Words are the last resort, and only inside of the API's own envelope. Only the beginning of a
message counts, up to the first colon and without what is quoted: what follows may repeat a caller's
text (``messages.0.content: …``), who could suspend the account for all then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Optional

_OUT_OF_USE = (
    "disabled|deactivated|inactive|suspended|on hold|archived|deleted|closed|terminated|banned"
    "|blocked|locked|revoked|expired|frozen|turned off|no longer active|no longer valid"
)

#: What may stand between a subject and its verb. Not any word: "Your organization's web search has
#: been disabled" concerns one request.
_BETWEEN = (
    r"(?:access|to|of|for|with|linked|associated|the|this|that|your|claude|anthropic(?:'s)?|api|key"
    r"|organi[sz]ation|workspace|account|(?:org|wrkspc|acct|apikey)[_-][\w-]+|[0-9a-f-]{8,})"
)

#: What makes it a refusal of one thing, and not of all: "… is blocked from using this model".
_OF_ONE_THING = (
    r"(?: from (?:using|accessing|calling) (?!the (?:claude )?api|our|claude\b|anthropic)"
    r"| (?:for|to|on|in) (?:use |using |the |this |that )*"
    r"(?:model|feature|beta|tool|endpoint|region|version|claude-|fast|batch|web|code|file|mcp))"
)

_MONEY = (
    r"credit balance|balance|credits?|funds|spend(?:ing)? (?:limit|cap)|api usage limits?"
    r"|extra usage|billing|payment|invoice"
)

_LACKING = (
    "too low|insufficient|not enough|no remaining|exhausted|run out|ran out|used up|depleted"
    "|out of|reached|hit|exceed(?:s|ed)?|past due|overdue|unpaid|failed|declined|required|problem"
    "|issue"
)

#: What is quoted in a message.
_QUOTED = re.compile(r"\"[^\"]*\"|`[^`]*`|(?<!\w)'[^']*'")


def _out_of_use(subjects: str) -> re.Pattern[str]:
    """A pattern of sentences, and of error codes, that say that one of *subjects* is."""
    return re.compile(
        rf"(?:(?:this|your|the) )?(?:(?:linked|parent|user|api|anthropic|claude) )?(?:{subjects})"
        rf"(?:'s)?(?:(?: {_BETWEEN}\b){{0,6}}? (?:has been|have been|is|are|was)"
        rf"(?: (?!not\b)\w+){{0,2}}?| has(?= expired))?(?: (?:{_OUT_OF_USE})\b(?!{_OF_ONE_THING})"
        r"| only authorized (?:for use with|to use) claude code\b)",
        re.IGNORECASE,
    )


#: The organization, workspace or account is out of use.
_GONE = _out_of_use(
    r"(?:organi[sz]ation|workspace|account)(?-i:(?: [A-Z][\w.-]*){0,3})|access"  # with its name
)

#: The key, or whatever else the request was authenticated with, is out of use.
_KEY_GONE = _out_of_use("key|credentials?|(?:oauth |access |auth )?token")

#: There is no money, or no more may be spent.
_NO_MONEY = re.compile(
    rf"(?=.{{0,120}}\b(?:{_MONEY})\b)(?=.{{0,120}}\b(?:{_LACKING})\b)"
    r"(?:your|you|you've|(?:this )?(?:organization|account|workspace)|insufficient|not enough|no"
    r"|credits?|prepaid|billing|payment|monthly|spend(?:ing)?)\b",
    re.IGNORECASE,
)

#: Error types that name the problem, whatever the status.
_TYPES = {"billing_error": "billing", "authentication_error": "key refused"}

_PATTERNS = ((_GONE, "account disabled"), (_KEY_GONE, "key refused"), (_NO_MONEY, "spend limit"))

#: Statuses that another try does not cure, and whose words may tell of the account.
_REFUSED_FOR_GOOD = frozenset({400, 403})


def account_problem(status: int, error: Mapping[str, Any], code: Optional[str]) -> str:
    """The problem of the account that the API's *error* tells of; "" if it tells of none."""
    if not error or status >= 500:
        return ""
    said = [str(code).replace("_", " ")]
    if status in _REFUSED_FOR_GOOD:
        said.append(_own_words(str(error.get("message"))))
    found = (reason for pattern, reason in _PATTERNS if any(map(pattern.match, said)))
    return _TYPES.get(str(error.get("type"))) or next(found, "")


def _own_words(message: str) -> str:
    """The part of the API's *message* that cannot repeat what a caller wrote."""
    return " ".join(_QUOTED.sub("", message.partition(":")[0]).split())
