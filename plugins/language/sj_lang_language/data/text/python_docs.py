"""The text that comes with every Python."""

from pydoc_data.topics import topics


class PythonDocs:
    """The language reference as `help()` shows it: the topics of `pydoc_data`, sorted by name.

    About 450,000 characters of English, on every machine. The text belongs to the Python version,
    so figures of different versions cannot be compared; the run's manifest holds its SHA-256.
    """

    def texts(self) -> dict[str, str]:
        return {"all": "\n\n".join(topics[name] for name in sorted(topics))}
