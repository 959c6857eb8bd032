"""The end of a run: test once, export the result, write the summary."""

from shared.settings import Settings
from trainer.export import export_best
from trainer.folder import SUMMARY, RunFolder
from trainer.pool import Result
from trainer.state import State
from trainer.summary import Row, member_words, summarise
from trainer.tune import Ground, fitness_on_test


def conclude(
    settings: Settings, ground: Ground, folder: RunFolder, state: State, results: list[tuple[str, Result]]
) -> tuple[list[Row], list[str]]:
    """Measure named results on test data and keep the run's own, which is the second, after the untrained prompt.

    Returns:
        A row for each result, and what each member of the run's own says in the nearest words.
    """
    rows = [Row(name, found.dev, fitness_on_test(found, ground)) for name, found in results]
    result = results[1][1]
    words = member_words(result, ground.backbone.vocabulary, settings)
    export_best(folder.path, result, ground.task.labels, words, settings)
    folder.write_json(SUMMARY, summarise(settings, folder, state, result, rows, words))
    return rows, words
