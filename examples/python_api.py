"""Tandem from Python: a run, its result, a listener, labels for new examples. `python examples/python_api.py`."""

import logging

from trainer import Hooks, Settings, UserError, load, run
from trainer.search.events import Event, TrialJudged, TrialOpened

logging.basicConfig(level=logging.WARNING)  # Tandem sets up no logging; INFO shows what the program prints


def listen(event: Event) -> None:
    """Called with every event of the training; trainer/search/events.py defines them."""
    match event:
        case TrialOpened():
            print(f"step {event.lane_steps}: lane {event.lane.number} tries {event.candidate.words!r}")
        case TrialJudged():
            print(f"step {event.lane_steps}: lane {event.lane.number} is {event.outcome.outcome}")


# A recipe, with settings over it. Sections are dictionaries; what they leave out stays as in the recipe.
# source "vocabulary" draws words at random; the default, "bus", waits for proposers in processes of their own.
settings = Settings(
    recipe="demo",
    steps=40,
    baseline=False,
    restarts={"source": "vocabulary", "trial_steps": 10, "patience": 0},
)
result = run(settings, hooks=Hooks(listeners=[listen]))

print(result)
print("test accuracy:", f"{result.test['accuracy']:.3f}")
print("nearest words:", result.words)
print("prompt:", tuple(result.prompts[0].shape), "class vectors:", tuple(result.class_embeddings.shape))

classifier = result.classifier()  # later, or elsewhere: load("runs/demo-s1")
print(classifier.predict(["my parcel never came", "I cannot log in"]))
print(load(str(result.directory)).labels)

try:
    Settings(recipe="demo", optimizer={"lr": -1})
except UserError as error:  # every mistake that the user can fix is a UserError of one line
    print("refused:", error)
