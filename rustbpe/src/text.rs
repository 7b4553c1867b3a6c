//! Texts as they come: known to be UTF-8, or still to be checked, which is done where and when they are worked on.

use std::borrow::Cow;
use std::ops::Range;

/// A text.
pub trait Text: Sync {
    /// Its bytes, as they came.
    fn bytes(&self) -> &[u8];

    /// A stretch of them that begins and ends where a character does; what is not UTF-8 becomes U+FFFD, in a copy.
    fn stretch(&self, bytes: Range<usize>) -> Cow<'_, str>;
}

impl<T: AsRef<str> + Sync> Text for T {
    fn bytes(&self) -> &[u8] {
        self.as_ref().as_bytes()
    }

    #[inline]
    fn stretch(&self, bytes: Range<usize>) -> Cow<'_, str> {
        Cow::Borrowed(&self.as_ref()[bytes])
    }
}

/// Bytes that should be UTF-8.
pub struct Unchecked<'a>(pub &'a [u8]);

impl Text for Unchecked<'_> {
    fn bytes(&self) -> &[u8] {
        self.0
    }

    #[inline]
    fn stretch(&self, bytes: Range<usize>) -> Cow<'_, str> {
        as_utf8(&self.0[bytes])
    }
}

/// These bytes; what is not UTF-8 among them becomes U+FFFD, in a copy.
#[inline]
pub fn as_utf8(bytes: &[u8]) -> Cow<'_, str> {
    simdutf8::basic::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}
