//! Prosody from Debian, as an ordinary process with a configuration of its own.

use std::process::Command;

use anyhow::Result;

use super::Server;

pub(super) fn configure(server: &Server) -> Result<()> {
    let config = &server.config;
    let folder = server.folder().display();
    let text = format!(
        r#"
run_as_root = true
daemonize = false
pidfile = "{folder}/prosody.pid"
data_path = "{folder}/data"
log = {{ {{ levels = {{ min = "info" }}, to = "console" }} }}
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {c2s} }}
c2s_direct_tls_ports = {{ {c2s_tls} }}
modules_disabled = {{ "s2s", "http", "http_errors", "http_files" }}
modules_enabled = {{
  "roster", "saslauth", "tls", "disco", "ping", "time", "version", "register", "smacks", "mam", "carbons", "blocklist", "csi_simple"
}}
c2s_require_encryption = true
authentication = "internal_hashed"
storage = "internal"
allow_registration = {registration}
default_archive_policy = true
archive_expires_after = "never"
archive_cleanup_interval = 86400
max_archive_query_results = 50
smacks_hibernation_time = {resume}
limits = {{}}
ssl = {{ certificate = "{chain}"; key = "{key}" }}
c2s_direct_tls_ssl = {{ certificate = "{chain}"; key = "{key}" }}
{extra}
VirtualHost "{domain}"
"#,
        c2s = server.ports.c2s.port(),
        c2s_tls = server.ports.c2s_tls.port(),
        registration = config.in_band_registration,
        resume = config.resume_timeout,
        chain = server.certificates.chain.display(),
        key = server.certificates.key.display(),
        extra = config.extra,
        domain = config.domain,
    );
    std::fs::write(server.config_file(), text)?;
    Ok(())
}

pub(super) fn command(server: &Server) -> Command {
    let mut command = Command::new("prosody");
    command.arg("-F").arg("--config").arg(server.config_file());
    command
}
