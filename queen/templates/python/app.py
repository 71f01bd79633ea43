"""Counts the words of an input."""

from componentize_py_types import Err
from wit_world import WitWorld as Program


class WitWorld(Program):
    """What distwasm calls; its name is that of the world in wit/guest.wit."""

    def answer(self, input: bytes) -> bytes:
        """Answers one input. What Err is given is what the report says of it."""
        words = len(input.split())
        if words == 0:
            raise Err("there is no word in it")
        return f"{words} words\n".encode()
