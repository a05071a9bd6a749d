//! ejabberd without `ejabberdctl`: its own folder, Mnesia directory and ports, and a node that needs no `epmd`.

use super::{DOMAIN, Ports, Setup, Tuning};
use crate::tls::Certificate;
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Mnesia's tables belong to a node, so a copy of them wants a node of the same name. Only one node of that name can be known
/// to an `epmd`; without one there can be any number, each with its own port.
const NODE: &str = "load@127.0.0.1";

/// The options of `ejabberdctl`, and `+sbwt none …`: schedulers that have nothing to do sleep at once and do not spin, so that
/// what is counted is work.
const ERLANG: &str = "+K true +P 250000 +Q 65536 +sbwt none +sbwtdcpu none +sbwtdio none";

/// Where Debian has put it: a folder among Erlang's libraries.
fn library() -> Result<PathBuf> {
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().filter_map(|e| Some(e.ok()?.path())).collect::<Vec<_>>();
    let mut found = entries(Path::new("/usr/lib")).into_iter().flat_map(|folder| entries(&folder));
    let ours = |path: &PathBuf| path.join("ebin/ejabberd.app").is_file();
    found.find(ours).context("ejabberd is not installed: no /usr/lib/*/ejabberd-*/ebin/ejabberd.app")
}

/// `ejabberd 23.01-1, Erlang … emulator version 13.1.5`
pub(super) fn version() -> Result<String> {
    let app = std::fs::read_to_string(library()?.join("ebin/ejabberd.app"))?;
    let version = app.split_once("{vsn,\"").and_then(|(_, rest)| rest.split_once('"')).context("a version in ejabberd.app")?.0;
    let output = Command::new("erl").arg("+V").output().context("erl")?;
    Ok(format!("ejabberd {version}, {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Starts it in the foreground; `erl` becomes `beam.smp`, so the process that is started is the server.
pub(super) fn command(folder: &Path, config: &Path, setup: Setup, ports: &Ports) -> Result<Command> {
    let data = folder.join("data");
    std::fs::create_dir_all(&data)?;
    let library = library()?;
    // One scheduler wakes nobody else for a message: less CPU for each, fewer a second.
    let schedulers: &[_] = if setup.tuning == Tuning::AllCpus { &[] } else { &["+S", "1:1"] };
    let mut command = Command::new("erl");
    command
        .env("HOME", folder)
        .env("ERL_LIBS", library.parent().context("a folder of libraries")?)
        .env("ERL_CRASH_DUMP", folder.join("crash"))
        .env("ERL_MAX_ETS_TABLES", "1400")
        .env("EJABBERD_CONFIG_PATH", config)
        .env("EJABBERD_LOG_PATH", folder.join("ejabberd.log"))
        .args(ERLANG.split(' '))
        .args(schedulers)
        .args(["-name", NODE, "-setcookie", "loadtest", "-start_epmd", "false", "-erl_epmd_port", &ports[2].port().to_string()])
        .args(["-kernel", "inet_dist_use_interface", "{127,0,0,1}", "-mnesia", "dir", &format!("{data:?}")])
        .args(["-s", "ejabberd", "-noinput"]);
    Ok(command)
}

/// No shaper, no limit, no service that the others have not: see `docs/figures.md`.
pub(super) fn config(certificate: &Certificate, setup: Setup, ports: &Ports) -> String {
    format!(
        r#"hosts: [{DOMAIN}]
loglevel: error
certfiles: [{chain:?}, {key:?}]
acme: {{auto: false}}
auth_method: internal
auth_password_format: scram
auth_scram_hash: sha256
default_db: mnesia
registration_timeout: infinity
s2s_access: none
listen:
  - {{port: {c2s}, ip: "127.0.0.1", module: ejabberd_c2s, starttls: true, backlog: 1024, max_stanza_size: 262144}}
  - {{port: {tls}, ip: "127.0.0.1", module: ejabberd_c2s, tls: true, backlog: 1024, max_stanza_size: 262144}}
modules:
  mod_blocking: {{}}
  mod_carboncopy: {{}}
  mod_client_state: {{}}
  mod_disco: {{}}
  mod_ping: {{}}
  mod_privacy: {{}}
  mod_register: {{ip_access: all}}
  mod_roster: {{}}
  mod_stream_mgmt: {{}}
  mod_time: {{}}
  mod_version: {{}}
{mam}"#,
        chain = certificate.chain,
        key = certificate.key,
        c2s = ports[0].port(),
        tls = ports[1].port(),
        mam = if setup.archive { "  mod_mam: {default: always, db_type: mnesia}\n" } else { "" },
    )
}
