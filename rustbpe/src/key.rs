//! A piece of up to 15 bytes as one number: its bytes, and its length at the top. 99% of the pieces of a text are.

/// Bytes that fit into a key.
pub const KEY_BYTES: usize = 15;

/// For a piece that is too long.
pub const NO_KEY: u128 = u128::MAX;

const fn masks() -> [u128; KEY_BYTES + 1] {
    let mut masks = [0; KEY_BYTES + 1];
    let mut length = 1;
    while length <= KEY_BYTES {
        masks[length] = u128::MAX >> (128 - 8 * length);
        length += 1;
    }
    masks
}

static MASKS: [u128; KEY_BYTES + 1] = masks();

/// The key of `text[start..end]`, or `NO_KEY` if that is longer than a key can be.
#[inline(always)]
pub fn key_in(text: &[u8], start: usize, end: usize) -> u128 {
    let length = end - start;
    if length > KEY_BYTES {
        return NO_KEY;
    }
    let sixteen = match text.get(start..).and_then(|left| left.first_chunk::<16>()) {
        Some(bytes) => u128::from_le_bytes(*bytes),
        None => {
            let mut bytes = [0; 16];
            bytes[..length].copy_from_slice(&text[start..end]);
            u128::from_le_bytes(bytes)
        }
    };
    sixteen & MASKS[length] | (length as u128) << 120
}

/// The key of a piece of up to 15 bytes.
pub fn key_of(piece: &[u8]) -> u128 {
    key_in(piece, 0, piece.len())
}
