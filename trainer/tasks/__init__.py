"""Labelled examples: read as the task's format says, and split by seed so that reported data stays apart."""

from trainer.tasks.load import load_task

__all__ = ["load_task"]
