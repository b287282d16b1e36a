"""A fleet of two processes, as a shared store tells it."""

from __future__ import annotations

import os
import socket

from claude_throttle import FleetLane, FleetMember, FleetState

STORE = "redis://host:6379/0"
HERE = socket.gethostname()

LANE = FleetLane("0123456789", "sonnet-5", {"requests": (3.0, 60.0)}, 0.0, 4, 1, None, 0.0)
FLEET = FleetState(
    STORE,
    (
        FleetMember("0123456789", HERE, os.getpid(), {"a": (1, 2), "b": (3, 4)}, 9.0),
        FleetMember("0123456789", "elsewhere", 7, {}, 9.0),
    ),
    (LANE,),
)
