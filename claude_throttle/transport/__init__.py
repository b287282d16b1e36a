"""The transport: sends requests over HTTP, and turns what comes back into an outcome.

For a reader: ``http`` sends a call, ``retry`` decides whether to send it again, ``verdicts`` says
what a refusal means, ``response_stream`` reads streamed answers. Below them are ``adapter`` and
``connections`` (requests and urllib3), ``sse`` (events) and ``sdk`` (the official SDK's types).
Nothing here holds a queue or a quota: what a send meets is reported to the lane by its ``Attempt``.
"""
