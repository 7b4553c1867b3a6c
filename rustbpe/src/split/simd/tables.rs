//! Tables that classify bytes, for all instruction sets.

use std::sync::OnceLock;

use super::super::character_class::ClassTable;

/// Flags of an ASCII byte.
pub const LETTER: u8 = 1;
pub const NUMBER: u8 = 2;
pub const WHITE: u8 = 4;
pub const NEWLINE: u8 = 8;
pub const SPACE: u8 = 16;
pub const APOSTROPHE: u8 = 32;

const fn ascii_flags(byte: u8) -> u8 {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' => LETTER,
        b'0'..=b'9' => NUMBER,
        b'\r' | b'\n' => WHITE | NEWLINE,
        b'\t' | 0x0B | 0x0C => WHITE,
        b' ' => WHITE | SPACE,
        b'\'' => APOSTROPHE,
        _ => 0,
    }
}

const fn ascii_table() -> [u8; 128] {
    let mut table = [0; 128];
    let mut byte = 0;
    while byte < 128 {
        table[byte as usize] = ascii_flags(byte);
        byte += 1;
    }
    table
}

/// The flags of each ASCII byte.
pub static ASCII: [u8; 128] = ascii_table();

/// For each low nibble, the high nibbles (C, D, E as bits 0, 1, 2) with which it is a lead byte of letters only.
pub fn letter_leads(classes: &ClassTable) -> &'static [u8; 16] {
    static LEADS: OnceLock<[u8; 16]> = OnceLock::new();
    LEADS.get_or_init(|| {
        let mut leads = [0; 16];
        for (low, flags) in (0u8..).zip(leads.iter_mut()) {
            for (bit, high) in [0xC0, 0xD0, 0xE0].into_iter().enumerate() {
                *flags |= u8::from(classes.leads_letters_only(high | low)) << bit;
            }
        }
        leads
    })
}

/// Classes of ASCII by nibbles: a byte has class bit `b` if the tables of both its nibbles have it.
/// Bits: 0 letters of rows 4 and 6, 1 letters of rows 5 and 7, 2 numbers, 3 white space except the space, 4 newlines,
/// 5 space, 6 apostrophe.
const fn nibble_tables() -> ([u8; 16], [u8; 16]) {
    let (mut low, mut high) = ([0u8; 16], [0u8; 16]);
    let mut nibble = 0;
    while nibble < 16 {
        let n = nibble as u8;
        low[nibble] = (n >= 1) as u8
            | ((n <= 10) as u8) << 1
            | ((n <= 9) as u8) << 2
            | ((n >= 9 && n <= 13) as u8) << 3
            | ((n == 10 || n == 13) as u8) << 4
            | ((n == 0) as u8) << 5
            | ((n == 7) as u8) << 6;
        high[nibble] = (n == 4 || n == 6) as u8
            | ((n == 5 || n == 7) as u8) << 1
            | ((n == 3) as u8) << 2
            | ((n == 0) as u8) << 3
            | ((n == 0) as u8) << 4
            | ((n == 2) as u8) << 5
            | ((n == 2) as u8) << 6;
        nibble += 1;
    }
    (low, high)
}

/// Class bits by low nibble.
pub static LOW_NIBBLES: [u8; 16] = nibble_tables().0;
/// Class bits by high nibble.
pub static HIGH_NIBBLES: [u8; 16] = nibble_tables().1;
/// For each high nibble: C, D, E as bits 0, 1, 2.
pub static LEAD_ROWS: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 0];
