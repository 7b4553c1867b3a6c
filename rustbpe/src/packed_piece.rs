//! A piece of up to 15 bytes packed into one `u128`: its bytes, and its length in the top byte. 99% of the pieces of a
//! text fit.

/// Longest piece that fits.
pub const MAX_PACKED_BYTES: usize = 15;

/// Stands for a piece that does not fit.
pub const NOT_PACKED: u128 = u128::MAX;

const fn masks() -> [u128; MAX_PACKED_BYTES + 1] {
    let mut masks = [0; MAX_PACKED_BYTES + 1];
    let mut length = 1;
    while length <= MAX_PACKED_BYTES {
        masks[length] = u128::MAX >> (128 - 8 * length);
        length += 1;
    }
    masks
}

static MASKS: [u128; MAX_PACKED_BYTES + 1] = masks();

/// Packs `text[start..end]`; `NOT_PACKED` if it is too long.
#[inline(always)]
pub fn pack_range(text: &[u8], start: usize, end: usize) -> u128 {
    let length = end - start;
    if length > MAX_PACKED_BYTES {
        return NOT_PACKED;
    }
    let bytes = match text.get(start..).and_then(|rest| rest.first_chunk::<16>()) {
        Some(bytes) => u128::from_le_bytes(*bytes),
        None => {
            let mut bytes = [0; 16];
            bytes[..length].copy_from_slice(&text[start..end]);
            u128::from_le_bytes(bytes)
        }
    };
    bytes & MASKS[length] | (length as u128) << 120
}

/// Packs a piece of up to 15 bytes.
pub fn pack_piece(piece: &[u8]) -> u128 {
    pack_range(piece, 0, piece.len())
}

/// Bytes of a packed piece.
pub fn packed_length(packed: u128) -> usize {
    (packed >> 120) as usize
}
