"""Tables of sentences and pairs: files, labelled examples, GLUE."""
