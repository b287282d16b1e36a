"""What the API answers when the account, not the traffic, is the problem: no waiting helps.

Ready to be scripted: ``fake.script(CREDIT_TOO_LOW)`` for one call, for all
``fake.outage(reply=KEY_REFUSED)``. :class:`claude_throttle.testing.SpendCap` is the one that the
documentation shows whole. Codes are those of the SDK 2.11.0; texts that were not seen say so.
"""

from __future__ import annotations

from claude_throttle.testing.faults import Reply

# As in a captured 400.
_FOR_GOOD = {"x-should-retry": "false"}
# The documentation quotes how the message begins; the date is told as the spend cap tells it.
_BACK = " You will regain access on 2026-12-01 at 00:00 UTC."

#: A limit that the organization set for itself.
OWN_SPEND_LIMIT = Reply(
    400, _FOR_GOOD, message="You have reached your specified API usage limits." + _BACK
)
#: A limit that the organization set for a workspace.
WORKSPACE_SPEND_LIMIT = Reply(
    400, _FOR_GOOD, message="You have reached your specified workspace API usage limits." + _BACK
)
#: Prepaid credit is used up; the text is in many public issues of 2025 and 2026.
CREDIT_TOO_LOW = Reply(
    400,
    _FOR_GOOD,
    message="Your credit balance is too low to access the Anthropic API. Please go to Plans &"
    " Billing to upgrade or purchase credits.",
)
#: Since SDK 2.10.0 of 2026-11-17; whether it has a ``retry-after`` is not known, here it has none.
CONTRACT_SPEND_LIMIT = Reply(
    429,
    message="Your organization has reached the spend limit of its contract.",
    error_code="contract_spend_limit_reached",
)
#: Something is wrong with the means of payment. The text was not seen.
BILLING_PROBLEM = Reply(402, message="There is an issue with your billing or payment information.")
#: The organization linked to the request has no money to spend. The text was not seen.
LINKED_SPEND_LIMIT = Reply(
    402,
    message="The linked organization has reached a spend limit or lacks credit.",
    error_code="linked_organization_spend_limit_reached",
)
#: Trust and safety. The code is the SDK's.
ORGANIZATION_ON_HOLD = Reply(
    400,
    _FOR_GOOD,
    message="This organization has been disabled.",
    error_code="organization_on_hold",
)
#: A key nobody knows, or no longer.
KEY_REFUSED = Reply(401, message="invalid x-api-key")
#: A good key that may not do this.
NOT_PERMITTED = Reply(
    403, message="Your API key does not have permission to use the specified resource."
)
