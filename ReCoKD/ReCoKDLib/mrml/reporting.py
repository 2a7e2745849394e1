"""Errors, shown as Slicer shows them."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import Cancelled, ReCoKDError
from .host import ensure_slicer
from .texts import _


def report(action: Callable[[], None], say: Callable[[str], None], wait: bool = False) -> bool:
    """Run something; what the user can act on is shown as it is said, anything else with its details.

    Args:
        action: What to run.
        say: Shows a text beside the widgets; of a cancel nothing else is shown.
        wait: Show the cursor of a busy program meanwhile.

    Returns:
        Whether it came to its end.
    """
    util = ensure_slicer().util
    with util.tryWithErrorDisplay(_("Something went wrong in ReCoKD."), waitCursor=wait):
        try:
            action()
            return True
        except Cancelled as cancelled:
            say(str(cancelled))
            return False
        except ReCoKDError as error:
            message = str(error)
    say(message)
    util.errorDisplay(message, windowTitle="ReCoKD")
    return False
