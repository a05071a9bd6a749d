//! What CI runs of the fuzz targets: every input of the corpora and of the regressions, and a short run of mutations from a
//! fixed seed. What a mutation finds is kept in a file, whose name is printed; `just fuzz` searches for longer.

use chappe_fuzz::{TARGETS, Target};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::fs;
use std::path::{Path, PathBuf};

/// Bytes that a mutation leaves at most.
const INPUT_BYTES_MAX: usize = 4_096;

/// Names the input in hand if its target panics.
struct Running<'a> {
    name: &'a str,
    input: &'a [u8],
    path: Option<&'a Path>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let found = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("found-{}", self.name));
        let path = self.path.unwrap_or(&found);
        if self.path.is_none() {
            let _ = fs::write(path, self.input);
        }
        eprintln!("the input is {}: {}", path.display(), self.input.escape_ascii());
    }
}

fn run(name: &str, target: fn(&[u8]), input: &[u8], path: Option<&Path>) {
    let _running = Running { name, input, path };
    target(input);
}

fn inputs(folder: &str, name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(name);
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// The tokens of the dictionary, as libFuzzer writes them.
fn dictionary() -> Vec<Vec<u8>> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("xmpp.dict")).unwrap();
    let tokens = text.lines().filter_map(|line| line.strip_prefix('"')?.strip_suffix('"'));
    tokens.map(unescaped).collect()
}

/// A token with `\\`, `\"` and `\xAB` as the characters that they stand for.
fn unescaped(token: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = token.bytes();
    while let Some(b) = rest.next() {
        out.push(match (b, if b == b'\\' { rest.next() } else { None }) {
            (_, Some(b'x')) => {
                let hex = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap()
            }
            (_, Some(escaped)) => escaped,
            (b, None) => b,
        });
    }
    out
}

fn check(name: &str) {
    let Target { run: target, mutations, .. } = *TARGETS.iter().find(|t| t.name == name).unwrap();
    let mut corpus = Vec::new();
    for folder in ["corpus", "regressions"] {
        for (path, input) in inputs(folder, name) {
            run(name, target, &input, Some(&path));
            corpus.push(input);
        }
    }
    assert!(!corpus.is_empty(), "{name} has no corpus");
    run(name, target, b"", None);
    let (mut rng, tokens) = (SmallRng::seed_from_u64(1), dictionary());
    for _ in 0..mutations {
        let mut input = corpus[rng.random_range(0..corpus.len())].clone();
        for _ in 0..rng.random_range(1..4) {
            let other = &corpus[rng.random_range(0..corpus.len())];
            mutate(&mut input, other, &tokens, &mut rng);
        }
        input.truncate(INPUT_BYTES_MAX);
        run(name, target, &input, None);
    }
}

fn mutate(input: &mut Vec<u8>, other: &[u8], tokens: &[Vec<u8>], rng: &mut SmallRng) {
    let at = rng.random_range(0..=input.len());
    let end = (at + rng.random_range(1..32)).min(input.len());
    match rng.random_range(0..8) {
        0 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
        1 if at < input.len() => input[at] = rng.random(),
        2 => drop(input.drain(at..end)),
        3 => {
            let piece = input[at..end].to_vec();
            input.splice(at..at, piece);
        }
        4 => {
            let from = rng.random_range(0..=other.len());
            let to = (from + rng.random_range(0..64)).min(other.len());
            input.splice(at..at, other[from..to].iter().copied());
        }
        5 => {
            let from = rng.random_range(0..=other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        _ => drop(input.splice(at..at, tokens[rng.random_range(0..tokens.len())].iter().copied())),
    }
}

macro_rules! targets { ($($name:ident)*) => {
    $(#[test] fn $name() { check(stringify!($name)); })*

    #[test]
    fn each_target_is_run() {
        let run = [$(stringify!($name)),*];
        assert!(TARGETS.iter().map(|t| t.name).eq(run));
        for folder in ["corpus", "regressions"] {
            for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(run.contains(&name.as_str()) || name == "README.md", "{folder}/{name} belongs to no target");
            }
        }
        let bins = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("libfuzzer/Cargo.toml")).unwrap();
        assert!(run.iter().all(|name| bins.contains(&format!("name = \"{name}\""))), "a target has no binary");
    }
} }

targets! { cells config framer jid sasl stanza store store_sim stream }
