"""`python -m proposer`: serves trainers until it is stopped."""

from typing import NoReturn

from shared.startup import end_on_signals

end_on_signals(0)

from proposer.command import main  # noqa: E402 - imports take a while, and a stop must not wait for them
from shared.errors import run_command  # noqa: E402


def command() -> NoReturn:
    """The console script tandem-propose."""
    run_command(main)


if __name__ == "__main__":
    command()
