"""Tokenizers of recipes. Each is a function that returns a `PreTrainedTokenizerFast`."""
