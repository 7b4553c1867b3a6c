//! Processor time of the network's steps, on random weights in the shape of the profile `cpu`:
//! `cargo bench --bench network`. Processor time of all threads, so that other work on the machine matters less; the
//! least of several rounds.
#![allow(clippy::unwrap_used, unsafe_code)]

use _rustbpe::network::forward::{Layer, Network, Shape, Token};
use _rustbpe::network::product::{Precision, Product};

const VOCAB: usize = 8192;
const WIDTH: usize = 256;
const HEADS: usize = 4;
const HEAD_DIM: usize = 64;
const CONTEXT: usize = 512;
const WINDOWS: [usize; 4] = [128, 128, 128, CONTEXT];
const ROUNDS: usize = 60;

fn main() {
    for (name, precision) in [("fp32", Precision::Float32), ("bf16", Precision::BFloat16), ("int8", Precision::Int8)] {
        for threads in [1, 2] {
            if std::env::args().nth(1).is_some_and(|only| !only.starts_with('-') && only != format!("{name}-{threads}"))
            {
                continue;
            }
            let mut network = network(precision, threads);
            let mut line = format!("{name}, {threads} threads:");
            for batch in [1, 8, 32] {
                let step = |position| -> Vec<Token> {
                    let token = |slot| Token { slot, position, id: slot * 37 % VOCAB, previous: slot };
                    (0..batch).map(token).collect()
                };
                let mut hidden = Vec::new();
                let forward = least_ms(|| hidden = network.forward(&step(192)));
                let logits = least_ms(|| drop(network.logits(&hidden, 15.0)));
                line += &format!("  {batch} answers {forward:.2} + {logits:.2} ms;",);
            }
            let prompt: Vec<Token> = (0..2)
                .flat_map(|slot| {
                    (0..128).map(move |position| Token { slot, position, id: position, previous: position })
                })
                .collect();
            let forward = least_ms(|| drop(network.forward(&prompt)));
            println!("{line}  2 prompts of 128 tokens {forward:.2} ms");
        }
    }
}

fn network(precision: Precision, threads: usize) -> Network {
    let mut seed = 1;
    let mut matrix = |outputs: usize, inputs: usize| {
        let weights: Vec<f32> = numbers(outputs * inputs, &mut seed);
        Product::new(&weights, inputs, precision)
    };
    let kv_width = HEADS * HEAD_DIM;
    let layers = WINDOWS
        .iter()
        .enumerate()
        .map(|(number, window)| Layer {
            joined: matrix(3 * kv_width + if number % 2 == 0 { HEADS } else { 0 }, WIDTH),
            out: matrix(WIDTH, kv_width),
            up: matrix(4 * WIDTH, WIDTH),
            down: matrix(WIDTH, 4 * WIDTH),
            value_table: if number % 2 == 0 { vec![0.1; VOCAB * kv_width] } else { Vec::new() },
            residual: Some((1.0, 0.1)),
            window: *window,
            columns: (window + 128).min(CONTEXT),
        })
        .collect();
    let head = matrix(VOCAB, WIDTH);
    let shape = Shape {
        width: WIDTH,
        heads: HEADS,
        kv_heads: HEADS,
        head_dim: HEAD_DIM,
        embedding: numbers((VOCAB + 1) * WIDTH, &mut seed),
        smear: vec![0.1; VOCAB],
        backout: 0.2,
        cos: vec![0.8; CONTEXT * HEAD_DIM / 2],
        sin: vec![0.6; CONTEXT * HEAD_DIM / 2],
        scale: 0.18,
        value_gate_gain: 2.0,
        epsilon: 1e-6,
    };
    Network::new(shape, layers, head, 32, threads).unwrap()
}

fn numbers(count: usize, seed: &mut u32) -> Vec<f32> {
    *seed += 1;
    let start = seed.wrapping_mul(97);
    (0..count as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(start) >> 8) as f32 / (1 << 24) as f32 - 0.5)
        .collect()
}

fn least_ms(mut work: impl FnMut()) -> f64 {
    let time = |work: &mut dyn FnMut()| {
        let before = processor_s();
        work();
        1e3 * (processor_s() - before)
    };
    (0..ROUNDS).map(|_| time(&mut work)).fold(f64::INFINITY, f64::min)
}

/// Processor time of all threads of this process.
fn processor_s() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the address is that of a variable
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
