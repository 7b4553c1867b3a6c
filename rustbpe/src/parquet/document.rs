//! A text of a Parquet column.

use std::borrow::Cow;
use std::ops::Range;

use ::parquet::data_type::ByteArray;

use crate::text::{to_utf8, Text};

/// A text. It shares the memory of the page that it was read from.
pub struct Document(pub(super) ByteArray);

impl From<Vec<u8>> for Document {
    fn from(bytes: Vec<u8>) -> Document {
        Document(bytes.into())
    }
}

impl Text for Document {
    fn bytes(&self) -> &[u8] {
        self.0.data()
    }

    #[inline]
    fn utf8(&self, range: Range<usize>) -> Cow<'_, str> {
        to_utf8(&self.0.data()[range])
    }
}
