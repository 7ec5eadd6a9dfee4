"""LSNs: places in the WAL, as PostgreSQL writes them and as numbers. Pure."""

from __future__ import annotations


def parse_lsn(text: str) -> int:
    """Read PostgreSQL's `XXXXXXXX/XXXXXXXX`. Raises ValueError."""
    high, low = text.split("/")
    return (int(high, 16) << 32) | int(low, 16)


def format_lsn(lsn: int) -> str:
    """Write an LSN as PostgreSQL does: `16/B374D848`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
