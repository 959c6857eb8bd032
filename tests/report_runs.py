"""Run directories for the tests of the report."""

import json

HOSTILE = "</script></title></style><script>alert(1)</script><img src=x onerror=alert(1)>\u202e\u0007{{7*7}}'\"&"


def event(kind, step, **values):
    return {"kind": kind, "time": 1_700_000_000.0 + step, "step": step, **values}


def run_events(text="a prompt", budget=60):
    """The events of a run, of every kind; `text` stands wherever text from elsewhere can."""
    events = [
        event("started", 0, budget=budget, settings="abc", versions={"python": "3.11", text: text}),
        event("evaluation", 0, words=text, cosine=0.9, dev_loss=1.2, lanes=[{"lane": 0, "age": 0, "loss": 1.2}]),
        event(
            "digest",
            0,
            sequence=1,
            num_candidates=4,
            leases=["l1"],
            substitutions=[{"position": 0, "word": text, "replacements": [text, "refund"]}],
        ),
    ]
    for step in range(1, 21):
        events.append(event("step", step, lanes=[0], train_losses=[1.2 - step / 50], bus_seconds=0.01))
    words = [f"{text} {letter}" for letter in "abcd"]
    scored = [{"words": one, "lease": "l1", "asked": 0, "score": 1.0 + at / 10} for at, one in enumerate(words)]
    events += [
        event(
            "proposal",
            20,
            asked=0,
            lease="l1",
            model=text,
            candidates=5,
            new=4,
            seconds=2.5,
            input_tokens=100,
            output_tokens=50,
        ),
        event("candidates", 20, scored=scored, seconds=0.2),
        event("outcome", 20, words=words[3], outcome="outscored", score=1.3, lease="l1"),
        event("outcome", 20, words=text, outcome="duplicate", lease="l1"),
        event("trial", 20, lane=1, words=words[0], score=1.0, lease="l1"),
        event("trial", 20, lane=2, words=words[1], score=1.1, lease="l1"),
    ]
    for step in range(23, 51, 3):
        losses = [0.8, 0.9, 1.0]
        events.append(event("step", step, lanes=[0, 1, 2], train_losses=losses, bus_seconds=0.01))
        if step == 35:
            lanes = [{"lane": lane, "age": 5, "loss": float("nan") if lane == 0 else 0.9} for lane in range(3)]
            events.append(event("evaluation", step, words=text, cosine=0.8, dev_loss=float("nan"), lanes=lanes))
    events += [
        event("outcome", 50, words=words[0], outcome="adopted", score=1.0, gain=0.15, lane=1, lease="l1", dev_loss=0.7),
        event(
            "outcome", 50, words=words[1], outcome="dropped", score=1.1, gain=-0.05, lane=2, lease="l1", dev_loss=0.9
        ),
        event("evaluation", 50, words=text, cosine=0.7, dev_loss=0.7, lanes=[{"lane": 1, "age": 10, "loss": 0.7}]),
    ]
    return events


RARE_EVENTS = [
    event("lease_ended", 50, lease="l1", how="expired"),
    event("request_skipped", 50, waited_seconds=1.0),
    event("stopped", 50, reason="SIGTERM"),
    event("resumed", 50, name="run", recipe="demo", task="a task", labels=["a", "b"], source="bus", mode="async"),
    event("ended", 60, seconds=12.0),
    event("an unknown kind", 60, words="a prompt"),
]


def summary(text="a prompt", score=0.8):
    row = {"dev": {"loss": 0.65, "accuracy": 0.75}, "test": {"loss": 0.7, "accuracy": score}}
    return {
        "steps": 60,
        "result": "mean of 2 lanes",
        "measure": "accuracy",
        **row,
        "others": {"plain prompt tuning, best lane": row, text: row},
        "members": [{"lane": lane, "step": 50, "dev": row["dev"], "words": text} for lane in (0, 1)],
    }


def make_run(path, events, done=None, **config):
    path.mkdir(parents=True)
    settings = {"recipe": "demo", "seed": 1, "steps": 60, "restarts": {"policy": "trial", "source": "bus"}, **config}
    (path / "config.json").write_text(json.dumps(settings))
    (path / "history.jsonl").write_text("".join(json.dumps(one) + "\n" for one in events))
    if done is not None:
        (path / "summary.json").write_text(json.dumps(done))
    return path


def compared(root, seeds=5):
    """Runs of a comparison of two arms inside `root`."""
    for seed in range(1, seeds + 1):
        for arm, policy in (("plain", "none"), ("llm", "trial")):
            score = 0.6 + seed / 100 + (0.05 if arm == "llm" else 0)
            restarts = {"policy": policy, "source": "bus"}
            make_run(root / "demo" / f"{arm}-s{seed}", run_events(), summary(score=score), seed=seed, restarts=restarts)
    return root
