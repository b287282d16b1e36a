"""What an admin key tells at the start: the limits of the whole organization."""

from __future__ import annotations

import contextlib
import logging
from functools import partial

from claude_throttle.account.model_groups import ModelGroups
from claude_throttle.account.organization_limits import limits_of, read_groups
from claude_throttle.account.organization_wire import fetch_pages
from claude_throttle.config.settings import Settings
from claude_throttle.core.threads.thread_pool import ThreadPool
from claude_throttle.transport.http import HttpTransport

logger = logging.getLogger("claude_throttle")


class OrganizationLimits:
    """Asks the Rate Limits API once, beside the first call. Thread-safe."""

    def __init__(
        self, settings: Settings, wire: HttpTransport, rooms: ModelGroups, senders: ThreadPool
    ) -> None:
        self._version = settings.api_version
        self._wire = wire
        self._rooms = rooms
        self._senders = senders
        # Popped by whoever asks.
        self._keys = [settings.admin_key] if settings.admin_key else []

    def ask_once(self) -> None:
        """Ask, in a sender thread, if there is a key and nobody has asked."""
        if self._keys:
            with contextlib.suppress(IndexError):  # another thread does
                self._senders.run(partial(self._ask, self._keys.pop()))

    def _ask(self, admin_key: str) -> None:
        try:
            pages = fetch_pages(self._wire.ask, admin_key, self._version)
        except Exception as error:  # noqa: BLE001 - only a start; the answers tell, too
            kind = type(error).__name__
            logger.warning("the Rate Limits API did not tell (%s): limits are learned", kind)
        else:
            groups = read_groups(pages)
            self._rooms.start_with(partial(limits_of, groups=groups))
