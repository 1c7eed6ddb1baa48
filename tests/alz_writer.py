"""Write small .alz archives for the tests: stored, deflated or bzip2, in one or several volumes."""

import bz2
import struct
import zlib

STORE, BZIP2, DEFLATE = 0, 1, 2
VOLUME_HEAD, VOLUME_TAIL = b"ALZ\x01" + bytes(4), bytes(16)


def _bits(value: int, count: int) -> str:
    return format(value, f"0{count}b")


def alz_bzip2(data: bytes, drop: int = 1) -> bytes:
    """Return `data` as ALZip packs it: bzip2 without header, checksums and the "randomised" bit."""
    packed = bz2.compress(data)
    text = _bits(int.from_bytes(packed[4:], "big"), 8 * (len(packed) - 4))
    block, end = _bits(0x314159265359, 48), _bits(0x177245385090, 48)
    mark = _bits(int.from_bytes(b"DLZ\x01", "big"), 32)
    out = ""
    for part in text[: text.rindex(end)].split(block)[1:]:
        out += mark + part[32 + drop :]  # drops the checksum of the block and one bit
    out += _bits(int.from_bytes(b"DLZ\x02", "big"), 32)
    out += "0" * (-len(out) % 8)
    return int(out, 2).to_bytes(len(out) // 8, "big")


def pack(data: bytes, method: int) -> bytes:
    if method == DEFLATE:
        packer = zlib.compressobj(6, zlib.DEFLATED, -15)
        return packer.compress(data) + packer.flush()
    return alz_bzip2(data) if method == BZIP2 else data


def alz(
    files: dict[str, bytes], method: int = DEFLATE, encrypted: bool = False, crc_error: int = 0
) -> bytes:
    """Return an archive in one piece; `crc_error` is XORed to the checksums."""
    out = b"ALZ\x01" + b"\x0a\0\0\0"
    for name, data in files.items():
        packed, raw = pack(data, method), name.encode("utf-8")
        out += struct.pack("<4sHBIBB", b"BLZ\x01", len(raw), 0x20, 0, 0x40 | encrypted, 0)
        out += struct.pack(
            "<BBIII", method, 0, zlib.crc32(data) ^ crc_error, len(packed), len(data)
        )
        out += raw + bytes(12 * encrypted) + packed
    return out + b"CLZ\x01" + bytes(8) + b"CLZ\x02"


def volumes(archive: bytes, size: int) -> list[bytes]:
    """Cut an archive into volumes of about `size` bytes: .alz, .a00, .a01 ..."""
    pieces = [archive[at : at + size] for at in range(0, len(archive), size)]
    return [
        (VOLUME_HEAD if i else b"") + piece + (VOLUME_TAIL if i < len(pieces) - 1 else b"")
        for i, piece in enumerate(pieces)
    ]
