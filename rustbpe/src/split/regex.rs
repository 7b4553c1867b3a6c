//! Splitting by a regex engine, for patterns without a scanner.

use super::splitter::{PieceEnds, SplitError, TARGET_ENDS};

/// Finds the ends of the next pieces. Text that the pattern does not match is a piece too, so that no text is lost.
///
/// # Errors
/// The regex engine failed.
pub fn split_by_regex(
    regex: &fancy_regex::Regex,
    text: &str,
    start: usize,
    ends: &mut PieceEnds,
) -> Result<(), SplitError> {
    let (mut piece_start, mut search_start) = (start, start);
    while piece_start < text.len() && ends.count < TARGET_ENDS {
        let found = regex.find_from_pos(text, search_start).map_err(|error| {
            SplitError(format!(
                "the regex engine gave up on the split pattern at byte {search_start} of a text: {error}"
            ))
        })?;
        match found {
            Some(found) if found.start() < found.end() => {
                if found.start() > piece_start {
                    ends.push(found.start());
                }
                ends.push(found.end());
                (piece_start, search_start) = (found.end(), found.end());
            }
            Some(empty) if empty.start() < text.len() => {
                search_start = empty.start() + text[empty.start()..].chars().next().map_or(1, char::len_utf8);
            }
            _ => {
                ends.push(text.len());
                piece_start = text.len();
            }
        }
    }
    Ok(())
}
