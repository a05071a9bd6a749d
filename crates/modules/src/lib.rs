//! XEPs as data and plain functions: one file each, and one line in the list below.
//!
//! A module sees a context and pushes effects; never the store's driver, a socket or another module's state. It has no
//! clock and no randomness of its own. Start with [`entity::module`], which is the whole of what a module can do; then
//! `ping`, the smallest one here. Client-to-client extensions pass untouched and need no module.

use entity::Pipeline;
use entity::module::Module;

mod forward;
mod rsm;

macro_rules! modules {
    ($($name:ident,)*) => {
        $(pub mod $name;)*

        /// Every module, in the order in which hooks of one phase run.
        static ALL: &[&Module] = &[$(&$name::MODULE),*];
    };
}

modules! {
    disco,
    version,
    ping,
    time,
    register,
    blocking,
    spoof,
    hints,
    sid,
    offline,
    mam,
    carbons,
    csi,
}

/// Every module there is.
pub fn all() -> &'static [&'static Module] {
    ALL
}

/// Every module, as tables.
pub fn pipeline() -> Pipeline {
    Pipeline::new(all())
}

/// Run a script against accounts with every module: see [`entity::testing`].
#[cfg(test)]
pub(crate) fn check(script: &str) {
    entity::testing::check(pipeline(), script);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// A name or a XEP that two modules claim would make the README's table lie.
    #[test]
    fn modules_are_told_apart() {
        let (mut names, mut xeps, mut handlers) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for m in super::all() {
            assert!(names.insert(m.name), "{}", m.name);
            for x in m.xeps {
                assert!(xeps.insert(x.number), "XEP-{:04}", x.number);
                assert!(x.test.starts_with(&format!("modules::{}::tests::", m.name)), "{}", x.test);
                assert_eq!(x.version.split('.').filter(|n| n.parse::<u16>().is_ok()).count(), x.version.split('.').count());
            }
            let path = |name: &str| format!("{}/src/{name}", env!("CARGO_MANIFEST_DIR"));
            let files = [format!("{}.rs", m.name), format!("{}/tests.rs", m.name)].map(|f| std::fs::read_to_string(path(&f)));
            let tests: String = files.into_iter().filter_map(Result::ok).collect();
            for test in m.xeps.iter().filter_map(|x| x.test.rsplit("::").next()) {
                assert!(tests.contains(&format!("#[test]\n    fn {test}()")) || tests.contains(&format!("#[test]\nfn {test}()")), "{test}");
            }
            for iq in m.iqs {
                assert!(handlers.insert((iq.ns, iq.name, format!("{:?}", iq.at))), "{} {}", iq.ns, iq.name);
            }
        }
    }
}
