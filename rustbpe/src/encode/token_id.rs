//! The integer types of ids.

/// The type of an id: u16 for vocabularies of up to 65,536 ids, else u32.
pub trait TokenId: Copy + Default + Send + Sync + 'static {
    /// Cached ids of a piece, with their number first: 16 bytes.
    type Inline: Copy + Default + Send + Sync + AsRef<[Self]> + AsMut<[Self]>;
    /// Most ids of a cached piece.
    const MAX_INLINE: usize = 16 / size_of::<Self>() - 1;
    /// Converts an id that is known to fit.
    fn from_u32(id: u32) -> Self;
    /// Converts an id, or a number of ids.
    fn to_usize(self) -> usize;
}

impl TokenId for u16 {
    type Inline = [u16; 8];
    #[inline(always)]
    fn from_u32(id: u32) -> u16 {
        id as u16
    }
    #[inline(always)]
    fn to_usize(self) -> usize {
        usize::from(self)
    }
}

impl TokenId for u32 {
    type Inline = [u32; 4];
    #[inline(always)]
    fn from_u32(id: u32) -> u32 {
        id
    }
    #[inline(always)]
    fn to_usize(self) -> usize {
        self as usize
    }
}
