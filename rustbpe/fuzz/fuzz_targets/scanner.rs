//! Every scanner splits any text as the pattern's regular expression does.
#![no_main]

use std::sync::OnceLock;

use _rustbpe::split::patterns::NAMED;
use _rustbpe::split::{SimdLevel, Splitter};
use libfuzzer_sys::fuzz_target;

struct Scanners {
    regex: fancy_regex::Regex,
    splitters: Vec<Splitter>,
}

fn scanners() -> &'static Vec<Scanners> {
    static SCANNERS: OnceLock<Vec<Scanners>> = OnceLock::new();
    SCANNERS.get_or_init(|| {
        let on_all_levels =
            |pattern| SimdLevel::available().into_iter().map(move |level| Splitter::new(pattern).unwrap().with_level(level));
        NAMED
            .iter()
            .map(|&(_, pattern)| Scanners {
                regex: fancy_regex::Regex::new(pattern).unwrap(),
                splitters: on_all_levels(pattern).collect(),
            })
            .collect()
    })
}

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    for Scanners { regex, splitters } in scanners() {
        let expected: Vec<&str> = regex.find_iter(&text).map(|found| found.unwrap().as_str()).collect();
        for splitter in splitters {
            assert_eq!(splitter.pieces(&text).unwrap(), expected);
        }
    }
});
