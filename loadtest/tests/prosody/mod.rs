//! A Prosody that tests start, if the system has one.

use loadtest::tls;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Where its modules are that are not its own.
pub const MODULES: &str = "/usr/lib/prosody/modules";
/// The ports of a Prosody: XMPP, with direct TLS, HTTP, HTTPS.
const PORTS: usize = 4;

/// A Prosody; it ends when dropped.
pub struct Prosody {
    pub child: Child,
    pub ports: [u16; PORTS],
    _folder: tempfile::TempDir,
}

impl Drop for Prosody {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_ports() -> [u16; PORTS] {
    let listeners = [(); PORTS].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    listeners.map(|l| l.local_addr().unwrap().port())
}

/// Starts one, unless there is none on this system.
pub fn prosody() -> Option<Prosody> {
    if !Path::new("/usr/bin/prosody").exists() {
        eprintln!("not tested: there is no Prosody here");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let certificate = tls::certificate(folder.path(), "localhost").unwrap();
    let ports = free_ports();
    let fast = plugins(folder.path()).is_some();
    let config = folder.path().join("prosody.cfg.lua");
    std::fs::write(&config, configuration(folder.path(), &certificate, ports, fast)).unwrap();
    let output = std::fs::File::create(folder.path().join("log")).unwrap();
    let mut command = Command::new("prosody");
    command.arg("-F").arg("--config").arg(&config).current_dir(folder.path()).stdin(Stdio::null());
    let child = command.stdout(output.try_clone().unwrap()).stderr(output).spawn().unwrap();
    let server = Prosody { child, ports, _folder: folder };
    for _ in 0..600 {
        if ports.iter().all(|port| TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).is_ok()) {
            return Some(server);
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    panic!("Prosody does not start");
}

/// SASL2 and FAST come from prosody-modules, which are made for a later Prosody than Debian's: four places of them are
/// mended here. COMPAT: Prosody 0.12.3 with prosody-modules of 2023.
fn plugins(folder: &Path) -> Option<()> {
    let read = |name: &str| std::fs::read_to_string(format!("{MODULES}/{name}/{name}.lua")).ok();
    let sasl2 = read("mod_sasl2")?.replace("= origin.conn:ssl_info()", "= origin.conn.ssl_info and origin.conn:ssl_info()");
    let fast = read("mod_sasl2_fast")?
        .replace("username = jid.node(event.stream.from);", "username = 'anybody';")
        .replace("local now = require \"util.time\".now;", "local now = os.time;")
        .replace("auth:get_child_attr(\"user-agent\", nil, \"id\")", "(auth:get_child(\"user-agent\") or auth).attr.id");
    std::fs::create_dir(folder.join("plugins")).unwrap();
    std::fs::write(folder.join("plugins/mod_sasl2.lua"), sasl2).unwrap();
    std::fs::write(folder.join("plugins/mod_sasl2_fast.lua"), fast).unwrap();
    Some(())
}

fn configuration(folder: &Path, certificate: &tls::Certificate, ports: [u16; PORTS], fast: bool) -> String {
    let [c2s, direct, http, https] = ports;
    let (folder, chain, key) = (folder.display(), certificate.chain.display(), certificate.key.display());
    let two = if fast { r#"modules_enabled = { "sasl2", "sasl2_bind2", "sasl2_fast" }"# } else { "" };
    format!(
        r#"run_as_root = true
daemonize = false
plugin_paths = {{ "{folder}/plugins" }}
pidfile = "{folder}/prosody.pid"
data_path = "{folder}/data"
certificates = "{folder}"
log = {{ {{ levels = {{ min = "warn" }}, to = "console" }} }}
network_backend = "epoll"
interfaces = {{ "127.0.0.1" }}
http_interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {c2s} }}
c2s_direct_tls_ports = {{ {direct} }}
http_ports = {{ {http} }}
https_ports = {{ {https} }}
modules_disabled = {{ "s2s" }}
modules_enabled = {{
  "roster", "saslauth", "tls", "disco", "ping", "register_ibr", "smacks", "offline", "mam", "websocket", "http_openmetrics"
}}
c2s_require_encryption = false
consider_websocket_secure = true
openmetrics_allow_cidr = "127.0.0.1/8"
authentication = "internal_hashed"
password_hash = "SHA-1"
storage = "internal"
allow_registration = true
default_archive_policy = true
ssl = {{ certificate = "{chain}"; key = "{key}" }}
c2s_direct_tls_ssl = ssl
https_ssl = ssl
VirtualHost "two.localhost"
  {two}
VirtualHost "localhost"
Component "rooms.localhost" "muc"
"#
    )
}
