//! Ids as they are kept: u16 or u32.

/// A type of ids: u16 for vocabularies up to 65,536, else u32.
pub trait Id: Copy + Default + Send + Sync + 'static {
    /// How many ids a piece has, and these ids: 16 bytes.
    type Inline: Copy + Default + Send + Sync + AsRef<[Self]> + AsMut<[Self]>;
    /// Ids that go into it.
    const ROOM: usize = 16 / size_of::<Self>() - 1;
    /// From an id that is known to fit.
    fn from_u32(id: u32) -> Self;
    /// As a number.
    fn to_usize(self) -> usize;
}

impl Id for u16 {
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

impl Id for u32 {
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
