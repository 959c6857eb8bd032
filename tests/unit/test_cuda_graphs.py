"""Recorded passes give what kernel by kernel passes give; what cannot be recorded still runs."""

from contextlib import nullcontext

import pytest
import torch
from conftest import FRUIT
from small_clip import LABELS, save_clip, save_siglip
from small_decoders import decoder, prepare, save_small_decoder
from small_encoders import save_small_encoder, save_small_sentences

from shared.settings import BackboneSettings, PromptSettings
from trainer.backbones import load_family
from trainer.backbones.cuda_graphs import MULTIPLE, CudaGraphs, without_graphs
from trainer.backbones.encoder import Encoder
from trainer.backbones.passes import run_chunks
from trainer.backbones.stack import stack
from trainer.tasks.examples import Example

PAIRS = [Example(((" ".join((FRUIT * 3)[:length]), "plum"),)) for length in (1, 5, 9, 3, 16, 2, 7)]


def open_encoder(root, device, **settings):
    values = BackboneSettings(
        path=save_small_encoder("bert", root), family="encoder", dtype="float32", max_tokens=40, **settings
    )
    model = Encoder(values, PromptSettings(num_tokens=8), ["yes", "no"], "rte", device)
    return model, model.prepare(PAIRS, "rows", lambda: None)


def open_family(kind, root, device):
    match kind:
        case "encoder":
            return open_encoder(root, device)
        case "decoder":
            model = decoder(save_small_decoder("llama", root), device=device, dtype="float32")
            return model, prepare(model, "a good film", "bad", "a very bad film, and not at all a good one")
        case "sentences":
            path, labels = save_small_sentences(root), ["apple", "plum pear"]
        case _:
            path, labels = save_siglip(root / kind) if kind == "siglip" else save_clip(root / kind), LABELS
    position = "middle" if kind == "clip" else "end"
    values = BackboneSettings(path=str(path), dtype="float32", features=None, label_position=position)
    return load_family(values, PromptSettings(num_tokens=8), labels, "text", device), None


def prompts_of(model, seed):
    generator = torch.Generator().manual_seed(seed)
    drawn = [0.3 * torch.randn(tokens, model.vocabulary.embeddings.shape[1], generator=generator) for tokens in (4, 2)]
    return [prompt.to(model.device).requires_grad_() for prompt in drawn]


def gradients(model, rows, seed, training=False):
    """What a model gives for two prompts, and their gradients."""
    prompts = prompts_of(model, seed)
    lanes = stack(prompts, [model.new_head(1)] * 2)
    found = model.class_embeddings(lanes) if rows is None else model.logits(lanes, rows, training)
    return found.detach().clone(), *torch.autograd.grad(
        (found * torch.linspace(-1, 1, found.shape[-1]).to(found)).sum(), prompts
    )


@pytest.mark.parametrize("kind", ["encoder", "decoder", "sentences", "clip", "siglip"])
def test_every_replay_gives_what_the_kernels_give(kind, tmp_path, device, caplog):
    caplog.set_level("INFO")
    model, rows = open_family(kind, tmp_path, device)
    parts = [rows] if rows is None else [rows, rows[torch.tensor([1])], rows]
    for seed, part in enumerate(parts * 2):
        found = gradients(model, part, seed)
        with without_graphs():
            expected = gradients(model, part, seed)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    if device.type == "cuda":
        graphs = model._run[False] if kind == "encoder" else model._run
        assert graphs.records and graphs._graph.cache_info().hits, caplog.text


@pytest.mark.parametrize("kind", ["encoder", "decoder", "sentences"])
def test_the_gradients_of_replays_add_up(kind, tmp_path, device):
    """Of one row and one lane, where no sum copies what the next replay overwrites."""
    model, rows = open_family(kind, tmp_path, device)
    row = None if rows is None else rows[torch.tensor([0])]
    found = []
    for context in (nullcontext, without_graphs):
        prompt = prompts_of(model, 0)[0]
        for _ in range(2):
            with context():
                lane = stack([prompt], [model.new_head(1)])
                given = model.class_embeddings(lane) if row is None else model.logits(lane, row)
            (given * torch.linspace(-1, 1, given.shape[-1]).to(given)).sum().backward()
        found.append(prompt.grad)
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)


def test_dropout_of_a_replay_follows_the_seed_and_not_what_was_recorded_before(tmp_path, device):
    model, rows = open_encoder(tmp_path, device, dropout=0.3)

    def seeded(seed):
        torch.manual_seed(seed)
        return gradients(model, rows, 0, training=True)[0]

    first, other, again = seeded(1), seeded(2), seeded(1)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(gradients(model, rows, 0)[0], first)


def test_texts_are_padded_for_few_shapes_and_score_as_before(tmp_path):
    """On a processor, as if it recorded: scoring records nothing."""
    model, rows = open_encoder(tmp_path, torch.device("cpu"), pooling="text")
    lanes = stack(prompts_of(model, 0), [model.new_head(1)] * 2)
    with torch.no_grad():
        expected = model.logits(lanes, rows)
        model._run[False].records = True
        lengths = set()
        run = model._body.forward

        def note(**inputs):
            lengths.add(inputs["inputs_embeds"].shape[1])
            return run(**inputs)

        model._body.forward = note
        found = torch.cat([model.logits(lanes, rows[torch.tensor([at])]) for at in range(len(PAIRS))], dim=1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert len(lengths) > 1 and all(length % MULTIPLE == 0 for length in lengths)


def test_no_length_is_padded_beyond_the_models_positions(device):
    graphs = CudaGraphs(torch.sin, BackboneSettings(), device)
    graphs.records = True
    assert [graphs.length(length, 50) for length in (1, 16, 17, 49, 50)] == [16, 16, 32, 50, 50]


@pytest.mark.parametrize(
    "settings", [{"cuda_graphs": False}, {"checkpointing": True}, {"device_map": "auto"}, {"quantization": "nf4"}]
)
def test_models_that_wait_or_compute_twice_are_not_recorded(settings):
    assert CudaGraphs(torch.sin, BackboneSettings(), torch.device("cuda")).records
    assert not CudaGraphs(torch.sin, BackboneSettings(**settings), torch.device("cuda")).records


def test_chunks_that_are_computed_twice_are_not_recorded(device):
    seen = []

    def run(each):
        seen.append(graphs._graph.cache_info().currsize)
        return graphs(each)

    graphs = CudaGraphs(torch.sin, BackboneSettings(), device)
    prompt = torch.ones(3, device=device, requires_grad=True)
    torch.cat(run_chunks(run, [2 * prompt, 3 * prompt])).sum().backward()
    torch.testing.assert_close(prompt.grad, 2 * (2 * prompt).cos() + 3 * (3 * prompt).cos())
    assert seen == [0] * 4 and graphs._graph.cache_info().currsize == 0


def test_what_waits_for_the_gpu_runs_kernel_by_kernel(device, caplog):
    caplog.set_level("INFO")

    def waits(each):
        return each * each.sum().item()

    graphs = CudaGraphs(waits, BackboneSettings(), device)
    for value in (1.0, 2.0):
        prompt = torch.full((3,), value, device=device, requires_grad=True)
        output = graphs(prompt)
        output.sum().backward()
        assert output.tolist() == [3 * value**2] * 3 and prompt.grad.tolist() == [3 * value] * 3
    if device.type == "cuda":
        assert not graphs.records and caplog.text.count("cannot record") == 1
        assert torch.cuda.current_stream() == torch.cuda.default_stream()
        assert torch.rand(3, device=device).unique().numel() == 3


def test_a_backward_pass_after_the_next_replay_fails(device):
    graphs = CudaGraphs(torch.sin, BackboneSettings(), device)
    prompt = torch.ones(3, device=device, requires_grad=True)
    first, second = graphs(prompt), graphs(2 * prompt)
    second.sum().backward()
    if device.type == "cuda":
        with pytest.raises(AssertionError, match="before the backward pass"):
            first.sum().backward()
    else:
        first.sum().backward()
