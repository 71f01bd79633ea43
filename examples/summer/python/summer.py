"""Summer in Python: reads `A + B`, answers the sum."""

import re

from componentize_py_types import Err
from wit_world import WitWorld as Program

SHOWN = 60
SPACES = " \t\n\v\f\r"

# The first plus after the first number's own sign and digits.
PLUS = re.compile(r"(?<=[0-9\s])\+", re.ASCII)
INTEGER = re.compile(r"([+-]?)0*([0-9]+)", re.ASCII)


class WitWorld(Program):
    def answer(self, input: bytes) -> bytes:
        return f"{total(input)}\n".encode()


def total(data: bytes) -> int:
    """Adds two decimal integers of up to 128 bits with any sign and any white space around them."""
    try:
        text = data.decode().strip(SPACES)
    except UnicodeDecodeError:
        raise Err("the input is not text") from None
    plus = PLUS.search(text)
    if plus is None:
        raise Err(f"expected `A + B`, found `{shortened(text)}`")
    a, b = number(text[: plus.start()]), number(text[plus.end() :])
    if not fits(a + b):
        raise Err(f"the sum of {a} and {b} does not fit into 128 bits")
    return a + b


def number(text: str) -> int:
    text = text.strip(SPACES)
    parts = INTEGER.fullmatch(text)
    if parts is None:
        raise Err(f"`{shortened(text)}` is not an integer")
    sign, digits = parts.groups()
    # 39 digits are the most that fit, and Python refuses to convert thousands.
    if len(digits) > 39 or not fits(int(sign + digits)):
        raise Err(f"`{shortened(text)}` does not fit into 128 bits")
    return int(sign + digits)


def fits(value: int) -> bool:
    return -(1 << 127) <= value < 1 << 127


def shortened(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
