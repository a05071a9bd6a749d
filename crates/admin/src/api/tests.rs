use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, OnceLock};

use config::Config;
use serde_json::json;

use super::*;
use crate::client::{CallError, Client, encode};
use crate::control::{BoxFuture, Check, Readiness, Reloaded};

/// A node whose accounts are a map.
#[derive(Default)]
struct Node {
    users: Mutex<BTreeMap<String, String>>,
    problem: Mutex<Option<String>>,
}

fn now<T: Send + 'static>(value: T) -> BoxFuture<'static, T> {
    Box::pin(async move { value })
}

impl Control for Node {
    fn create_user(&self, jid: BareJid, password: Secret) -> BoxFuture<'_, Result<(), ControlError>> {
        let mut users = self.users.lock().unwrap();
        if users.contains_key(jid.as_str()) {
            return now(Err(ControlError::AlreadyExists(jid.to_string())));
        }
        users.insert(jid.to_string(), password.expose().to_owned());
        now(Ok(()))
    }
    fn set_password(&self, jid: BareJid, password: Secret) -> BoxFuture<'_, Result<(), ControlError>> {
        let mut users = self.users.lock().unwrap();
        let Some(entry) = users.get_mut(jid.as_str()) else { return now(Err(ControlError::NotFound(jid.to_string()))) };
        *entry = password.expose().to_owned();
        now(Ok(()))
    }
    fn delete_user(&self, jid: BareJid) -> BoxFuture<'_, Result<(), ControlError>> {
        let gone = self.users.lock().unwrap().remove(jid.as_str());
        now(gone.map(|_| ()).ok_or_else(|| ControlError::NotFound(jid.to_string())))
    }
    fn list_users(&self, domain: BareJid, after: Option<BareJid>, limit: usize) -> BoxFuture<'_, Result<Vec<BareJid>, ControlError>> {
        let users = self.users.lock().unwrap();
        let all = users.keys().filter_map(|k| BareJid::parse(k).ok()).filter(|j| j.domain() == domain.as_str());
        now(Ok(all.filter(|j| after.as_ref().is_none_or(|a| j.as_str() > a.as_str())).take(limit).collect()))
    }
    fn apply(&self, _: Config) -> BoxFuture<'_, Result<(), ControlError>> {
        now(Ok(()))
    }
    fn readiness(&self) -> Readiness {
        let problem = self.problem.lock().unwrap().clone();
        Readiness { draining: false, checks: vec![Check { name: "store".into(), problem }] }
    }
    fn listening(&self) -> Listening {
        Listening::default()
    }
}

struct Files;

impl Reload for Files {
    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, ControlError>> {
        now(Err(ControlError::Invalid("chappe.toml:1: unknown key `x`".into())))
    }
    fn config(&self) -> Config {
        Config::parse("domains = ['a.example', 'b.example']\n[admin]\ntoken = 'canary'").unwrap()
    }
}

/// A served interface over `node`, on a port of its own.
fn start(node: Arc<Node>) -> SocketAddr {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    let metrics = METRICS.get_or_init(|| Metrics::install().unwrap()).clone();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let admin = Admin::new(node, Arc::new(Files), metrics, Secret::new("right"));
            serve(TcpListener::from_std(listener).unwrap(), admin, std::future::pending()).await.unwrap();
        });
    });
    address
}

fn client(address: SocketAddr) -> Client {
    Client { address, token: Secret::new("right") }
}

fn code(result: Result<Vec<u8>, CallError>) -> Code {
    match result {
        Err(CallError::Refused { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

/// Sends a request as it stands and returns the status.
fn raw(address: SocketAddr, request: &str) -> u16 {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.replace('\n', "\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn users_come_and_go() {
    let node = Arc::new(Node::default());
    let api = client(start(node.clone()));
    for name in ["romeo", "juliet", "o'brien%x"] {
        let jid = format!("{name}@a.example");
        let made = api.call("POST", "/api/v1/users", Some(&json!({"jid": jid, "password": "pw"})));
        // An apostrophe cannot stand in a localpart (RFC 7622 §3.3.1).
        assert_eq!(made.is_ok(), !name.contains('\''), "{name}");
    }
    assert_eq!(code(api.call("POST", "/api/v1/users", Some(&json!({"jid": "romeo@a.example", "password": "x"})))), Code::AlreadyExists);
    let page: Users = serde_json::from_slice(&api.call("GET", "/api/v1/users?limit=1", None).unwrap()).unwrap();
    assert_eq!((page.users[0].jid.as_str(), page.next.as_deref()), ("juliet@a.example", Some("juliet@a.example")));
    let next = format!("/api/v1/users?domain=a.example&after={}", encode("juliet@a.example"));
    let page: Users = serde_json::from_slice(&api.call("GET", &next, None).unwrap()).unwrap();
    assert_eq!((page.users.len(), page.next), (1, None));

    let password = format!("/api/v1/users/{}/password", encode("romeo@a.example"));
    api.call("PUT", &password, Some(&json!({"password": "new"}))).unwrap();
    assert_eq!(node.users.lock().unwrap()["romeo@a.example"], "new");
    api.call("DELETE", "/api/v1/users/romeo@a.example", None).unwrap();
    assert_eq!(code(api.call("DELETE", "/api/v1/users/romeo@a.example", None)), Code::NotFound);
    assert_eq!(code(api.call("PUT", &password, Some(&json!({"password": "new"})))), Code::NotFound);
}

#[test]
fn bad_input_changes_nothing() {
    let node = Arc::new(Node::default());
    let api = client(start(node.clone()));
    let bodies = [
        json!({"jid": "a@a.example"}),
        json!({"jid": "a@a.example", "password": ""}),
        json!({"jid": "a@a.example", "password": "x".repeat(1_025)}),
        json!({"jid": "a@elsewhere.example", "password": "x"}),
        json!({"jid": "a.example", "password": "x"}),
        json!({"jid": "a@a.example/r", "password": "x"}),
        json!({"jid": "a@a.example", "password": "x", "is_admin": true}),
        json!([{"jid": "a@a.example", "password": "x"}, {"jid": "b@a.example", "password": "x"}]),
        json!({"jid": "a@a.example", "password": 4711}),
    ];
    for body in bodies {
        assert_eq!(code(api.call("POST", "/api/v1/users", Some(&body))), Code::Invalid, "{body}");
    }
    let long = json!({"jid": "a@a.example", "password": "x".repeat(20_000)});
    assert!(api.call("POST", "/api/v1/users", Some(&long)).is_err());
    assert!(node.users.lock().unwrap().is_empty());
    assert_eq!(code(api.call("GET", "/api/v1/users?role=admin", None)), Code::Invalid);
    assert_eq!(code(api.call("GET", "/api/v1/users?domain=elsewhere.example", None)), Code::Invalid);
    assert_eq!(code(api.call("GET", "/api/v2/users", None)), Code::NotFound);
    assert_eq!(code(api.call("DELETE", "/api/v1/users", None)), Code::MethodNotAllowed);
    assert_eq!(code(api.call("POST", "/api/v1/reload", None)), Code::Invalid);
    let secret = api.call("POST", "/api/v1/users", Some(&json!({"jid": "a@a.example", "password": ["canary"]}))).unwrap_err().to_string();
    assert!(!secret.contains("canary"), "{secret}");
}

#[test]
fn strangers_stay_outside() {
    let address = start(Arc::new(Node::default()));
    for token in ["", "wrong", "righ", "rightx"] {
        let stranger = Client { address, token: Secret::new(token) };
        for (method, path) in
            [("GET", "/api/v1/users"), ("GET", "/api/v1/config"), ("POST", "/api/v1/reload"), ("GET", "/nowhere"), ("GET", "/")]
        {
            assert_eq!(code(stranger.call(method, path, None)), Code::Unauthenticated, "{method} {path} {token}");
        }
    }
    let cases = [
        (200, "GET /api/v1/users HTTP/1.1\nHost: localhost\nAuthorization: Bearer right\nConnection: close\n\n"),
        (
            403,
            "GET /api/v1/users HTTP/1.1\nHost: localhost\nOrigin: https://evil.example\nAuthorization: Bearer right\nConnection: close\n\n",
        ),
        (403, "GET /api/v1/users HTTP/1.1\nHost: evil.example\nAuthorization: Bearer right\nConnection: close\n\n"),
        (
            403,
            "POST /api/v1/users HTTP/1.1\nHost: localhost\nContent-Type: text/plain\nContent-Length: 2\nAuthorization: Bearer right\nConnection: close\n\n{}",
        ),
        (
            403,
            "POST /api/v1/users HTTP/1.1\nHost: localhost\nContent-Type: application/x-www-form-urlencoded\nContent-Length: 3\nConnection: close\n\na=b",
        ),
        (401, "GET /api/v1/users HTTP/1.1\nHost: localhost\nAuthorization: Basic right\nConnection: close\n\n"),
        (400, "GET /api/../livez HTTP/1.1\nHost: localhost\nConnection: close\n\n"),
        (400, "GET /%2e%2e/ HTTP/1.1\nHost: localhost\nConnection: close\n\n"),
        (400, "GET /%u002e%u002e/ HTTP/1.1\nHost: localhost\nConnection: close\n\n"),
        (400, "GET //livez HTTP/1.1\nHost: localhost\nConnection: close\n\n"),
        (401, "POST /livez HTTP/1.1\nHost: localhost\nConnection: close\n\n"),
    ];
    for (status, request) in cases {
        assert_eq!(raw(address, request), status, "{request}");
    }
}

#[test]
fn probes_and_scrapers_need_no_token() {
    let node = Arc::new(Node::default());
    let address = start(node.clone());
    let nobody = Client { address, token: Secret::new("") };
    let get = |path: &str| nobody.call("GET", path, None).map(|b| String::from_utf8(b).unwrap());
    assert_eq!(get("/livez").unwrap(), "ok\n");
    assert_eq!(get("/readyz").unwrap(), "ready\n");
    assert_eq!(get("/readyz?verbose=1").unwrap(), "[+] accepting\n[+] store\nready\n");
    metrics::counter!("chappe_test_total").increment(2);
    let text = get("/metrics").unwrap();
    assert!(text.contains("chappe_test_total 2") && text.contains("process_resident_memory_bytes"), "{text}");
    *node.problem.lock().unwrap() = Some("disk full".into());
    assert_eq!(raw(address, "GET /readyz?verbose=1 HTTP/1.1\nHost: pod.cluster.example\nConnection: close\n\n"), 503);
    assert_eq!(get("/livez").unwrap(), "ok\n");
}

#[test]
fn the_configuration_is_shown_without_secrets() {
    let api = client(start(Arc::new(Node::default())));
    let text = String::from_utf8(api.call("GET", "/api/v1/config", None).unwrap()).unwrap();
    let shown: ConfigBody = serde_json::from_str(&text).unwrap();
    assert!(!text.contains("canary"), "{text}");
    let domains = shown.settings.iter().find(|s| s.key == "domains").unwrap();
    assert_eq!((domains.origin.as_str(), domains.live), ("chappe.toml:1", false));
}
