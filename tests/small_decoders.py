"""Small causal language models of several kinds with random weights, saved as a hub model is."""

import json
from functools import cache

import torch

from shared.settings import BackboneSettings, PromptSettings
from trainer.backbones.decoder import Decoder
from trainer.tasks.examples import Example

TEMPLATE = "Review: {text}\nSentiment:"
TEXTS = ["a good film", "a very bad film, and not at all a good one", "so {text} it is", "bad"]
LABELS = ["good", "not good", "not good at all", "bad"]
CPU = torch.device("cpu")


@cache
def bytes_tokenizer(begin=True):
    """A byte-level byte-pair tokenizer, as GPT-2's, that begins each text with <s> as Llama's do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    corpus = [TEMPLATE, *TEXTS, *(f"a {label}" for label in LABELS)] * 2
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    inner.train_from_iterator(corpus, trainer)
    if begin:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def tiny_model(kind):
    """A small causal language model with random weights."""
    import transformers

    vocabulary = len(bytes_tokenizer()) + 8  # more rows than tokens, as Qwen pads its table
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    size |= {"num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128, "initializer_range": 0.3}
    if kind == "gpt2":
        size = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.3}
    if kind == "qwen2":
        del size["head_dim"]
    torch.manual_seed(5)
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(kind, vocab_size=vocabulary, **size)
    ).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name or "bias" in name:  # ones and zeros would hide one that is left out
                weight.add_(0.3 * torch.randn_like(weight))
    return model


def save_small_decoder(kind, root):
    """The folder of a decoder inside `root`, made once."""
    folder = root / kind
    if not folder.exists():
        tiny_model(kind).save_pretrained(folder)
        bytes_tokenizer().save_pretrained(folder)
    return folder


def decoder(path, labels=("good", "bad"), num_tokens=8, device=CPU, **settings):
    values = {"family": "decoder", "path": str(path), "template": TEMPLATE, "max_tokens": 60, **settings}
    return Decoder(BackboneSettings(**values), PromptSettings(num_tokens=num_tokens), list(labels), "text", device)


def examples(*texts):
    return [Example(((text,),), {"text": text}) for text in texts]


def prepare(model, *texts):
    return model.prepare(examples(*texts), "texts", lambda: None)


def prompts(model, *lengths):
    generator = torch.Generator().manual_seed(2)
    dim = model.vocabulary.embeddings.shape[1]
    drawn = [torch.randn(length, dim, generator=generator) for length in lengths]
    return [prompt.to(model.device).requires_grad_() for prompt in drawn]


def write_gguf(path, model, tokenizer):
    """A Llama as llama.cpp saves it."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    tokens += [f"[unused{at}]" for at in range(config.vocab_size - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if at < 2 else 1 for at in range(len(tokens))])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        if heads:  # llama.cpp turns pairs of neighbours, transformers halves of a head
            weight = weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
        writer.add_tensor(names.get_name(name.removesuffix(".weight")) + ".weight", weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
