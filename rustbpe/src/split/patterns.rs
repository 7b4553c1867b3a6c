//! The known split patterns, and their schemes.

/// nanochat's split pattern.
pub const NANOCHAT: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
/// GPT-2's split pattern.
pub const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// The split pattern of `cl100k_base` (GPT-4), as in tiktoken.
pub const CL100K: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s";
/// Llama 3's split pattern.
pub const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The split pattern of `o200k_base` (GPT-4o), as in tiktoken.
pub const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Patterns by the model that uses them.
pub const NAMED: [(&str, &str); 5] =
    [("nanochat", NANOCHAT), ("gpt2", GPT2), ("cl100k", CL100K), ("llama3", LLAMA3), ("o200k", O200K)];

/// Other patterns of the same schemes.
const EQUIVALENT: [(&str, Scheme); 4] = [
    // GPT-2, as in tiktoken
    (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s", Scheme::Spaced),
    (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", Scheme::Spaced),
    // GPT-4, as in minbpe and other trainers
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

/// The rules by which a pattern splits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// nanochat, cl100k, Llama 3, Qwen: a word may start with one character that is not a newline, letter or number;
    /// numbers are cut every `digits`; newlines after punctuation belong to it.
    Prefixed {
        /// Most digits of a number.
        digits: u8,
        /// White space at the end of the text is one piece, with or without newlines.
        end_is_whole: bool,
    },
    /// GPT-2: words, numbers and punctuation may start with a space.
    Spaced,
    /// o200k: a word ends after its lowercase letters, and includes its contraction.
    Cased,
}

impl Scheme {
    /// The scheme of a pattern; `None` if the pattern is not exactly a known one.
    pub fn of(pattern: &str) -> Option<Scheme> {
        let named = match pattern {
            NANOCHAT => Scheme::Prefixed { digits: 2, end_is_whole: false },
            CL100K => Scheme::Prefixed { digits: 3, end_is_whole: true },
            LLAMA3 => Scheme::Prefixed { digits: 3, end_is_whole: false },
            GPT2 => Scheme::Spaced,
            O200K => Scheme::Cased,
            _ => return EQUIVALENT.iter().find(|(other, _)| *other == pattern).map(|&(_, scheme)| scheme),
        };
        Some(named)
    }
}
