"""The standard Huffman tables of JPEG, each as a segment that defines it.

USB cameras leave them out of their pictures (MJPEG).
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["HUFFMAN_TABLES"]

_SOURCE = {
    # DC, luma: table K.3.
    0x00: ("00010501010101010100000000000000000102030405060708090a0b"),
    # AC, luma: table K.5.
    0x10: (
        "0002010303020403050504040000017d01020300041105122131410613516107227114328191a108"
        "2342b1c11552d1f02433627282090a161718191a25262728292a3435363738393a43444546474849"
        "4a535455565758595a636465666768696a737475767778797a838485868788898a92939495969798"
        "999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2"
        "e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa"
    ),
    # DC, chroma: table K.4.
    0x01: ("00030101010101010101010000000000000102030405060708090a0b"),
    # AC, chroma: table K.6.
    0x11: (
        "00020102040403040705040400010277000102031104052131061241510761711322328108144291"
        "a1b1c109233352f0156272d10a162434e125f11718191a262728292a35363738393a434445464748"
        "494a535455565758595a636465666768696a737475767778797a82838485868788898a9293949596"
        "9798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9da"
        "e2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa"
    ),
}
"""Counts of codes of 1 to 16 bits and then the values, by class and number of the table (B.2.4.2).

Source: ITU-T T.81, annex K.3."""


def _segment(slot: int, table: bytes) -> bytes:
    length = 2 + 1 + len(table)
    return b"\xff\xc4" + length.to_bytes(2, "big") + bytes((slot,)) + table


HUFFMAN_TABLES: Mapping[int, bytes] = {
    slot: _segment(slot, bytes.fromhex(table)) for slot, table in _SOURCE.items()
}
"""A DHT segment for each table: 0x00 and 0x10 for luma, 0x01 and 0x11 for chroma."""
