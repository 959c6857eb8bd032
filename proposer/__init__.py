"""Asks an LLM for prompts in words and sends them to trainers. Loads no torch."""
