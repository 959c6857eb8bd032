"""The trainer's place on the bus."""

import logging

from bus.server import BusServer
from shared.settings import Settings

log = logging.getLogger(__name__)


def open_bus(settings: Settings, run: str) -> BusServer | None:
    """Listen for proposers, if the settings ask for any.

    Called before the model loads, so that proposers are there when the first digest goes out.

    Raises:
        UserError: the address cannot be listened at.
    """
    if settings.restarts.policy == "none" or settings.restarts.source != "bus":
        return None
    end = BusServer(settings.bus, run)
    log.info("listening for proposers on %s", settings.bus.bind)
    return end
