//! Texts to be split: valid UTF-8, or bytes that each thread validates when it processes them.

use std::borrow::Cow;
use std::ops::Range;

/// A text.
pub trait Text: Sync {
    /// Its bytes, not validated.
    fn bytes(&self) -> &[u8];

    /// Part of the text as UTF-8. The range starts and ends between characters. Where it is not UTF-8, a copy with
    /// U+FFFD.
    fn utf8(&self, range: Range<usize>) -> Cow<'_, str>;
}

impl<T: AsRef<str> + Sync> Text for T {
    fn bytes(&self) -> &[u8] {
        self.as_ref().as_bytes()
    }

    #[inline]
    fn utf8(&self, range: Range<usize>) -> Cow<'_, str> {
        Cow::Borrowed(&self.as_ref()[range])
    }
}

/// Bytes that should be UTF-8.
pub struct Unchecked<'a>(pub &'a [u8]);

impl Text for Unchecked<'_> {
    fn bytes(&self) -> &[u8] {
        self.0
    }

    #[inline]
    fn utf8(&self, range: Range<usize>) -> Cow<'_, str> {
        to_utf8(&self.0[range])
    }
}

/// Bytes as UTF-8; a copy with U+FFFD where they are not.
#[inline]
pub fn to_utf8(bytes: &[u8]) -> Cow<'_, str> {
    simdutf8::basic::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

/// Appends the texts of an Arrow string array: text `i` is `bytes[offsets[i]..offsets[i + 1]]`.
///
/// # Errors
/// An offset is negative, falls, or is past the end of the bytes.
pub fn append_arrow_texts<'a, Offset: Copy + TryInto<usize>>(
    bytes: &'a [u8],
    offsets: &[Offset],
    texts: &mut Vec<Unchecked<'a>>,
) -> Result<(), String> {
    let index = |offset: Offset| offset.try_into().unwrap_or(usize::MAX);
    for pair in offsets.windows(2) {
        let text = bytes.get(index(pair[0])..index(pair[1])).ok_or("the offsets do not fit the bytes")?;
        texts.push(Unchecked(text));
    }
    Ok(())
}

/// Bytes of all texts.
pub fn total_bytes<T: Text>(texts: &[T]) -> usize {
    texts.iter().map(|text| text.bytes().len()).sum()
}
