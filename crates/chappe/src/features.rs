//! What the server speaks, as the table of the README: from the modules' own data, and from the list below for what lies
//! under the modules.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use entity::module::{Module, Xep};

/// One specification. A test is a Rust path from its crate (of a function, or of a module full of tests), or
/// `file::function` outside the crates.
struct Row {
    number: u16,
    version: &'static str,
    title: &'static str,
    tests: Vec<&'static str>,
}

/// RFCs have no module; these are theirs, in the order of their numbers.
const RFCS: &[(u16, &str, &[&str])] = &[
    (4616, "SASL PLAIN", &["sasl::server::tests", LOGINS]),
    (5802, "SCRAM-SHA-1, also -PLUS", &["sasl::server::tests", LOGINS]),
    (5929, "Channel binding tls-server-end-point", &["edge::tls::tests"]),
    (6120, "XMPP: Core", &["edge::core::tests", "tests/tests/session.rs::starttls_and_direct_tls"]),
    (
        6121,
        "XMPP: Instant Messaging and Presence",
        &["entity::roster::tests", "entity::subscription", "tests/tests/session.rs::subscription_presence_and_messages"],
    ),
    (7590, "Use of TLS in XMPP", &["edge::core::tests::login::features_of_each_level", "chappe::tls::tests::the_lowest_version_is_kept"]),
    (7622, "XMPP: Address Format", &["types::jid::tests"]),
    (7677, "SCRAM-SHA-256, also -PLUS", &["sasl::server::tests", LOGINS]),
    (8265, "PRECIS: user names and passwords", &["types::jid::tests", "sasl::server::tests"]),
    (9266, "Channel binding tls-exporter", &["edge::tls::tests", LOGINS]),
];

const LOGINS: &str = "tests/tests/session.rs::every_mechanism_logs_in_and_refuses";

/// What lies in streams, listeners and rosters, below every module. A test that stands in `edge::core::XEPS` is added.
const BELOW_MODULES: &[(u16, &str, &str, &[&str])] = &[
    (77, "2.4", "In-Band Registration", &["tests/tests/session.rs::in_band_registration"]),
    (115, "1.6.0", "Entity Capabilities", &["tests/tests/session.rs::capabilities_in_the_stream_features"]),
    (198, "1.6.3", "Stream Management", &["tests/tests/session.rs::a_cut_session_resumes"]),
    (237, "1.3", "Roster Versioning", &["entity::roster::tests::unknown_versions_get_the_full_roster"]),
    (352, "1.0.0", "Client State Indication", &[]),
    (368, "1.1.0", "SRV records for XMPP over TLS", &["tests/tests/session.rs::starttls_and_direct_tls"]),
    (440, "1.0.0", "SASL Channel-Binding Type Capability", &[]),
    (478, "0.2.0", "Stream Limits Advertisement", &[]),
];

/// Transcripts of `tests/scripts/` that show a specification: those whose first line names it.
const SCRIPTS: &[(u16, &[&str])] = &[
    (
        6120,
        &[
            "bind",
            "bind-conflict-override",
            "bind-conflict-refuse",
            "bind-conflict-replace",
            "from",
            "iq-between-users",
            "iq-rules",
            "leaks",
            "login",
            "order",
            "stanza-before-bind",
            "stream-errors",
            "stream-features",
            "to",
        ],
    ),
    (
        6121,
        &[
            "bare-to-all",
            "blocking-leaks",
            "iq-between-users",
            "messages-to-bare",
            "messages-to-bare-offline",
            "messages-to-full",
            "messages-to-gone-resource",
            "messages-to-nobody",
            "presence",
            "presence-cut",
            "presence-directed",
            "presence-errors",
            "presence-probe",
            "priorities",
            "priorities-tie",
            "roster",
            "roster-errors",
            "roster-remove",
            "roster-versioning",
            "subscribe",
            "subscribe-both",
            "subscribe-cancel",
            "subscribe-deny",
            "subscribe-offline",
            "subscribe-once",
            "subscribe-preapproval-cancelled",
            "subscribe-preapproved",
            "subscribe-unknown",
            "subscribe-withdrawn",
            "subscribed-unasked",
            "unsubscribe",
        ],
    ),
    (7622, &["addresses", "to"]),
    (30, &["disco"]),
    (59, &["mam"]),
    (77, &["password", "registration", "registration-closed"]),
    (92, &["version"]),
    (115, &["disco", "stream-features"]),
    (160, &["offline"]),
    (191, &["blocking", "blocking-domain", "blocking-leaks"]),
    (
        198,
        &[
            "order",
            "sm-ack",
            "sm-backwards",
            "sm-expired",
            "sm-nonsense",
            "sm-old-version",
            "sm-resume",
            "sm-resume-in-flight",
            "sm-resume-refused",
            "sm-resume-twice",
            "sm-server-killed",
            "sm-server-restarted",
            "sm-too-high",
            "sm-without-resume",
        ],
    ),
    (199, &["ping"]),
    (202, &["time"]),
    (203, &["offline"]),
    (237, &["roster-versioning"]),
    (280, &["carbons", "carbons-own"]),
    (297, &["mam"]),
    (313, &["mam", "mam-filters", "mam-metadata", "mam-strangers", "mam-what"]),
    (334, &["hints", "mam-what"]),
    (352, &["csi"]),
    (359, &["stanza-ids"]),
    (441, &["mam-prefs"]),
    (478, &["stream-features"]),
];

const BEGIN: &str = "<!-- features: begin -->\n";
const END: &str = "<!-- features: end -->";

/// The table, in Markdown.
pub fn table(modules: &[&Module]) -> String {
    let mut out = String::from("| specification | version | title | proven by |\n|---|---|---|---|\n");
    for (number, title, tests) in RFCS {
        let link = format!("[RFC {number}](https://www.rfc-editor.org/rfc/rfc{number})");
        let _ = writeln!(out, "| {link} | | {title} | {} |", proof(*number, tests));
    }
    for Row { number, version, title, tests } in xeps(modules) {
        let link = format!("[XEP-{number:04}](https://xmpp.org/extensions/xep-{number:04}.html)");
        let _ = writeln!(out, "| {link} | {version} | {title} | {} |", proof(number, &tests));
    }
    out
}

/// Numbers of RFCs and of XEPs are far from each other.
fn scripts(number: u16) -> &'static [&'static str] {
    SCRIPTS.iter().find(|(n, _)| *n == number).map_or(&[], |(_, names)| names)
}

fn proof(number: u16, tests: &[&str]) -> String {
    let mut all: Vec<String> = tests.iter().map(|t| format!("`{t}`")).collect();
    if !scripts(number).is_empty() {
        all.push(format!("[transcripts](tests/scripts): {}", scripts(number).join(", ")));
    }
    all.join("<br>")
}

/// Every XEP once, by number, with all tests that prove it.
fn xeps(modules: &[&Module]) -> Vec<Row> {
    let of_module = |x: &Xep| Row { number: x.number, version: x.version, title: x.title, tests: vec![x.test] };
    let mut all: Vec<Row> = modules.iter().flat_map(|m| m.xeps).map(of_module).collect();
    let below = BELOW_MODULES.iter().map(|(number, version, title, tests)| Row { number: *number, version, title, tests: tests.to_vec() });
    all.extend(below);
    for (number, _, test) in edge::core::XEPS {
        all.iter_mut().filter(|r| r.number == *number).take(1).for_each(|r| r.tests.push(test));
    }
    all.sort_by_key(|r| r.number);
    // Of a XEP that is half in a module and half below it, the tests of both.
    all.dedup_by(|second, first| {
        first.number == second.number && {
            first.tests.append(&mut second.tests);
            true
        }
    });
    all
}

/// Puts the table into the marked section of a file.
///
/// # Errors
/// If the file has no such section or cannot be written.
pub fn write(path: &Path, modules: &[&Module]) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let new = replaced(&text, &table(modules)).with_context(|| format!("{} has no section between {BEGIN}and {END}", path.display()))?;
    std::fs::write(path, new).with_context(|| format!("{} cannot be written", path.display()))
}

fn replaced(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    #[test]
    fn the_readme_has_the_table_of_the_code() {
        let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
        let current = replaced(&readme, &table(modules::all())).unwrap();
        assert!(current == readme, "run `cargo run -p chappe -- features --write README.md`");
    }

    /// The source that a Rust path leads to, and what is left of the path: nothing or a function.
    fn find(path: &str) -> Option<(std::path::PathBuf, &str)> {
        if let Some((file, name)) = path.split_once(".rs::") {
            return Some((root().join(format!("{file}.rs")), name));
        }
        let (name, mut rest) = path.split_once("::")?;
        let mut folder = root().join("crates").join(name).join("src");
        let mut file = None;
        loop {
            let (next, after) = rest.split_once("::").unwrap_or((rest, ""));
            let found = [folder.join(format!("{next}.rs")), folder.join(next).join("mod.rs")].into_iter().find(|f| f.exists());
            let Some(found) = found else {
                // A module within the file.
                return Some((file?, rest.strip_prefix("tests::").unwrap_or(if rest == "tests" { "" } else { rest })));
            };
            file = Some(found);
            if after.is_empty() {
                return file.map(|f| (f, ""));
            }
            (folder, rest) = (folder.join(next), after);
        }
    }

    #[test]
    fn every_row_names_a_test_that_is_there() {
        let xeps = xeps(modules::all());
        let rows = RFCS.iter().map(|(n, _, tests)| (*n, *tests)).chain(xeps.iter().map(|x| (x.number, x.tests.as_slice())));
        for (number, tests) in rows {
            assert!(!tests.is_empty(), "{number} has no test");
            for test in tests {
                let (file, name) = find(test).unwrap_or_else(|| panic!("{test}: no such file"));
                let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{test}: {}: {e}", file.display()));
                assert!(name.is_empty() || text.contains(&format!("fn {name}(")), "{} has no {name}", file.display());
                // A module of modules has its tests in its files.
                let tests_here = text.contains("#[test]") || text.contains("#[tokio::test") || text.contains("mod ");
                assert!(tests_here, "{} has no test", file.display());
            }
        }
    }

    /// What a transcript says in its first line that it shows, the table says too, and nothing else.
    #[test]
    fn every_row_names_its_transcripts() {
        let mut titles: std::collections::BTreeMap<u16, std::collections::BTreeSet<String>> = Default::default();
        for entry in std::fs::read_dir(root().join("tests/scripts")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "scs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let title = text.lines().next().unwrap();
            let named = title.split("RFC ").skip(1).chain(title.split("XEP-").skip(1));
            for number in named.filter_map(|rest| rest.get(..4)?.parse().ok()) {
                titles.entry(number).or_default().insert(path.file_stem().unwrap().to_str().unwrap().to_owned());
            }
        }
        let xeps = xeps(modules::all());
        let rows: Vec<u16> = RFCS.iter().map(|(n, ..)| *n).chain(xeps.iter().map(|x| x.number)).collect();
        titles.retain(|number, _| rows.contains(number));
        let listed = SCRIPTS.iter().map(|(n, names)| (*n, names.iter().map(|s| (*s).to_owned()).collect())).collect();
        assert_eq!(titles, listed);
    }

    #[test]
    fn the_edge_names_no_xep_without_a_row() {
        for (number, version, _) in edge::core::XEPS {
            assert!(BELOW_MODULES.iter().any(|(n, v, ..)| n == number && v == version), "XEP-{number:04} {version}");
        }
    }

    #[test]
    fn a_section_is_replaced_and_nothing_else() {
        let text = format!("a\n{BEGIN}old\n{END}\nb\n");
        assert_eq!(replaced(&text, "new\n").unwrap(), format!("a\n{BEGIN}new\n{END}\nb\n"));
        assert_eq!(replaced("a", "new"), None);
    }
}
