"""Write small archives for the tests: .zip; .alz, stored or deflated, in one or several volumes."""

import io
import struct
import zipfile
import zlib

STORE, BZIP2, DEFLATE = 0, 1, 2  # bzip2 in name only
VOLUME_HEAD, VOLUME_TAIL = b"ALZ\x01" + bytes(4), bytes(16)


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def alz(
    files: dict[str, bytes], method: int = DEFLATE, encrypted: bool = False, crc_error: int = 0
) -> bytes:
    """Return an archive in one piece; `crc_error` is XORed to the checksums."""
    out = b"ALZ\x01" + b"\x0a\0\0\0"
    for name, data in files.items():
        packed, raw = data, name.encode("utf-8")
        if method == DEFLATE:
            packed = zlib.compress(data)[2:-4]  # without the head and checksum of zlib
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
