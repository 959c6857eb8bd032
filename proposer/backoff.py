"""How long to pause after a failure of the LLM."""

import random

FIRST_SECONDS = 1.0
LONGEST_SECONDS = 30.0


class Backoff:
    """Exponential, with jitter so that many proposers do not come back at once. The clock is passed in."""

    def __init__(self) -> None:
        self.failures = 0
        """In a row."""
        self._until = float("-inf")

    def failed(self, now: float) -> float:
        """Count one more failure; the seconds to wait now."""
        self.failures += 1
        longest = min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** min(self.failures - 1, 10))
        seconds = random.uniform(longest / 2, longest)
        self._until = now + seconds
        return seconds

    def succeeded(self) -> bool:
        """End the pause; whether there was a failure before."""
        failed = self.failures > 0
        self.failures = 0
        self._until = float("-inf")
        return failed

    def credits(self, free: int, now: float) -> int:
        """How many of the free slots may start a request: none during a pause, then one."""
        if now < self._until:
            return 0
        return min(free, 1) if self.failures else free
