"""Messages between trainer and proposers, and the ways they travel. Loads neither torch nor LangChain."""
