//! Every scanner cuts any text as the scalar one does, and that one as the pattern says.
#![no_main]

use std::sync::OnceLock;

use _rustbpe::split::scheme::NAMED;
use _rustbpe::split::{Level, Splitter};
use libfuzzer_sys::fuzz_target;

struct Scanners {
    truth: fancy_regex::Regex,
    splitters: Vec<Splitter>,
}

fn scanners() -> &'static Vec<Scanners> {
    static SCANNERS: OnceLock<Vec<Scanners>> = OnceLock::new();
    SCANNERS.get_or_init(|| {
        let on_all =
            |pattern| Level::available().into_iter().map(move |level| Splitter::new(pattern).unwrap().on(level));
        NAMED
            .iter()
            .map(|&(_, pattern)| Scanners {
                truth: fancy_regex::Regex::new(pattern).unwrap(),
                splitters: on_all(pattern).collect(),
            })
            .collect()
    })
}

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    for Scanners { truth, splitters } in scanners() {
        let expected: Vec<&str> = truth.find_iter(&text).map(|found| found.unwrap().as_str()).collect();
        for splitter in splitters {
            assert_eq!(splitter.pieces(&text).unwrap(), expected);
        }
    }
});
