"""The keywords of ``submit()`` that are not parameters of the API: they never reach the body."""

OUR_KEYWORDS = (
    "betas",
    "block",
    "extra_body",
    "extra_headers",
    "extra_query",
    "priority",
    "raw",
    "tenant",
    "timeout",
)
