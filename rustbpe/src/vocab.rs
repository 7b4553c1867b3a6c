//! The vocabulary: the bytes of each token id.

use std::collections::HashSet;
use std::ops::Range;

/// Largest number of ids.
pub const MAX_IDS: usize = (1 << 21) - 1;
/// Limit of the bytes of all tokens together. Without it, forty merges of a token with itself make a token of a terabyte.
const MAX_BYTES: usize = 1 << 28;
const TOO_LONG: &str = "the tokens of a vocabulary have at most 256 MiB together, and these have more";

/// The bytes of every id. Ids without bytes are allowed: the caller uses them for special tokens.
#[derive(Clone, Debug, Default)]
pub struct Vocab {
    /// Bytes of all tokens, concatenated.
    bytes: Vec<u8>,
    /// End of each token in `bytes`.
    ends: Vec<usize>,
}

impl Vocab {
    /// Ids 0..255 are the bytes, id 256+i is merge i.
    ///
    /// # Errors
    /// A merge has an id that is not defined yet, or makes the bytes of an earlier token; or there are too many ids.
    pub fn from_merges(merges: &[(u32, u32)]) -> Result<Vocab, String> {
        let mut vocab = Vocab::default();
        for byte in 0..=255u8 {
            vocab.push(&[byte]);
        }
        for (number, &(left, right)) in merges.iter().enumerate() {
            let (Some(left), Some(right)) = (vocab.range(left), vocab.range(right)) else {
                return Err(format!("merge {number} names an id that comes later"));
            };
            if vocab.bytes.len() + left.len() + right.len() > MAX_BYTES {
                return Err(TOO_LONG.to_owned());
            }
            vocab.bytes.extend_from_within(left);
            vocab.bytes.extend_from_within(right);
            vocab.ends.push(vocab.bytes.len());
        }
        let mut seen: HashSet<&[u8]> = HashSet::with_capacity(merges.len());
        for (number, (_, token)) in vocab.tokens().skip(256).enumerate() {
            if !seen.insert(token) {
                return Err(format!("merge {number} makes bytes that another id has already"));
            }
        }
        vocab.checked()
    }

    /// From the bytes of each id; `None` or empty for an id without bytes.
    ///
    /// # Errors
    /// A byte has no token, two ids have the same bytes, or there are too many ids.
    pub fn from_tokens<Token: AsRef<[u8]>>(tokens: &[Option<Token>]) -> Result<Vocab, String> {
        let mut vocab = Vocab::default();
        let mut seen: HashSet<&[u8]> = HashSet::with_capacity(tokens.len());
        for (id, token) in tokens.iter().enumerate() {
            let token = token.as_ref().map_or(&[][..], AsRef::as_ref);
            if !token.is_empty() && !seen.insert(token) {
                return Err(format!("token {id} has the bytes of another"));
            }
            if vocab.bytes.len() + token.len() > MAX_BYTES {
                return Err(TOO_LONG.to_owned());
            }
            vocab.push(token);
        }
        match (0..=255u8).find(|&byte| !seen.contains(&[byte][..])) {
            Some(byte) => Err(format!("the byte {byte:#04x} has no token, so some texts cannot be encoded")),
            None => vocab.checked(),
        }
    }

    fn push(&mut self, token: &[u8]) {
        self.bytes.extend_from_slice(token);
        self.ends.push(self.bytes.len());
    }

    fn checked(self) -> Result<Vocab, String> {
        if self.len() > MAX_IDS {
            return Err(format!("a vocabulary has at most {MAX_IDS} ids, this one has {}", self.len()));
        }
        Ok(self)
    }

    /// Number of ids.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no ids.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of an id; `None` for an id without bytes, or outside the vocabulary.
    #[inline]
    pub fn token(&self, id: u32) -> Option<&[u8]> {
        self.range(id).map(|range| &self.bytes[range])
    }

    #[inline]
    fn range(&self, id: u32) -> Option<Range<usize>> {
        let id = id as usize;
        let end = *self.ends.get(id)?;
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        (start < end).then_some(start..end)
    }

    /// All ids with bytes, and their bytes.
    pub fn tokens(&self) -> impl Iterator<Item = (u32, &[u8])> {
        (0..self.len() as u32).filter_map(|id| Some((id, self.token(id)?)))
    }

    /// Appends the bytes of ids.
    ///
    /// # Errors
    /// The first id without bytes.
    pub fn decode(&self, ids: &[u32], bytes: &mut Vec<u8>) -> Result<(), u32> {
        for &id in ids {
            bytes.extend_from_slice(self.token(id).ok_or(id)?);
        }
        Ok(())
    }
}
