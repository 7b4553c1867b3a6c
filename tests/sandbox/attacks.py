"""Programs that try to escape, to stay, to use up the machine, or to fake their verdict. A benchmark runs them too.

A program that is refused what it wants prints `refused`; anything else that it prints is a success of the attack. If
the sandbox were broken, a test would fail and do no harm: no attack kills, removes or hides what is not its own.
"""

from __future__ import annotations

from tests.sandbox.attacks_on_limits import ATTACKS_ON_LIMITS
from tests.sandbox.attacks_on_walls import ATTACKS_ON_WALLS

ATTACKS = (*ATTACKS_ON_LIMITS, *ATTACKS_ON_WALLS)
