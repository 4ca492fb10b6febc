//! The fuzz targets of `fuzz/targets.rs`, without libFuzzer: over the seeds and what becomes of them by a few edits.
//!
//! Each test runs a fixed number of inputs, the same ones every time. `KFERRY_FUZZ_SECONDS` makes it go on for as long (`make fuzz` does so where
//! there is no nightly toolchain).

#[path = "../fuzz/targets.rs"]
mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use harness::run;

/// Mutations of each seed.
const ROUNDS: usize = 2_000;

#[test]
fn first_request() -> Result<()> {
    fuzz("first_request", targets::first_request)
}

#[test]
fn produce() -> Result<()> {
    fuzz("produce", targets::produce)
}

#[test]
fn proxy_header() -> Result<()> {
    fuzz("proxy_header", targets::proxy_header)
}

#[test]
fn frame() -> Result<()> {
    fuzz("frame", targets::frame)
}

#[test]
fn config() -> Result<()> {
    fuzz("config", targets::config)
}

#[test]
fn broker_answers() -> Result<()> {
    fuzz("broker_answers", targets::broker_answers)
}

#[test]
fn rewrite() -> Result<()> {
    fuzz("rewrite", targets::rewrite)
}

#[test]
fn walk() -> Result<()> {
    fuzz("walk", targets::walk)
}

#[test]
fn view() -> Result<()> {
    fuzz("view", targets::view)
}

/// What is not would be fuzzed no further than to where it is refused.
#[test]
fn every_seed_of_a_view_is_answered() -> Result<()> {
    for (path, seed) in seeds("view")? {
        let [key, version, body @ ..] = &seed[..] else { bail!("{} is too short", path.display()) };
        let answer = kferry_proxy::fuzzing::view_request(i16::from(*key), *version, body);
        ensure!(answer.is_some_and(|len| len > 0), "{} is not answered", path.display());
    }
    Ok(())
}

#[test]
fn batch() -> Result<()> {
    fuzz("batch", targets::batch)
}

#[test]
fn stamp() -> Result<()> {
    fuzz("stamp", targets::stamp)
}

fn fuzz(name: &str, target: fn(&[u8])) -> Result<()> {
    // The order of a folder is anybody's guess.
    let mut seeds: Vec<_> = seeds(name)?.into_iter().map(|(_, seed)| seed).collect();
    seeds.sort();
    let seconds = std::env::var("KFERRY_FUZZ_SECONDS").ok().map(|text| text.parse()).transpose().context("KFERRY_FUZZ_SECONDS")?;
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));

    for seed in &seeds {
        check(target, seed);
    }
    let mut random = Random(1);
    let mut round = 0;
    while until.map_or(round < ROUNDS, |until| Instant::now() < until) {
        for seed in &seeds {
            check(target, &random.edited(seed, &seeds));
        }
        round += 1;
    }
    Ok(())
}

fn seeds(name: &str) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let folder = run::workspace().join("fuzz/seeds").join(name);
    let mut seeds = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("no seeds in {}", folder.display()))? {
        let path = entry?.path();
        seeds.push((path.clone(), fs::read(path)?));
    }
    ensure!(!seeds.is_empty(), "no seeds in {}", folder.display());
    Ok(seeds)
}

fn check(target: fn(&[u8]), input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        eprintln!("the input: {:?}", input.escape_ascii().to_string());
        resume_unwind(panic);
    }
}

/// `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut n = self.0;
        n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ (n >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// `seed` after one to six edits.
    fn edited(&mut self, seed: &[u8], seeds: &[Vec<u8>]) -> Vec<u8> {
        /// Where lengths and counts turn over.
        const EDGES: [i32; 8] = [0, -1, 1, 127, 32_767, 1 << 20, i32::MAX, i32::MIN];
        let mut input = seed.to_vec();
        for _ in 0..=self.below(6) {
            let at = self.below(input.len());
            match self.below(7) {
                0 => input.truncate(at),
                1 => input.insert(at, self.next() as u8),
                2 => drop(input.drain(at..(at + 1 + self.below(8)).min(input.len()))),
                3 => {
                    let other = &seeds[self.below(seeds.len())];
                    input.extend_from_slice(&other[self.below(other.len())..]);
                }
                4 => {
                    let edge = EDGES[self.below(EDGES.len())].to_be_bytes();
                    let edge = &edge[self.below(4)..];
                    let end = (at + edge.len()).min(input.len());
                    input[at..end].copy_from_slice(&edge[..end - at]);
                }
                _ => {
                    if let Some(byte) = input.get_mut(at) {
                        *byte ^= 1 << self.below(8);
                    }
                }
            }
        }
        input
    }
}
