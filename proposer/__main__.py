"""`python -m proposer`: serves trainers until it is stopped."""

from shared.startup import end_on_signals

end_on_signals()

from proposer.command import main  # noqa: E402 - imports take a while, and a stop must not wait for them
from shared.errors import run_command  # noqa: E402

if __name__ == "__main__":
    run_command(main)
