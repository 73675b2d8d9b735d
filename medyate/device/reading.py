"""What a toolchain says, as plain data: sizes in an image, a linker's refusal."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from ..errors import InputError


def sizes(image: str | Path) -> dict[str, dict[str, int]]:
    """Bytes in an ELF image of 32 bits: ``sections`` and ``symbols`` by name, those of size 0 left out.

    The engine's parts: section ``.text`` is code with constants and tables, ``.weights`` the network's numbers,
    ``.store`` room for trained weights; ``.arena``, ``.passing``, ``.state`` and ``.stack`` are RAM. Raises
    :class:`InputError` for a file that is no such image.
    """
    data = Path(image).read_bytes() if Path(image).is_file() else b""
    if data[:6] != b"\x7fELF\x01\x01":
        raise InputError(
            f"{str(image)!r} is no 32-bit ELF image; allowed: what `make firmware` or `make qemu` has built"
        )
    begin, size, count, names_at = struct.unpack_from("<I", data, 32)[0], *struct.unpack_from("<3H", data, 46)
    headers = [struct.unpack_from("<10I", data, begin + i * size) for i in range(count)]

    def text(table: tuple[int, ...], at: int) -> str:
        start = table[4] + at
        return data[start : data.index(b"\0", start)].decode()

    size_of: dict[str, dict[str, int]] = {"sections": {}, "symbols": {}}
    for header in headers:
        name_at, kind, flags, _, offset, length, link = header[:7]
        if flags & 2 and length:  # in memory
            size_of["sections"][text(headers[names_at], name_at)] = length
        if kind == 2:  # the symbol table
            for at in range(offset, offset + length, 16):
                name, _, size, _, _, section = struct.unpack_from("<IIIBBH", data, at)
                if name and section:
                    size_of["symbols"][text(headers[link], name)] = size
    return size_of


def refusal(output: str) -> dict[str, int]:
    """By region, how many bytes too many a linker's refusal counts; {} where it has refused nothing."""
    return {region: int(size) for region, size in re.findall(r"region `(\w+)' overflowed by (\d+) bytes", output)}
