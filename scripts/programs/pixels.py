"""Writes the bytes of a PNG picture's pixels (8 bits a channel, not interlaced): encoders compress them differently."""

import struct
import sys
import zlib


def nearest(left, above, corner):
    guess = left + above - corner
    return min((left, above, corner), key=lambda value: abs(guess - value))


data = open(sys.argv[1], "rb").read()
at, packed = 8, b""
while at < len(data):
    size, kind = struct.unpack(">I4s", data[at : at + 8])
    chunk = data[at + 8 : at + 8 + size]
    if kind == b"IHDR":
        width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunk)
        assert (depth, interlaced) == (8, 0)
        pixel = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    packed += chunk if kind == b"IDAT" else b""
    at += size + 12
lines, above = zlib.decompress(packed), bytearray(width * pixel)
for start in range(0, len(lines), width * pixel + 1):
    method, line = lines[start], bytearray(lines[start + 1 : start + 1 + width * pixel])
    for i in range(len(line)):
        left, corner = (line[i - pixel], above[i - pixel]) if i >= pixel else (0, 0)
        predicted = [0, left, above[i], (left + above[i]) // 2, nearest(left, above[i], corner)][method]
        line[i] = (line[i] + predicted) % 256
    sys.stdout.buffer.write(line)
    above = line
