"""Small CLIP and SigLIP models with random weights, saved as a hub model is."""

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

LABELS = ["dog", "fire truck", "cat"]
SIZE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.2,
}
VISION = {**SIZE, "image_size": 16, "patch_size": 8}


def letters_tokenizer(**special):
    """A CLIP tokenizer whose tokens are single letters and a few words."""
    words = ["a", "photo", "of", "the", "dog", "cat", "truck"]
    merges = []
    for word in words:
        letters = [*word[:-1], f"{word[-1]}</w>"]
        for size in range(1, len(letters)):
            pair = ("".join(letters[:size]), letters[size])
            merges += [pair] if pair not in merges else []
    signs = [chr(code) for code in range(33, 127)]
    tokens = [*signs, *(f"{sign}</w>" for sign in signs), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, **special)


def save_clip(folder, eos_token_id=None, positions=30):
    tokenizer = letters_tokenizer()
    text = {
        **SIZE,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": positions,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": eos_token_id or tokenizer.eos_token_id,
        "pad_token_id": 1,
    }
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24))
    size = {"height": 16, "width": 16}
    save(folder, model, tokenizer, CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=size))
    return folder


def save_siglip(folder):
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = letters_tokenizer()
    backend = tokenizer.backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", tokenizer.eos_token_id)]
    )
    plain = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<|startoftext|>")
    text = {**SIZE, "vocab_size": len(tokenizer), "max_position_embeddings": 20}
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))
    save(folder, model, plain, SiglipImageProcessorPil(size={"height": 16, "width": 16}))
    return folder


def save(folder, *parts):
    for part in parts:
        part.save_pretrained(folder)
