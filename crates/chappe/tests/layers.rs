//! The layers of `ARCHITECTURE.md` as a test: invariants 1 to 3, over `cargo tree` and the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each crate of ours, and the crates of ours that it may name. Floors from bottom to top; arrows go down only.
const MAY_USE: &[(&str, &[&str])] = &[
    // 1: words
    ("types", &[]),
    ("xml", &["types"]),
    ("stanza", &["types", "xml"]),
    // 1: the plain data between edges and shards
    ("frame", &["types", "stanza"]),
    // 2: pure cores
    ("sasl", &["types"]),
    ("stream", &["types", "xml", "stanza", "sasl"]),
    ("entity", &["types", "xml", "stanza", "frame"]),
    // 3: contracts
    ("store", &["types"]),
    ("rpc", &["types", "stanza", "frame"]),
    // 4: modules
    ("modules", &["types", "xml", "stanza", "frame", "entity", "store"]),
    // 5: drivers
    ("store-embedded", &["types", "store"]),
    ("actor", &["types"]),
    // 6: shells; they do not know each other
    ("edge", &["types", "xml", "stanza", "frame", "sasl", "stream", "rpc", "actor"]),
    ("shard", &["types", "xml", "stanza", "frame", "entity", "modules", "store", "rpc", "actor"]),
    // 7: composition
    ("config", &["types"]),
    ("admin", &["types", "config"]),
];

/// Crates that may name any of ours: what composes, and what tests.
const ABOVE_ALL: &[&str] = &["chappe", "sim", "tests", "faults-preload", "fuzz", "bench"];

/// Of those, what only tests: it may name any heavy dependency.
const TESTS: &[&str] = &["tests", "fuzz", "bench"];

/// A product of its own: it works against any XMPP server, so it knows nothing of this one.
const APART: &[&str] = &["loadtest", "faults"];

/// Invariant 1: what a pure crate must not have anywhere below it.
const PURE: &[&str] = &["types", "xml", "stanza", "frame", "sasl", "stream", "entity"];
const IMPURE: &[&str] =
    &["tokio", "actix", "actix-rt", "tonic", "async-std", "smol", "mio", "socket2", "rand", "rand_core", "getrandom", "fastrand"];

/// These hold plain functions, and a seeded random source at most.
const NO_RUNTIME: &[&str] = &["store", "modules"];
const RUNTIMES: &[&str] = &["tokio", "actix", "actix-rt", "tonic", "async-std", "smol", "mio"];

/// Invariant 2, also through others.
const NEVER_BELOW: &[(&str, &[&str])] =
    &[("edge", &["entity", "modules", "store", "store-embedded", "shard"]), ("shard", &["stream", "sasl", "edge", "store-embedded"])];

/// Invariant 3: who of ours may name a heavy dependency. What tests is free.
const OWNERS: &[(&str, &[&str])] = &[
    ("actix", &["actor"]),
    ("actix-rt", &["actor"]),
    ("axum", &["admin"]),
    ("clap", &["chappe", "sim", "loadtest"]),
    ("fjall", &["store-embedded"]),
    ("metrics-exporter-prometheus", &["admin"]),
    ("quick-xml", &["xml"]),
    ("raft", &["cluster"]),
    ("rcgen", &["chappe", "loadtest"]),
    ("redb", &["store-embedded"]),
    ("rustls", &["edge", "chappe", "loadtest"]),
    ("scylla", &["store-cassandra"]),
    ("tonic", &["rpc", "cluster", "loadtest"]),
];

/// One crypto library, and no foreign TLS.
const NOWHERE: &[&str] = &["ring", "openssl-sys", "native-tls", "openssl"];

/// Packages by name (ours without `chappe-`) and what they name outside of tests.
type Graph = BTreeMap<String, BTreeSet<String>>;

fn below<'a>(graph: &'a Graph, start: &'a str) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut open = vec![start];
    while let Some(name) = open.pop() {
        for next in graph.get(name).into_iter().flatten() {
            if seen.insert(next.as_str()) {
                open.push(next);
            }
        }
    }
    seen
}

/// Everything in `graph` that breaks a rule. `ours` are the workspace's members.
fn check(graph: &Graph, ours: &BTreeSet<String>) -> Vec<String> {
    let mut faults = Vec::new();
    let empty = BTreeSet::new();
    for name in ours {
        let direct = graph.get(name).unwrap_or(&empty);
        let of_ours = direct.intersection(ours);
        if APART.contains(&name.as_str()) {
            faults.extend(of_ours.map(|d| format!("{name} is a product of its own and names {d}")));
        } else if let Some((_, may)) = MAY_USE.iter().find(|(n, _)| n == name) {
            faults.extend(of_ours.filter(|d| !may.contains(&d.as_str())).map(|d| format!("{name} may not name {d}")));
        } else if !ABOVE_ALL.contains(&name.as_str()) {
            faults.push(format!("{name} has no floor: give it one in ARCHITECTURE.md and in this test"));
        }
        for (heavy, owners) in OWNERS {
            if direct.contains(*heavy) && !owners.contains(&name.as_str()) && !TESTS.contains(&name.as_str()) {
                faults.push(format!("{name} names {heavy}, which belongs to {}", owners.join(", ")));
            }
        }
    }
    for (name, never) in NEVER_BELOW {
        faults.extend(forbidden(graph, &[name], never));
    }
    faults.extend(NOWHERE.iter().filter(|n| graph.contains_key(**n)).map(|n| format!("{n} is in the build")));
    faults
}

/// Everything below the pure crates that is not pure. `graph` is theirs alone: what the rest of the workspace switches on
/// in a shared dependency is not theirs.
fn check_pure(graph: &Graph) -> Vec<String> {
    let mut faults = forbidden(graph, PURE, IMPURE);
    faults.extend(forbidden(graph, NO_RUNTIME, RUNTIMES));
    faults
}

fn forbidden(graph: &Graph, crates: &[&str], what: &[&str]) -> Vec<String> {
    let pairs = crates.iter().flat_map(|c| what.iter().map(move |w| (c, w)));
    pairs.filter(|(c, w)| below(graph, c).contains(**w)).map(|(c, w)| format!("{c} has {w} below it")).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The build of `packages` on this kind of machine, without what only tests and build scripts have; and its top crates.
///
/// Read from `cargo tree`, since `cargo metadata` also draws arrows to optional dependencies that a weak feature
/// (`rand?/std`) mentions and nothing switches on.
fn built(packages: &[String]) -> (Graph, BTreeSet<String>) {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root()).args(["tree", "--edges=normal", "--prefix=depth", "--format= {p}"]).args(packages);
    let output = command.output().expect("cargo tree runs in this workspace");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (mut graph, mut ours) = (Graph::new(), BTreeSet::new());
    // The names from the root down to the current line. A subtree is printed once; its later mentions end in `(*)`.
    let mut path: Vec<String> = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let mut words = line.split(' ');
        let (Some(Ok(depth)), Some(name)) = (words.next().map(str::parse::<usize>), words.next()) else { continue };
        let name = name.strip_prefix("chappe-").unwrap_or(name).to_owned();
        path.truncate(depth);
        match path.last() {
            Some(parent) => drop(graph.entry(parent.clone()).or_default().insert(name.clone())),
            None => drop(ours.insert(name.clone())),
        }
        graph.entry(name.clone()).or_default();
        path.push(name);
    }
    (graph, ours)
}

#[test]
fn arrows_go_down() {
    let (graph, ours) = built(&["--workspace".into()]);
    assert_eq!(check(&graph, &ours), Vec::<String>::new());
    let pure: Vec<_> = PURE.iter().chain(NO_RUNTIME).map(|c| format!("--package=chappe-{c}")).collect();
    assert_eq!(check_pure(&built(&pure).0), Vec::<String>::new());
    // The test would see nothing in an empty graph.
    assert!(below(&graph, "chappe").contains("actix") && below(&graph, "edge").contains("tokio"));
}

/// Breaks one rule in an otherwise clean graph and expects to be told.
fn check_broken(from: &str, to: &str, expected: &str) {
    let mut graph = Graph::new();
    let clean = [("chappe", "edge"), ("chappe", "shard"), ("edge", "stream"), ("stream", "types"), ("shard", "entity"), ("actor", "actix")];
    for (a, b) in clean {
        graph.entry(a.into()).or_default().insert(b.into());
        graph.entry(b.into()).or_default();
    }
    let ours = ["chappe", "edge", "shard", "stream", "types", "entity", "actor", "loadtest", "newcomer"].map(String::from);
    let ours: BTreeSet<_> = ours.into_iter().filter(|o| o != "newcomer" || o == from).collect();
    let all = |graph: &Graph| [check(graph, &ours), check_pure(graph)].concat();
    assert_eq!(all(&graph), Vec::<String>::new());
    graph.entry(from.into()).or_default().insert(to.into());
    graph.entry(to.into()).or_default();
    let faults = all(&graph);
    assert!(faults.iter().any(|f| f == expected), "{from} -> {to}: {faults:?}");
}

#[test]
fn a_broken_rule_is_seen() {
    check_broken("stream", "entity", "stream may not name entity");
    check_broken("types", "stream", "types may not name stream");
    check_broken("edge", "shard", "edge has shard below it");
    check_broken("edge", "shard", "edge has entity below it");
    check_broken("shard", "stream", "shard has stream below it");
    check_broken("entity", "tokio", "entity has tokio below it");
    check_broken("types", "getrandom", "stream has getrandom below it");
    check_broken("edge", "actix", "edge names actix, which belongs to actor");
    check_broken("shard", "fjall", "shard names fjall, which belongs to store-embedded");
    check_broken("loadtest", "types", "loadtest is a product of its own and names types");
    check_broken("actor", "ring", "ring is in the build");
}

#[test]
fn a_crate_without_a_floor_is_seen() {
    let ours = ["types", "newcomer"].map(String::from).into_iter().collect();
    assert_eq!(check(&Graph::new(), &ours), ["newcomer has no floor: give it one in ARCHITECTURE.md and in this test"]);
}

/// A word that sources must not hold, put together here so that this file does not hold it either.
fn banned() -> Vec<(String, &'static str)> {
    let word = |parts: &[&str]| parts.concat();
    vec![
        (word(&["unbounded", "_channel"]), "every queue has a maximum"),
        (word(&["unbounded", "("]), "every queue has a maximum"),
        (word(&["do_", "send("]), "it ignores the mailbox's bound"),
        (word(&["#[", "ignore"]), "a test that does not run proves nothing"),
        (word(&["should_", "panic"]), "say which error it is"),
        (word(&["todo", "!("]), "a part that is not there is left out"),
        (word(&["unimplemented", "!("]), "a part that is not there is left out"),
    ]
}

/// Words that pure crates must not hold either: time and randomness come in as arguments.
fn banned_in_cores() -> Vec<(String, &'static str)> {
    let word = |parts: &[&str]| parts.concat();
    vec![
        (word(&["Instant", "::now"]), "take the time as an argument"),
        (word(&["SystemTime", "::now"]), "take the time as an argument"),
        (word(&["rand", "::"]), "take random bytes as an argument"),
        (word(&["Tcp", "Stream"]), "a core has no sockets"),
        (word(&["std", "::fs"]), "a core has no files"),
        (word(&["std", "::thread"]), "a core starts nothing"),
        (word(&["std", "::env"]), "a core has no surroundings"),
    ]
}

fn scan(text: &str, words: &[(String, &'static str)]) -> Vec<String> {
    let code = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    let lines = text.lines().map(code).enumerate();
    let hit =
        |(n, line): (usize, String)| words.iter().find(|(w, _)| line.contains(w.as_str())).map(|(w, why)| format!("{}: {w}: {why}", n + 1));
    lines.filter_map(hit).collect()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && name != "node_modules" && !name.to_string_lossy().starts_with('.') {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn scan_all(folder: &Path, words: &[(String, &'static str)]) -> (usize, Vec<String>) {
    let mut files = Vec::new();
    sources(folder, &mut files);
    let faults = files.iter().flat_map(|path| {
        let text = fs::read_to_string(path).unwrap_or_default();
        scan(&text, words).into_iter().map(|f| format!("{}:{f}", path.display())).collect::<Vec<_>>()
    });
    (files.len(), faults.collect())
}

#[test]
fn sources_hold_no_banned_word() {
    let mut seen = 0;
    for folder in ["crates", "loadtest", "tests"] {
        let (files, faults) = scan_all(&root().join(folder), &banned());
        assert_eq!(faults, Vec::<String>::new());
        seen += files;
    }
    for name in PURE {
        let (files, faults) = scan_all(&root().join("crates").join(name).join("src"), &banned_in_cores());
        assert_eq!(faults, Vec::<String>::new());
        assert!(files > 0, "{name} has no sources");
    }
    assert!(seen > 20, "{seen} files are not the whole workspace");
    assert_eq!(scan(&["let (a, b) = unbounded", "_channel(); // x"].concat(), &banned()).len(), 1);
    assert_eq!(scan("// a comment may say do_\u{73}end(", &banned()), Vec::<String>::new());
}

/// A setting that nothing reads is worse than none: whoever sets it gets nothing, and is not told.
#[test]
fn every_setting_is_read() {
    let mut files = Vec::new();
    for name in ["chappe", "admin"] {
        sources(&root().join("crates").join(name).join("src"), &mut files);
    }
    let text: String = files.iter().filter_map(|f| fs::read_to_string(f).ok()).collect();
    let read = |key: &str| {
        let field = format!(".{}", key.rsplit('.').next().unwrap_or(key));
        let whole = |at: usize| text[at + field.len()..].chars().next().is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_');
        text.match_indices(&field).any(|(at, _)| whole(at))
    };
    let unread: Vec<_> = config::OPTS.iter().map(|o| o.key).filter(|key| !read(key)).collect();
    assert_eq!(unread, Vec::<&str>::new());
}
