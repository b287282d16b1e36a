"""The transport: sends requests over HTTP, and turns what comes back into an outcome.

For a reader: ``request`` checks and writes a call (``keywords`` and ``plain_values`` what is rare
in one), ``http`` sends it, ``retry`` decides whether to send it again, ``verdicts`` says what a
refusal means, ``response_stream`` reads streamed answers. Below them are ``adapter`` and
``connections`` (requests and urllib3), ``sse`` (events) and ``sdk`` (the official SDK's types).
What other clients received is read by ``foreign_verdicts`` (a response that passes through
``features/interop``), ``foreign_outcomes`` (what a permit is settled with) and ``usage_reader``.
Nothing here holds a queue or a quota: what a send meets is reported to the lane by its ``Attempt``.
"""
