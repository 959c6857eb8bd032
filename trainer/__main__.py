"""`python -m trainer RECIPE`: tune a prompt, test it once, keep the result."""

from typing import NoReturn

from shared.startup import end_on_signals

end_on_signals()

from shared.errors import run_command  # noqa: E402 - imports take a while, and a stop must not wait for them
from trainer.command import main  # noqa: E402


def command() -> NoReturn:
    """The console script tandem-train."""
    run_command(main)


if __name__ == "__main__":
    command()
