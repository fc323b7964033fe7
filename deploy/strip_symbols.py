"""Cuts symbols off the compiled modules below a folder, as ``strip`` would: the base image has none.

They are behind everything that is loaded. The file ends there from now on, and names no table of sections any more,
which only debuggers and linkers read. Other files are left as they are.
"""

import struct
import sys
from pathlib import Path

ELF_64_LITTLE_ENDIAN = b"\x7fELF\x02\x01"


def stripped(data: bytes) -> bytes:
    """The file without what follows its last segment; offsets are those of the ELF header and of its segments."""
    if not data.startswith(ELF_64_LITTLE_ENDIAN):
        return data
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    segments = [table + size * number for number in range(count)]
    ends = [sum(struct.unpack_from("<Q16xQ", data, segment + 8)) for segment in segments]
    kept = bytearray(data[: max(ends)])
    struct.pack_into("<Q", kept, 40, 0)
    struct.pack_into("<HHH", kept, 58, 0, 0, 0)
    return bytes(kept)


def main() -> None:
    for path in Path(sys.argv[1]).rglob("*.so*"):
        data = path.read_bytes()
        if len(kept := stripped(data)) < len(data):
            path.write_bytes(kept)


if __name__ == "__main__":
    main()
