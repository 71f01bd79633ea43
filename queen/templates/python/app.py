"""Counts the words of an input."""

from componentize_py_types import Err
from wit_world import WitWorld as Program


class WitWorld(Program):
    """The class that distwasm calls; it has the name of the world in wit/guest.wit."""

    def answer(self, input: bytes) -> bytes:
        """Answers one input. The report shows the reason that Err is given."""
        words = len(input.split())
        if words == 0:
            raise Err("there is no word in it")
        return f"{words} words\n".encode()
