"""Testing mode: canned answers in place of the network.

For tests and for work on a user interface, without a key. Only the transport is replaced: calls are
queued, paced and sent to threads as real ones are.
"""
