//! Split patterns that are scanned by hand, and what tells them apart.

/// nanochat's split pattern.
pub const NANOCHAT: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
/// GPT-2's.
pub const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// That of `cl100k_base` (GPT-4), as tiktoken has it.
pub const CL100K: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s";
/// Llama 3's.
pub const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// That of `o200k_base` (GPT-4o), as tiktoken has it.
pub const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Patterns by the name of who uses them.
pub const NAMED: [(&str, &str); 5] =
    [("nanochat", NANOCHAT), ("gpt2", GPT2), ("cl100k", CL100K), ("llama3", LLAMA3), ("o200k", O200K)];

/// Other spellings of the same.
const SPELLINGS: [(&str, Scheme); 4] = [
    // GPT-2, as tiktoken has it
    (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s", Scheme::Spaced),
    (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", Scheme::Spaced),
    // the GPT-4 pattern of minbpe and of other trainers
    (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        Scheme::Prefixed { digits: 3, end_is_whole: false },
    ),
    // Qwen 2
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Scheme::Prefixed { digits: 1, end_is_whole: false },
    ),
];

/// How a pattern cuts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// nanochat, cl100k, Llama 3, Qwen: one character that is no newline, letter or number may lead a word; numbers are
    /// cut every `digits`; punctuation takes the newlines behind it.
    Prefixed {
        /// Characters a number may have.
        digits: u8,
        /// White space at the end of the text is one piece, newlines or not.
        end_is_whole: bool,
    },
    /// GPT-2: a space may lead words, numbers and punctuation.
    Spaced,
    /// o200k: a word ends where small letters end, and takes its contraction with it.
    Cased,
}

impl Scheme {
    /// The scheme of a pattern, if it is one of the known ones, letter by letter.
    pub fn of(pattern: &str) -> Option<Scheme> {
        let named = match pattern {
            NANOCHAT => Scheme::Prefixed { digits: 2, end_is_whole: false },
            CL100K => Scheme::Prefixed { digits: 3, end_is_whole: true },
            LLAMA3 => Scheme::Prefixed { digits: 3, end_is_whole: false },
            GPT2 => Scheme::Spaced,
            O200K => Scheme::Cased,
            _ => return SPELLINGS.iter().find(|(spelling, _)| *spelling == pattern).map(|&(_, scheme)| scheme),
        };
        Some(named)
    }
}
