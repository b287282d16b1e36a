"""Has a throttler admit each request once, though several objects of it may see the request.

A client may have both our middleware and our transport. They see a request in one thread, the one
inside the other. So the outer one leaves a mark there while it sends, and the inner one uses it up:
a mark is for one request on the wire, and another request that the thread makes meanwhile has none.
"""

from __future__ import annotations

from typing import Any, Callable, Optional

from claude_throttle.core.threads.local_values import ThreadLocalList
from claude_throttle.features.interop.unpaced_requests import Notices, say_once


class _Mark:
    """A request that this thread is sending, and the admission that let it leave."""

    __slots__ = ("admission", "key", "used")

    def __init__(self, admission: Any, key: Optional[str]) -> None:
        self.admission = admission
        #: What the SDK knows the request by.
        self.key = key
        self.used = False


#: The innermost request is the last one.
_marks: ThreadLocalList[_Mark] = ThreadLocalList()


class OneAdmission:
    """What one middleware or transport knows of the others in its thread. Thread-safe."""

    def __init__(self, admission: Any, notices: Notices) -> None:
        """*admission*: equal for all objects of a throttler, and for those of no other one."""
        self._admission = admission
        self._notices = notices

    def holds(self, key: Optional[str]) -> bool:
        """Whether the request that the SDK knows by that *key* was admitted; uses nothing up."""
        mine = _marks.mine()
        return bool(mine) and self._any_of_ours([m for m in mine if m.key == key is not None])

    def take(self) -> bool:
        """Whether the request that this thread sends now was admitted; it was the last one."""
        mine = _marks.mine()
        if not mine:
            return False
        found = [mark for mark in mine if not mark.used]
        for mark in found:
            mark.used = True
        return self._any_of_ours(found)

    def pass_on(self, send: Callable[[Any], Any], request: Any, key: Optional[str] = None) -> Any:
        """What *send* returns for a *request* that was admitted."""
        mine = _marks.mine()
        mine.append(_Mark(self._admission, key))
        try:
            return send(request)
        finally:
            mine.pop()

    def _any_of_ours(self, found: list[_Mark]) -> bool:
        if not found:
            return False
        if any(mark.admission == self._admission for mark in found):
            return True
        say_once(
            self._notices,
            "two throttlers in a client",
            "two throttlers pace one client, and each request waits for its turn at both: make "
            "one Throttler, and use its middleware() or its transport(), not two",
        )
        return False
