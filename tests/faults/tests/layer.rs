//! The layer under a small program: what a power cut may take and what not, and each fault.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use chappe_faults::{Dropped, Layer, Word, library};
use tempfile::TempDir;

/// A directory, its layer, and what the program said.
struct Case {
    folder: TempDir,
    layer: Layer,
    said: Vec<String>,
}

impl Case {
    fn new() -> Case {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("d")).unwrap();
        let layer = Layer::new(&folder.path().join("d"), &folder.path().join("state")).unwrap();
        layer.set(Word::Record, 1).unwrap();
        Case { folder, layer, said: Vec::new() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("d").join(name)
    }

    /// Runs commands; names of files are within the directory.
    fn run(&mut self, commands: &str) -> &mut Case {
        let subject = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/subject");
        let within = |command: &str| {
            let mut words = command.split_whitespace();
            let verb = words.next().unwrap_or_default().to_owned();
            let directory = self.folder.path().join("d").display().to_string();
            let place = |w: &str| if let Some(name) = w.strip_prefix('/') { format!("{directory}/{name}") } else { w.to_owned() };
            words.fold(verb, |all, word| all + " " + &place(word))
        };
        let mut command = Command::new(subject);
        command.args(commands.split(';').map(str::trim).filter(|c| !c.is_empty()).map(within));
        command.envs(self.layer.environment(&library().unwrap(), true));
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(errors.is_empty() || errors.contains("NOT COVERED"), "{errors}");
        self.said.extend(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned));
        assert!(self.get(Word::Began) > 0, "the layer has not begun");
        self
    }

    fn get(&self, word: Word) -> u64 {
        self.layer.get(word).unwrap()
    }

    /// The directory after a cut, in words.
    fn cut(&self, seed: u64) -> (String, Dropped) {
        let dropped = self.layer.cut(seed).unwrap();
        assert_eq!(self.get(Word::Uncovered), 0);
        (show(&self.folder.path().join("d")), dropped)
    }
}

/// `name=content` of each file; of long ones runs, as `a512`.
fn show(folder: &Path) -> String {
    let mut all = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            all.insert(format!("{name}/[{}]", show(&path)));
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let runs = bytes.chunk_by(|a, b| a == b).map(|run| {
            let letter = if run[0] == 0 { '0' } else { run[0] as char };
            if run.len() == 1 { letter.to_string() } else { format!("{letter}{}", run.len()) }
        });
        all.insert(format!("{name}={}", runs.collect::<Vec<_>>().join(" ")));
    }
    all.into_iter().collect::<Vec<_>>().join(", ")
}

/// All that cuts with many seeds leave of a program's work.
fn all(commands: &str) -> BTreeSet<String> {
    (0..40)
        .map(|seed| {
            let mut case = Case::new();
            case.run("write /a 0 1024 o; sync /a; sync /.").run(commands);
            case.cut(seed).0
        })
        .collect()
}

/// Exactly these.
#[track_caller]
fn check(commands: &str, expected: &[&str]) {
    assert_eq!(all(commands), expected.iter().map(|e| (*e).to_owned()).collect(), "{commands}");
}

#[test]
fn what_is_synced_stays() {
    check("write /a 0 1024 n; sync /a", &["a=n1024"]);
    check("write /a 0 1024 n; data-sync /a; abort", &["a=n1024"]);
    check("append /a 512 n; sync /a", &["a=o1024 n512"]);
    check("replace /a nn; sync /a", &["a=n2"]);
    check("size /a 100; sync /a", &["a=o100"]);
}

#[test]
fn what_is_not_synced_vanishes_tears_or_stays() {
    check("write /a 0 1024 n", &["a=o1024", "a=n1024", "a=n512 o512", "a=o512 n512"]);
    check("write /a 100 10 n; abort", &["a=o1024", "a=o100 n10 o914"]);
    // A sync of another file, or of the folder, is none of this one.
    check("write /b 0 1 b; write /a 0 512 n; sync /b; sync /.", &["a=o1024, b=b", "a=n512 o512, b=b"]);
    // What was synced between two writes stays; an older version may come back, but not the oldest.
    check("write /a 0 512 m; sync /a; write /a 0 512 n", &["a=m512 o512", "a=n512 o512"]);
    check("write /a 0 512 m; write /a 0 512 n", &["a=o1024", "a=m512 o512", "a=n512 o512"]);
}

#[test]
fn sizes_are_apart_from_content() {
    check("append /a 512 n", &["a=o1024", "a=o1024 n512", "a=o1024 0512"]);
    check("size /a 1536", &["a=o1024", "a=o1024 0512"]);
    check("size /a 512", &["a=o1024", "a=o512"]);
    check("replace /a n", &["a=", "a=0", "a=n", "a=o1024", "a=n 0511 o512"]);
}

#[test]
fn names_without_a_sync_of_the_folder() {
    check("write /b 0 4 n; sync /b", &["a=o1024", "a=o1024, b=n4"]);
    check("rename /a /b", &["a=o1024", "b=o1024"]);
    check("raw-rename /a /b", &["a=o1024", "b=o1024"]);
    check("raw-rename /a /b; sync /.", &["b=o1024"]);
    check("remove /a", &["", "a=o1024"]);
    check("remove /a; sync /.", &[""]);
    check("write /b 0 1 n; sync /b; sync /.; rename /b /a", &["a=o1024, b=n", "a=n"]);
    check("write /b 0 1 n; sync /b; rename /b /a", &["a=o1024", "a=o1024, b=n", "a=n"]);
    check("make /d; write /d/x 0 1 x; sync /d/x; sync /d", &["a=o1024", "a=o1024, d/[x=x]"]);
    check("make /d; sync /.; write /d/x 0 1 x; sync /d/x; sync /d; remove-all /d; sync /.", &["a=o1024"]);
    check("copy /a /b; sync /b; sync /.", &["a=o1024, b=o1024"]);
}

#[test]
fn a_sync_that_fails_gives_up_what_was_written() {
    let kept = |seed| {
        let mut case = Case::new();
        case.run("write /a 0 512 o; sync /a; sync /.");
        case.layer.set(Word::SyncErrors, 1).unwrap();
        case.run("write /a 0 512 n; sync /a; sync /a");
        assert_eq!(case.said[3..], ["ok", "\"error 5\"", "ok"]);
        assert_eq!(case.get(Word::SyncsFailed), 1);
        case.cut(seed).0
    };
    assert_eq!((0..20).map(kept).collect::<BTreeSet<_>>(), ["a=n512", "a=o512"].map(str::to_owned).into());
}

#[test]
fn the_same_seed_leaves_the_same() {
    let run = || {
        let mut case = Case::new();
        case.run("write /a 0 20000 n; write /b 0 5000 b; rename /b /c; append /a 3000 m");
        case.cut(7)
    };
    let (shown, dropped) = run();
    assert_eq!((shown, dropped), run());
    assert!(dropped.any() && dropped.at_risk == 3, "{dropped:?}");
}

#[test]
fn a_cut_in_the_middle() {
    // The process ends itself at each place in turn; whatever was acknowledged by the end of a line was synced.
    for place in 1.. {
        let mut case = Case::new();
        case.layer.set(Word::CutAfter, place).unwrap();
        case.run("write /a 0 600 n; sync /a; sync /.; raw-rename /a /b; sync /.; write /b 0 600 m; sync /b");
        let done = case.said.len();
        if case.get(Word::Cuts) == 0 {
            assert!(done == 7 && place > 10, "{place} {:?}", case.said);
            break;
        }
        let shown = case.cut(place).0;
        match done {
            0..3 => {}
            3 => assert!(["a=n600", "b=n600"].contains(&&*shown), "{place}: {shown}"),
            4 => assert!(["a=n600", "b=n600"].contains(&&*shown), "{place}: {shown}"),
            _ => assert!(shown.starts_with("b=") && shown.len() >= 6, "{place}: {shown}"),
        }
    }
}

#[test]
fn a_full_disk() {
    let mut case = Case::new();
    case.run("write /a 0 10 o");
    case.layer.set(Word::Space, 15).unwrap();
    case.run("append /a 10 n; append /a 10 m; replace /b b; size /a 100; size /a 5");
    assert_eq!(case.said[1..], ["ok", "\"error 28\"", "\"error 28\"", "\"error 28\"", "ok"]);
    case.layer.set(Word::Space, u64::MAX).unwrap();
    case.run("append /a 1 e; read /a");
    assert_eq!(case.said.last().unwrap(), "oooooe");
    assert_eq!(case.get(Word::Full), 3);
}

#[test]
fn errors_delays_and_lies() {
    let mut case = Case::new();
    case.run("write /a 0 3 o; read /a");
    case.layer.set(Word::ReadErrors, 1).unwrap();
    case.layer.set(Word::ReadsSpared, 2).unwrap();
    case.layer.set(Word::WriteErrors, 1).unwrap();
    case.layer.set(Word::SyncDelay, 1000).unwrap();
    case.layer.set(Word::Free, 8192).unwrap();
    case.run("read /a; read /a; append /a 1 n; append /a 1 m; sync /a; free /a; read /a");
    assert_eq!(case.said[1..], ["ooo", "ooo", "\"error 5\"", "\"error 5\"", "ok", "ok", "8192", "ooom"]);
    let counts = [Word::ReadsFailed, Word::WritesFailed, Word::SyncsDelayed, Word::FreeAsked].map(|w| case.get(w));
    assert_eq!(counts, [1, 1, 1, 1]);
}

#[test]
fn a_step_of_the_clock() {
    let mut case = Case::new();
    case.run("clock");
    case.layer.set(Word::ClockStep, (-3_600_000_i64) as u64).unwrap();
    case.run("clock");
    let times: Vec<i64> = case.said.iter().map(|s| s.parse().unwrap()).collect();
    assert!((3_000..=3_600).contains(&(times[0] - times[1])), "{times:?}");
    assert!(case.get(Word::ClockReads) > 0);
}

#[test]
fn what_is_not_covered_is_told() {
    let mut case = Case::new();
    case.run("write /a 0 1 o; link /a /b");
    assert_eq!(case.get(Word::Uncovered), 1);
    assert!(case.file("b").exists());
}
