"""Real processes and a stand-in LLM, for tests and benches."""
