"""``throttler.batches``: the Message Batches API.

``api`` is what users call and ``handle`` what they get; ``upload`` makes batches of requests,
``client`` sends requests about batches, ``results_file`` and ``result`` read what came of them, and
``wire_format`` knows the API's JSON. Batches have quotas of their own, so nothing here uses the
lanes of messages.
"""
