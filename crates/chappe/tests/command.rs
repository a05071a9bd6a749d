//! The command from outside: a server as a child process, and the commands that talk to it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How often a state outside this process is looked at, and how often before it is given up: 60 s.
const LOOK: Duration = Duration::from_millis(20);
const LOOKS_MAX: usize = 3_000;

const BINARY: &str = env!("CARGO_BIN_EXE_chappe");

/// A server in a folder of its own, on ports that the system chooses.
struct Server {
    folder: TempDir,
    child: Option<Child>,
}

impl Server {
    fn start(more: &str) -> Server {
        let mut server = Server { folder: tempfile::tempdir().unwrap(), child: None };
        server.write(more);
        server.spawn();
        server
    }

    fn write(&self, more: &str) {
        let text = format!(
            "data_dir = \"data\"\nlisten = {{ c2s = \"127.0.0.1:0\", c2s_tls = \"127.0.0.1:0\", admin = \"127.0.0.1:0\" }}\n{more}"
        );
        fs::write(self.file(), text).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("chappe.toml")
    }

    fn data(&self, name: &str) -> PathBuf {
        self.folder.path().join("data").join(name)
    }

    fn spawn(&mut self) {
        self.spawn_with(&[]);
    }

    fn spawn_with(&mut self, args: &[&str]) {
        let output = fs::File::create(self.folder.path().join("output")).unwrap();
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        let mut command = Command::new(BINARY);
        command.args(args).current_dir(&self.folder).stdout(output).stderr(log).env_remove("CHAPPE_DATA").env_remove("CHAPPE_CONFIG");
        self.child = Some(command.spawn().unwrap());
        self.until("it serves", || self.data("listening.json").exists() && self.read("output").contains("Ctrl-C"));
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    fn until(&self, what: &str, mut seen: impl FnMut() -> bool) {
        for _ in 0..LOOKS_MAX {
            if seen() {
                return;
            }
            std::thread::sleep(LOOK);
        }
        panic!("not seen: {what}\n{}\n{}", self.read("output"), self.read("log"));
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// SIGTERM, and the status that it ends with.
    fn end(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.child.take().unwrap().wait().unwrap().code()
    }

    /// Runs a command and expects a status; gives what it printed and what it said on standard error.
    fn command(&self, args: &[&str], input: &str, status: i32) -> (String, String) {
        let output = run(self.folder.path(), args, input);
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!(output.status.code(), Some(status), "{args:?}: {out}{err}\n{}", self.read("log"));
        (out, err)
    }

    fn json(&self, args: &[&str], input: &str) -> Value {
        serde_json::from_str(&self.command(&[args, &["-o", "json"]].concat(), input, 0).0).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn run(folder: &Path, args: &[&str], input: &str) -> Output {
    let mut command = Command::new(BINARY);
    command.args(args).current_dir(folder).env_remove("CHAPPE_DATA").env_remove("CHAPPE_CONFIG");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that reads no input may have ended already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn accounts_are_made_listed_changed_and_removed() {
    let mut server = Server::start("domains = [\"localhost\", \"b.example\"]");
    assert!(server.command(&["user", "list"], "", 0).0.contains("no users"));
    assert_eq!(server.json(&["user", "add", "romeo@localhost", "--password-stdin"], "s3cret\n"), json!({"jid": "romeo@localhost"}));
    let made = server.json(&["user", "add", "juliet@b.example", "--generate"], "");
    assert_eq!(made["password"].as_str().map(str::len), Some(24));
    let (_, said) = server.command(&["user", "add", "romeo@localhost", "--password-stdin"], "other", 1);
    assert!(said.contains("exists already") && said.contains("next: "), "{said}");

    let all = json!({"users": [{"jid": "romeo@localhost"}, {"jid": "juliet@b.example"}]});
    assert_eq!(server.json(&["user", "list"], ""), all);
    assert_eq!(server.command(&["user", "list", "b.example"], "", 0).0, "JID\njuliet@b.example\n");

    server.command(&["user", "passwd", "romeo@localhost", "--password-stdin"], "n3w\n", 0);
    server.command(&["user", "passwd", "nobody@localhost", "--password-stdin"], "x", 3);
    server.command(&["user", "del", "nobody@localhost"], "", 3);
    for bad in ["romeo@elsewhere.example", "localhost", "@localhost", "ro meo@localhost"] {
        server.command(&["user", "add", bad, "--generate"], "", 1);
    }
    server.command(&["user", "add", "x@localhost"], "", 2);
    server.command(&["user", "frobnicate"], "", 2);

    assert_eq!(server.end(), Some(0));
    server.command(&["user", "list"], "", 5);
    server.spawn();
    assert_eq!(server.json(&["user", "list"], ""), all, "accounts outlive the server");
    server.command(&["user", "del", "juliet@b.example"], "", 0);
    server.command(&["user", "del", "juliet@b.example"], "", 3);
    for secret in ["s3cret", "n3w", made["password"].as_str().unwrap(), fs::read_to_string(server.data("admin.token")).unwrap().trim()] {
        assert!(!server.read("log").contains(secret) && !server.read("output").contains(secret), "{secret} is written somewhere");
    }
    fs::write(server.data("admin.token"), "of another server\n").unwrap();
    server.command(&["user", "list"], "", 4);
}

#[test]
fn the_certificate_is_made_once_and_told() {
    let mut server = Server::start("");
    let told = |server: &Server| server.read("output").lines().find(|l| l.contains("SHA-256")).map(str::to_owned).unwrap();
    let first = told(&server);
    assert!(server.read("output").contains("user add romeo@localhost"), "{}", server.read("output"));
    assert_eq!(server.end(), Some(0));
    server.spawn();
    assert_eq!(told(&server), first);
    assert_eq!(server.end(), Some(0));
}

#[test]
fn settings_are_shown_checked_and_taken_over() {
    let server = Server::start("");
    let routing = || server.json(&["config", "show", "--origin"], "")["routing.bare_jid"].clone();
    assert_eq!(routing(), json!({"value": "highest", "origin": "default", "live": true}));

    server.write("domains = \"other.example\"\nrouting.bare_jid = \"all\"");
    let done = server.json(&["config", "reload"], "");
    // The watcher may have been faster; then there is nothing left to apply.
    assert!(done["applied"] == json!(["routing.bare_jid"]) || done["applied"] == json!([]), "{done}");
    assert_eq!(done["restart"], json!(["domains"]));
    assert_eq!(routing(), json!({"value": "all", "origin": "chappe.toml:4", "live": true}));

    server.write("routing.bare_jid = \"nowhere\"\n]");
    let (_, said) = server.command(&["config", "reload"], "", 1);
    assert!(said.contains("chappe.toml:3: `routing.bare_jid`: expected") && said.contains("chappe.toml:4: "), "{said}");
    server.command(&["config", "check"], "", 1);
    assert_eq!(routing()["value"], "all", "a bad file replaces nothing");

    server.write("routing.bare_jid = \"highest\"");
    assert!(server.command(&["config", "check", "chappe.toml"], "", 0).0.contains("ok, serves localhost"));
    server.signal(Signal::HUP);
    server.until("SIGHUP is heard", || routing()["value"] == "highest");

    let toml = server.command(&["config", "show", "-o", "toml"], "", 0).0;
    fs::write(server.folder.path().join("again.toml"), toml).unwrap();
    server.command(&["config", "check", "again.toml"], "", 0);
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let said = |text: &str| {
        fs::write(folder.path().join("chappe.toml"), text).unwrap();
        let output = run(folder.path(), &["run"], "");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let fault = said("domain = \"x\"\n");
    assert!(fault.contains("chappe.toml:1: unknown key `domain`, did you mean `domains`?"), "{fault}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let fault = said(&format!("listen.admin = \"{}\"", taken.local_addr().unwrap()));
    assert!(fault.contains("cannot be bound"), "{fault}");
}

#[test]
fn a_damaged_journal_is_refused_until_the_loss_is_accepted() {
    let mut server = Server::start("");
    for name in ["romeo@localhost", "juliet@localhost", "tybalt@localhost"] {
        server.command(&["user", "add", name, "--password-stdin"], "s3cret", 0);
    }
    server.signal(Signal::KILL);
    server.child.take().unwrap().wait().unwrap();
    fs::remove_file(server.data("listening.json")).unwrap();
    let journal = files(&server.data("store")).into_iter().find(|f| f.extension().is_some_and(|e| e == "jnl")).unwrap();
    let mut bytes = fs::read(&journal).unwrap();
    let name = b"juliet@localhost";
    let at = bytes.windows(name.len()).position(|w| w == name).expect("the account is in the journal");
    bytes[at] ^= 1;
    fs::write(&journal, &bytes).unwrap();

    let (_, said) = server.command(&["run"], "", 1);
    assert!(said.contains("corrupt in the middle") && said.contains("start once with `--accept-loss`"), "{said}");
    assert!(fs::read(&journal).unwrap() == bytes, "a refusal changes nothing");
    server.spawn_with(&["run", "--accept-loss"]);
    let users = server.json(&["user", "list"], "");
    assert!(users.to_string().contains("romeo@localhost") && !users.to_string().contains("juliet@localhost"), "{users}");
    assert_eq!(server.end(), Some(0));
    // Once is enough.
    server.spawn();
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let (folders, mut all): (Vec<_>, Vec<_>) = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).partition(|p| p.is_dir());
    all.extend(folders.iter().flat_map(|f| files(f)));
    all
}

#[test]
fn probes_answer_over_http() {
    let server = Server::start("log.format = \"human\"");
    let bound: Value = serde_json::from_str(&fs::read_to_string(server.data("listening.json")).unwrap()).unwrap();
    let get = |path: &str| {
        let mut stream = std::net::TcpStream::connect(bound["admin"][0].as_str().unwrap()).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(get("/livez").starts_with("HTTP/1.1 200"));
    let ready = get("/readyz?verbose=1");
    assert!(ready.starts_with("HTTP/1.1 200") && ready.ends_with("ready\n"), "{ready}");
    let page = get("/metrics");
    assert!(page.contains("process_resident_memory_bytes"));
    let cpu = page.lines().find_map(|line| line.strip_prefix("process_cpu_seconds_total ")?.parse::<f64>().ok());
    assert!(cpu.is_some_and(|seconds| seconds > 0.0), "{page}");
    assert!(get("/api/v1/users").starts_with("HTTP/1.1 401"));
    assert!(get("/%2e%2e/").starts_with("HTTP/1.1 400"));
}
