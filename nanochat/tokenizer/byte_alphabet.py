"""GPT-2's alphabet of bytes: one printable character per byte, with which `tokenizer.json` names tokens."""


def _byte_alphabet() -> list[str]:
    """The character of each byte: itself if it is printable, else one from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


ALPHABET = dict(enumerate(_byte_alphabet()))
BYTE_OF = {character: byte for byte, character in ALPHABET.items()}


def encode_name(token: bytes) -> str:
    """The name of a token."""
    return token.decode("latin-1").translate(ALPHABET)


def decode_name(name: str) -> bytes:
    """The bytes of a name."""
    return bytes([BYTE_OF[character] for character in name])


def is_byte_name(name: str) -> bool:
    """Whether a name has characters of the alphabet only."""
    return BYTE_OF.keys() >= set(name)
