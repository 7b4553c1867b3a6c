//! Merges ↔ bytes: what each id stands for.

/// A learnt vocabulary: ids 0..255 are bytes, id 256+i is merge i.
#[derive(Clone, Debug, Default)]
pub struct Vocab {
    /// Pairs of ids in the order in which they were learnt.
    pub merges: Vec<(u32, u32)>,
    /// Bytes of every id.
    pub bytes: Vec<Vec<u8>>,
}

impl Vocab {
    /// From merges in order. Fails if a merge names an id that does not exist yet, or makes bytes that exist already.
    pub fn new(merges: Vec<(u32, u32)>) -> Result<Vocab, String> {
        let mut bytes: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![byte]).collect();
        let mut seen: std::collections::HashSet<Vec<u8>> = bytes.iter().cloned().collect();
        for (number, &(left, right)) in merges.iter().enumerate() {
            let id = 256 + number;
            if left as usize >= id || right as usize >= id {
                return Err(format!("merge {number} names an id that comes later"));
            }
            let joined = [bytes[left as usize].as_slice(), bytes[right as usize].as_slice()].concat();
            if !seen.insert(joined.clone()) {
                return Err(format!("merge {number} makes bytes that another id has already"));
            }
            bytes.push(joined);
        }
        Ok(Vocab { merges, bytes })
    }

    /// Ids in all.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: there are always the 256 bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}
