//! Processes that make one load together, as users start them, against a Prosody.

mod prosody;

use loadtest::scenario::Outcome;
use prosody::{Prosody, prosody};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

const BIN: &str = env!("CARGO_BIN_EXE_loadtest");
/// A run that takes longer hangs.
const RUN_MAX: Duration = Duration::from_secs(90);
/// What is waited for longer does not come.
const WORD_MAX: Duration = Duration::from_secs(30);
/// What may arrive between two looks: a window of each of the few clients here.
const BETWEEN: u64 = 24;
/// By this variable a run's processes are known.
const RUN: &str = "LOADTEST_TESTED";
const TOKEN: &str = "a token of the tests";

/// A worker's process; it ends when dropped.
struct Worker {
    child: Child,
    address: String,
    words: Receiver<String>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Worker {
    fn start(token: &Path) -> Worker {
        let mut command = Command::new(BIN);
        command.args(["worker", "--listen", "127.0.0.1:0", "--token"]).arg(token).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap().to_owned();
        let (told, words) = sync_channel(100);
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).all(|line| told.send(line).is_ok()));
        Worker { child, address, words }
    }

    /// Waits for a line with these words.
    fn says(&self, words: &str) {
        let mut heard = String::new();
        while !heard.rsplit('\n').next().is_some_and(|last| last.contains(words)) {
            heard += "\n";
            heard += &self.words.recv_timeout(WORD_MAX).unwrap_or_else(|e| panic!("{words}: {e}, but{heard}"));
        }
    }
}

/// `loadtest run`, of one of the ready scenarios.
fn run(server: &Prosody, name: &str, args: &[&str], set: &[&str]) -> Child {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("scenarios/{name}.toml"));
    let mut command = Command::new(BIN);
    command.arg("run").arg(path).args(args).env_remove("LOADTEST_TOKEN").env("RUST_BACKTRACE", "0");
    command.args(["--json", "--domain", "localhost", "--server", &format!("127.0.0.1:{}", server.ports[0])]);
    set.iter().for_each(|set| _ = command.args(["--set", set]));
    if !args.contains(&"--transport") {
        command.args(["--transport", "plain"]);
    }
    command.env(RUN, format!("{name} {}", args.join(" ")));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Until it is so.
fn wait(so: impl Fn() -> bool) {
    for _ in 0..600 {
        if so() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    panic!("it does not come about");
}

/// Waits for its end.
fn end(child: Child) -> Output {
    let (told, ends) = sync_channel(1);
    let id = child.id().to_string();
    std::thread::spawn(move || told.send(child.wait_with_output().unwrap()));
    ends.recv_timeout(RUN_MAX).unwrap_or_else(|_| {
        let _ = Command::new("kill").args(["-KILL", &id]).status();
        panic!("it hangs");
    })
}

fn outcome(child: Child) -> Outcome {
    let output = end(child);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn failure(child: Child) -> String {
    let output = end(child);
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs it on three processes; what was counted is in the seconds and in the histogram.
fn check(server: &Prosody, name: &str, args: &[&str], set: &[&str]) -> Outcome {
    let outcome = outcome(run(server, name, &[&["--spawn", "3"][..], args].concat(), set));
    assert!(outcome.faults.is_clean() && outcome.count > 0, "{name}: {outcome:?}");
    let measured: u64 = outcome.series.iter().filter(|s| s.at > 0.0).map(|s| s.count).sum();
    assert_eq!(measured, outcome.count, "{name}: {:?}", outcome.series);
    let recorded: u64 = outcome.histogram.iter().map(|(_, n)| n).sum();
    let whole = matches!(name, "archive" | "mixed") || recorded.abs_diff(outcome.count) <= 3 * BETWEEN;
    assert!(whole, "{name}: {recorded} latencies of {}", outcome.count);
    assert!(outcome.series.is_sorted_by(|a, b| a.at < b.at), "{name}: {:?}", outcome.series);
    outcome
}

#[test]
fn three_processes_count_as_one() {
    let Some(server) = prosody() else { return };
    let new = check(&server, "register", &["--accounts", "14"], &[]);
    assert_eq!((new.count, new.parts["existed already"]), (14, 0.0));
    assert_eq!(check(&server, "login", &[], &["logins=7"]).count, 7);
    assert_eq!(check(&server, "idle", &[], &["base=2", "sessions=11", "settle=0"]).count, 11);
    // Workers need not have the file: its text is sent to them.
    let ca = format!("/proc/{}/cwd/ca.pem", server.child.id());
    assert_eq!(check(&server, "login", &["--transport", "starttls", "--ca", &ca], &["logins=4"]).count, 4);
    let stored = check(&server, "offline", &[], &["senders=3", "recipients=7", "messages=4"]);
    assert_eq!((stored.count, stored.parts["stored"]), (28, 28.0));
    let pid = server.child.id().to_string();
    let chat = check(&server, "chat", &["--pid", &pid, "--bind", "127.0.0.2-4"], &["pairs=5", "warm_up=1.2", "seconds=2.2"]);
    // Two of warm-up and three that are measured, if none of the processes had to wait for the CPU.
    assert!((2..=6).contains(&chat.series.len()), "{:?}", chat.series);
    assert!((2.1..9.0).contains(&chat.seconds) && chat.cpu_us_each.is_some() && chat.series.iter().any(|s| s.cpu.is_some()), "{chat:?}");
    // As many as one process would send, in their turn.
    let rate = check(&server, "chat-rate", &[], &["pairs=7", "rate=100", "warm_up=0.5", "seconds=2"]);
    assert!((150..=250).contains(&rate.count), "{rate:?}");
    check(&server, "archive", &[], &["pairs=4", "messages=6", "page=3", "warm_up=0.2", "seconds=0.8"]);
    check(&server, "group", &[], &["rooms=3", "occupants=4", "senders=2", "warm_up=0.2", "seconds=1"]);
    let cut = check(&server, "reconnect", &[], &["pairs=6", "rate=60", "cuts=9", "away=0.05", "warm_up=0.2", "seconds=1"]);
    assert!(cut.parts["messages delivered"] > 30.0, "{cut:?}");
    check(&server, "register", &["--prefix", "friend", "--accounts", "18"], &[]);
    check(&server, "presence", &[], &["clients=11", "contacts=2", "rate=30", "warm_up=0.2", "seconds=0.8"]);
    let day = ["clients=12", "contacts=2", "occupants=4", "visitors=5", "away=0.05", "day=[[0,30],[0.5,90],[1,30]]"];
    // Whoever had contacts with another worker's accounts has none of them any more.
    check(&server, "mixed", &[], &[&day[..], &["warm_up=0.2", "seconds=0.8"]].concat());
}

#[test]
fn processes_end_with_their_controller() {
    let Some(server) = prosody() else { return };
    outcome(run(&server, "register", &["--accounts", "4"], &[]));
    let mut controller = run(&server, "chat", &["--spawn", "2"], &["pairs=2", "seconds=50"]);
    let id = controller.id();
    let children = || std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    let there = |child: &str| std::fs::read(format!("/proc/{child}/cmdline")).is_ok_and(|line| !line.is_empty());
    wait(|| children().split_ascii_whitespace().count() == 2);
    let workers: Vec<_> = children().split_ascii_whitespace().map(str::to_owned).collect();
    controller.kill().unwrap();
    controller.wait().unwrap();
    wait(|| !workers.iter().any(|worker| there(worker)));
    // A run that fails leaves none, either.
    let why = failure(run(&server, "chat", &["--spawn", "2", "--prefix", "nobody"], &["pairs=2"]));
    assert!(why.contains("worker 127.0.0.1:") && why.contains("not-authorized"), "{why}");
    let of_it = |environment: Vec<u8>| String::from_utf8_lossy(&environment).contains(&format!("{RUN}=chat --spawn 2 --prefix nobody"));
    wait(|| {
        let mut all = std::fs::read_dir("/proc").unwrap().flatten();
        !all.any(|process| std::fs::read(process.path().join("environ")).is_ok_and(of_it))
    });
}

#[test]
fn who_does_not_answer_is_gone() {
    let Some(server) = prosody() else { return };
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, TOKEN.replace(' ', "-")).unwrap();
    outcome(run(&server, "register", &["--accounts", "4"], &[]));
    let (worker, set) = (Worker::start(&token), ["pairs=2", "seconds=50"]);
    let args = ["--workers", &worker.address, "--token", token.to_str().unwrap()];
    // As if a host were cut off: the other side's system answers, or does not, and the process does nothing.
    let signal =
        |signal: &str, child: &Child| assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    let mut controller = run(&server, "chat", &args, &set);
    worker.says("goes on");
    signal("-STOP", &controller);
    worker.says("stopped: its controller is gone");
    controller.kill().unwrap();
    controller.wait().unwrap();
    let controller = run(&server, "chat", &args, &set);
    worker.says("goes on");
    signal("-STOP", &worker.child);
    let why = failure(controller);
    assert!(why.contains(&format!("worker {} is gone", worker.address)), "{why}");
}

#[test]
fn a_worker_that_dies_is_named() {
    let Some(server) = prosody() else { return };
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, TOKEN.replace(' ', "-")).unwrap();
    outcome(run(&server, "register", &["--accounts", "8"], &[]));
    let (one, mut other) = (Worker::start(&token), Worker::start(&token));
    let both = ["--workers", &format!("{},{}", one.address, other.address), "--token", token.to_str().unwrap()];
    let controller = run(&server, "chat", &both, &["pairs=4", "seconds=50"]);
    [&one, &other].into_iter().for_each(|worker| worker.says("goes on"));
    other.child.kill().unwrap();
    let why = failure(controller);
    assert!(why.contains(&format!("worker {} is gone", other.address)) && why.contains("start it again"), "{why}");
    one.says("stopped: its controller");
    // It is there for the next one.
    let alone = ["--workers", &one.address, "--token", token.to_str().unwrap()];
    let after = outcome(run(&server, "chat", &alone, &["pairs=4", "warm_up=0.2", "seconds=0.5"]));
    assert!(after.count > 0 && after.faults.is_clean());
    let why = failure(run(&server, "chat", &both, &["pairs=4"]));
    assert!(why.contains(&format!("worker {} cannot be reached; start it there", other.address)), "{why}");
}

#[test]
fn a_worker_is_its_controllers_alone() {
    let Some(server) = prosody() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (token, wrong) = (folder.path().join("token"), folder.path().join("wrong"));
    std::fs::write(&token, TOKEN.replace(' ', "-")).unwrap();
    std::fs::write(&wrong, TOKEN.replace(' ', "+")).unwrap();
    outcome(run(&server, "register", &["--accounts", "4"], &[]));
    let worker = Worker::start(&token);
    let with = |token: &Path| ["--workers", &worker.address, "--token", token.to_str().unwrap()].map(str::to_owned);
    let start = |args: &[String], set: &[&str]| run(&server, "chat", &args.iter().map(String::as_str).collect::<Vec<_>>(), set);
    for args in [&with(&wrong)[..], &with(&token)[..2]] {
        let why = failure(start(args, &["pairs=2"]));
        assert!(why.contains(&format!("worker {} refuses the token", worker.address)) && !why.contains("tests"), "{why}");
    }
    let mut long = start(&with(&token), &["pairs=2", "seconds=50"]);
    worker.says("goes on");
    let why = failure(start(&with(&token), &["pairs=2"]));
    assert!(why.contains("busy with another run; wait for its end"), "{why}");
    // Its controller dies without a word.
    long.kill().unwrap();
    long.wait().unwrap();
    worker.says("stopped: its controller is gone");
    assert!(outcome(start(&with(&token), &["pairs=2", "warm_up=0.2", "seconds=0.5"])).count > 0);
}

#[test]
fn strangers_need_a_token() {
    let mut command = Command::new(BIN);
    command
        .args(["worker", "--listen", "0.0.0.0:0"])
        .env_remove("LOADTEST_TOKEN")
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let why = failure(command.spawn().unwrap());
    assert!(why.contains("0.0.0.0:0 can be reached by others: give --token or LOADTEST_TOKEN"), "{why}");
}
