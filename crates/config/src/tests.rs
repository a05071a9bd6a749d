use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::*;

/// Parses `text` and compares what is wrong with it, a line each.
fn check_faults(text: &str, expected: &[&str]) {
    let faults = match Config::parse(text) {
        Ok(_) => Vec::new(),
        Err(e) => e.problems.iter().map(ToString::to_string).collect(),
    };
    assert_eq!(faults, expected, "{text}");
}

#[test]
fn a_small_file_works() {
    let config = Config::parse(
        r#"
domains = ["Example.org", "chat.example.org"]
data_dir = "/var/lib/chappe"
[listen]
admin = "127.0.0.1:0"
c2s_tls = "off"
[limits]
stanzas_per_connection = "off"
bytes_per_connection = "64KiB/s burst 1MiB"
resume_timeout = "10m"
"#,
    )
    .unwrap();
    assert_eq!(config.domains(), ["example.org", "chat.example.org"]);
    assert_eq!(config.data_dir(), Path::new("/var/lib/chappe"));
    assert!(config.listen.c2s_tls.0.is_empty());
    assert_eq!(config.listen.c2s.0, ["0.0.0.0:5222".parse().unwrap(), "[::]:5222".parse().unwrap()]);
    assert_eq!(config.limits.stanzas_per_connection, None);
    assert_eq!(config.limits.bytes_per_connection, Some(ByteRate(Rate { amount: 65_536, per: Duration::from_secs(1), burst: 1 << 20 })));
    assert_eq!(config.limits.resume_timeout, Duration::from_secs(600));
    assert_eq!(config.origin("limits.resume_timeout").to_string(), "chappe.toml:10");
    assert_eq!(config.origin("limits.idle_ping"), Origin::Default);
}

#[test]
fn faults_name_their_line_and_the_nearest_key() {
    check_faults("", &[]);
    check_faults("\ndomain = 'a'", &["chappe.toml:2: unknown key `domain`, did you mean `domains`?"]);
    check_faults(
        "[limits]\nstanza_byte = '20kB'",
        &["chappe.toml:2: unknown key `limits.stanza_byte`, did you mean `limits.stanza_bytes`?"],
    );
    check_faults("[limit]\nstanza_bytes = '20kB'", &["chappe.toml:1: unknown key `limit`, did you mean `limits`?"]);
    check_faults("[tls]\nmechanisms = 'PLAIN'", &["chappe.toml:2: unknown key `tls.mechanisms`, did you mean `auth.mechanisms`?"]);
    check_faults("xyzzy = 1", &["chappe.toml:1: unknown key `xyzzy`"]);
    check_faults("listen = 5222", &["chappe.toml:1: `listen`: expected a section: write [listen] above its keys"]);
    check_faults("domains = 'a'\ndomains = 'b'", &["chappe.toml:2: duplicate key"]);
    check_faults(
        "[limits]\nresume_timeout = 30\nidle_ping = \"5\"\nstanza_bytes = '9kB'\nroster_items = -1",
        &[
            "chappe.toml:2: `limits.resume_timeout`: expected duration such as \"30s\", \"5m\", \"12h\" or \"30d\", got 30",
            "chappe.toml:3: `limits.idle_ping`: expected \"off\", or a duration such as \"30s\", \"5m\", \"12h\" or \"30d\", got \"5\"",
            "chappe.toml:4: `limits.stanza_bytes`: expected size such as \"64KiB\", \"10kB\" or \"1MiB\" from 10kB to 16MiB, got \"9kB\"",
            "chappe.toml:5: `limits.roster_items`: expected whole number, got -1",
        ],
    );
    check_faults("domains = []", &["chappe.toml:1: `domains`: expected domain such as \"example.org\", or a list of them, got []"]);
    for bad in ["a b", "a@b", "a/b", "a..b", ""] {
        assert!(Config::parse(&format!("domains = ['{bad}']")).is_err(), "{bad}");
    }
    for bad in ["10/s", "0/s burst 1", "1/d burst 1", "x/s burst 1", "1/s burst 0", "1/s  burst"] {
        assert!(Config::parse(&format!("limits.stanzas_per_connection = '{bad}'")).is_err(), "{bad}");
    }
}

#[test]
fn the_shown_file_says_the_same() {
    let config = Config::parse("domains = ['a.example', 'b.example']\n[limits]\nidle_ping='off'\n[log]\nlevel='info,edge=debug'").unwrap();
    let again = Config::parse(&config.to_toml(true)).unwrap();
    assert_eq!(config.changes(&again), []);
    assert!(config.to_toml(true).contains("idle_ping = \"off\"  # chappe.toml:3\n"), "{}", config.to_toml(true));
}

#[test]
fn defaults_are_in_range_and_documented() {
    let reference = reference();
    for opt in OPTS {
        let shown = (opt.get)(&Config::default());
        let mut settings = Settings::default();
        (opt.set)(&mut settings, &shown, &value::Context { base: Path::new("") }).unwrap_or_else(|e| panic!("{}: {e}", opt.key));
        assert_eq!(settings, Settings::default(), "{}", opt.key);
        assert!(reference.contains(&format!("### `{}`", opt.key)), "{}", opt.key);
        assert!(!opt.doc.trim().is_empty(), "{}", opt.key);
    }
}

#[test]
fn a_reload_takes_live_settings_only() {
    let old = Config::parse("domains = 'a'\n[archive]\ndefault = 'never'").unwrap();
    let new = Config::parse("domains = 'b'\n[routing]\nbare_jid = 'all'").unwrap();
    let changed: Vec<_> = old.changes(&new).into_iter().map(|c| (c.key, c.apply)).collect();
    assert_eq!(changed, [("domains", Apply::Restart), ("routing.bare_jid", Apply::Live), ("archive.default", Apply::Live)]);
    let both = old.with_live_of(&new);
    assert_eq!(both.domains(), ["a"]);
    assert_eq!(both.routing.bare_jid, BareJidRouting::All);
    assert_eq!(both.archive.default, ArchiveDefault::Always);
    assert_eq!(both.origin("domains").to_string(), "chappe.toml:1");
    assert_eq!(both.origin("archive.default"), Origin::Default);
}

#[test]
fn secrets_come_from_closed_files_and_are_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "canary-4711\n").unwrap();
    let text = format!("[admin]\ntoken = {{ file = '{}' }}", file.display());

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let fault = Config::parse(&text).unwrap_err().to_string();
    assert!(fault.starts_with("chappe.toml:2: `admin.token`: expected") && fault.contains("mode 0644"), "{fault}");

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let config = Config::parse(&text).unwrap();
    assert_eq!(config.admin.token.fixed().map(Secret::expose), Some("canary-4711"));
    assert!(config.warnings().is_empty());
    let literal = Config::parse("[admin]\ntoken = 'canary-4711'").unwrap();
    assert_eq!(literal.warnings().len(), 1);
    for config in [config, literal] {
        let all = format!("{config:?}{}{:?}", config.to_toml(true), config.shown());
        assert!(!all.contains("canary"), "{all}");
    }
    let bad = Config::parse("[admin]\ntoken = { file = 'x', extra = 'canary' }").unwrap_err().to_string();
    assert!(!bad.contains("canary"), "{bad}");
}

#[test]
fn key_files_are_closed_and_relative_to_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chappe.toml");
    std::fs::write(&path, "[tls]\ncertificates = [{ chain = 'chain.pem', key = 'key.pem' }]").unwrap();
    let key = folder.path().join("key.pem");
    assert!(Config::load(Some(&path)).unwrap_err().to_string().contains("key.pem"));
    std::fs::write(&key, "").unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o604)).unwrap();
    assert!(Config::load(Some(&path)).unwrap_err().to_string().contains("mode 0604"));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let config = Config::load(Some(&path)).unwrap();
    assert_eq!(config.tls.certificates, [CertificateFiles { chain: folder.path().join("chain.pem"), key }]);
}

#[test]
fn overrides_come_last() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    std::fs::write(&path, "[limits]\nroster_items = 7\n").unwrap();
    let set = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    let config = Config::load_with(
        Some(&path),
        &[set("limits.roster_items", "9"), set("listen.c2s", "127.0.0.1:0"), set("auth.mechanisms", "[\"PLAIN\"]")],
    );
    let config = config.unwrap();
    assert_eq!(config.limits.roster_items, 9);
    assert_eq!(config.origin("limits.roster_items"), Origin::CommandLine);
    assert_eq!(config.listen.c2s.0, ["127.0.0.1:0".parse().unwrap()]);
    assert_eq!(config.auth.mechanisms, [Mechanism::Plain]);
    let fault = Config::load_with(Some(&path), &[set("limits.rooster_items", "9")]).unwrap_err().to_string();
    assert_eq!(fault, "--set: unknown key `limits.rooster_items`, did you mean `limits.roster_items`?");
}

#[test]
fn units() {
    for (text, ms) in [("1h30m", 5_400_000), ("1500ms", 1_500), ("1d", 86_400_000), ("1m1s1ms", 61_001)] {
        let config = Config::parse(&format!("limits.idle_ping = '{text}'")).unwrap();
        assert_eq!(config.limits.idle_ping, Some(Duration::from_millis(ms)), "{text}");
    }
    for (size, text) in [(0, "0B"), (10_000, "10kB"), (10_240, "10KiB"), (1 << 20, "1MiB"), (1_001, "1001B"), (3 << 30, "3GiB")] {
        assert_eq!(Bytes(size).to_string(), text);
    }
}

/// The parser does not say where.
#[test]
fn what_is_nested_too_deep_has_a_line() {
    let deep = format!("a{} = 1", ".a".repeat(200));
    for (text, line) in [(deep.clone(), 1), (format!("[log]\nlevel = \"warn\"\n{deep}\n[tls]\n"), 3), (format!("[log]\n\n\n{deep}"), 4)] {
        let problems = Config::parse(&text).unwrap_err().to_string();
        assert!(problems.contains(&format!("chappe.toml:{line}:")) && problems.contains("recursion limit"), "{problems}");
    }
}
