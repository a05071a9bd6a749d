//! Every transcript of `tests/scripts/`, against the cores and against the running server.
//!
//! `cargo test -p chappe-tests --test scripts` plays all; `SCRIPT=roster` those whose name holds `roster`. `SCRIPTS` is another
//! folder. With `RECORD=1` the test on the cores prints what comes instead of comparing it.
// The server runs in real time; the cores do not.
#![allow(clippy::disallowed_methods, reason = "a harness of real processes lives by the real clock")]

mod cores;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use chappe_tests::script::tcp::Tcp;
use chappe_tests::script::{Script, play, record};

/// Servers that run at a time.
const SERVERS_MAX: usize = 4;

fn folder() -> PathBuf {
    std::env::var_os("SCRIPTS").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts"), PathBuf::from)
}

fn scripts() -> Result<Vec<Script>> {
    let filter = std::env::var("SCRIPT").unwrap_or_default();
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder())?.map(|f| Ok(f?.path())).collect::<Result<_>>()?;
    files.retain(|f| f.extension().is_some_and(|e| e == "scs") && f.to_string_lossy().contains(&filter));
    files.sort();
    ensure!(!files.is_empty(), "no script of that name");
    files.iter().map(|f| Script::read(f)).collect()
}

/// All that went wrong at once: one bad script does not hide another.
fn judge(results: Vec<(String, Result<()>)>) {
    let count = results.len();
    let bad: Vec<String> = results
        .into_iter()
        .filter_map(|(name, r)| r.err().map(|e| format!("{name}\n  {}", format!("{e:#}").replace('\n', "\n  "))))
        .collect();
    assert!(bad.is_empty(), "{} of {count} scripts failed:\n\n{}\n", bad.len(), bad.join("\n\n"));
}

#[test]
fn on_the_cores() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let results = scripts().expect("scripts").into_iter().map(|script| {
        let result = cores::Cores::start(&script).and_then(|mut cores| {
            if std::env::var_os("RECORD").is_some() {
                println!("# {}\n\n{}", script.title, runtime.block_on(record(&script, &mut cores))?);
                return Ok(());
            }
            runtime.block_on(play(&script, &mut cores))
        });
        (format!("{} ({})", script.name, script.title), result)
    });
    judge(results.collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_server() {
    let turns = std::sync::Arc::new(tokio::sync::Semaphore::new(SERVERS_MAX));
    let tasks: Vec<_> = scripts()
        .expect("scripts")
        .into_iter()
        .map(|script| {
            let turns = turns.clone();
            let name = format!("{} ({})", script.name, script.title);
            let task = tokio::spawn(async move {
                let _turn = turns.acquire().await?;
                let mut server = Tcp::start(&script).await.context("the server")?;
                play(&script, &mut server).await
            });
            (name, task)
        })
        .collect();
    let mut results = Vec::new();
    for (name, task) in tasks {
        results.push((name, task.await.expect("no panic")));
    }
    judge(results);
}

/// A format that lets everything through would prove nothing: each of these differs from what happens by one thing.
#[test]
fn a_wrong_script_fails_with_its_line() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let head = "# a ping\n[Client] Romeo\n\tjid: romeo@localhost/orchard\n\nRomeo connects\nRomeo sends:\n\t<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>\n";
    let good = "Romeo receives:\n\t<iq type='result' id='p' to='romeo@localhost/orchard'/>\n";
    let run = |steps: &str| {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("ping.scs");
        std::fs::write(&file, format!("{head}{steps}"))?;
        let script = Script::read(&file)?;
        runtime.block_on(play(&script, &mut cores::Cores::start(&script)?))
    };
    run(good).expect("the right one passes");
    for (steps, why) in [
        ("", "at the end, Romeo has more"),
        ("Romeo receives nothing\n", "ping.scs:8"),
        ("Romeo receives:\n\t<iq type='error' id='p' to='romeo@localhost/orchard'/>\n", "attribute type: expected 'error', came 'result'"),
        ("Romeo receives:\n\t<iq type='result' id='p'/>\n", "nothing was said of the attribute to="),
        ("Romeo is disconnected\n", "expected the end of the stream"),
        (&format!("{good}{good}"), "came: nothing"),
    ] {
        let error = format!("{:#}", run(steps).expect_err(steps));
        assert!(error.contains(why), "{error}");
    }
}
