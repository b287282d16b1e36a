"""``throttler.stream()``: calls whose answers are read event by event.

``message_stream`` is what users hold, ``open_stream`` the call behind it, ``accumulator`` the
message so far, made of ``content_block``s, ``helper_events`` what the SDK's helper derives from it,
``replayed_stream`` a whole answer shown as a stream.
The bytes are read by ``transport/response_stream``.
"""
