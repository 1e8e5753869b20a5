"""Texts that break encoders, terminals, pages, tables and readers. A pure function of a random generator."""

import random
import unicodedata

_WHOLE = (
    "", " ", "\n\t\r", "\u200b", "\ufeff", "\x00", "null", "None", "NaN", "undefined", "0", "-1", "image",
    "IMG_1234.JPG", "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "'; DROP TABLE examples; --",
    "=cmd|' /C calc'!A0",
    "../../etc/passwd", "%s%s%s%n", "{{7*7}}", "${jndi:ldap://x}", "\\", "\\u0000", '{"captions": ["x"]}',
    "\ud800", "a\udfffb",
    "\u202egnp.exe", "\u2066isolated\u2069", "ﷺ" * 50, "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L", "👩\u200d👩\u200d👧\u200d👦",
    "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "e\u0301", "\u1100\u1161\u11a8", "ﬁ", "İ", "ß", "ǅ", "a" * 10_000, "a" * 10_001, "e\u0301" * 5001, "\u0301" * 3000,
    "a dog\u2028on two lines", "a dog\x1b[31m in red\x07", "日本語のテキスト", "نص عربي", "a normal caption of a dog",
    "two\nlines",
)  # fmt: skip


def text(rng: random.Random) -> str:
    """Returns one of the classics, or characters from all over Unicode."""
    if rng.random() < 0.5:
        return rng.choice(_WHOLE)
    if rng.random() < 0.1:
        return unicodedata.normalize("NFD", "Çà et là, où? " * rng.randrange(1, 900))
    planes = (0x7F, 0x2FF, 0x2100, 0xFFFF, 0x1FFFF, 0x10FFFF)
    return "".join(chr(rng.randrange(rng.choice(planes) + 1)) for _ in range(rng.randrange(1, 60)))


def raw(rng: random.Random) -> bytes:
    """Returns a text as bytes: UTF-8 as it should be, or as it should not."""
    encoded = text(rng).encode("utf-8", "surrogatepass")
    match rng.randrange(5):
        case 0:
            return encoded.decode("utf-8", "replace").encode("utf-16")
        case 1:
            return rng.randbytes(rng.randrange(40))
        case _:
            return encoded
