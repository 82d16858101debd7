"""Parsers of command lines, whose errors are a UserError: one message, exit code 2."""

import argparse
from typing import NoReturn

from sj_lang.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse's parser, which raises UserError instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        message = message.replace(", key=value", "")  # argparse counts it among what is required
        raise UserError(f"{message}; see `{self.prog} --help`")


def positive(text: str) -> int:
    """The type of an option that takes a whole number of 1 or more."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, found '{text}'")
    return number
