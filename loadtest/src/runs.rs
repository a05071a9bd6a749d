//! Outcomes that were kept in files, for those that read them again.

use crate::figures::Row;
use crate::scenario::Outcome;
use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize as _;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Runs of one scenario: by server, a run for each round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    /// What was done; empty if the file does not tell.
    pub title: String,
    /// Each server's runs.
    pub servers: Vec<(String, Vec<Outcome>)>,
}

/// What a file holds: `figures.json`, or outcomes of `--json`, one behind the other or in arrays, which are rounds of one
/// server that is named like the file.
///
/// # Errors
/// No such file, or something else in it.
pub fn read(file: &Path) -> Result<Vec<Group>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
    let name = file.file_stem().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    parse(&text, &name).with_context(|| format!("{}", file.display()))
}

fn parse(text: &str, name: &str) -> Result<Vec<Group>> {
    let (mut groups, mut rounds) = (Vec::new(), Vec::new());
    for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        match value? {
            Value::Object(mut fields) if fields.contains_key("rows") => {
                let rows = Vec::<Row>::deserialize(fields.remove("rows").unwrap_or_default())?;
                groups.extend(rows.into_iter().map(|row| Group { title: row.key, servers: row.runs.into_iter().collect() }));
            }
            Value::Array(all) => rounds.extend(all.into_iter().map(outcome).collect::<Result<Vec<_>>>()?),
            one => rounds.push(outcome(one)?),
        }
    }
    if !rounds.is_empty() {
        groups.push(Group { title: String::new(), servers: vec![(name.to_owned(), rounds)] });
    }
    ensure!(!groups.is_empty(), "no outcome in it");
    Ok(groups)
}

fn outcome(value: Value) -> Result<Outcome> {
    if !value.get("count").is_some_and(Value::is_u64) {
        bail!("not an outcome: {}", value.to_string().chars().take(80).collect::<String>());
    }
    Ok(Outcome::deserialize(value)?)
}

/// Groups of the same title become one; servers of the same name in one group keep apart by a number.
pub fn merge(all: Vec<Group>) -> Vec<Group> {
    let mut merged: Vec<Group> = Vec::new();
    for group in all {
        match merged.iter_mut().find(|g| g.title == group.title) {
            Some(known) => known.servers.extend(group.servers),
            None => merged.push(group),
        }
    }
    for group in &mut merged {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for (name, _) in &mut group.servers {
            let n = seen.entry(name.clone()).and_modify(|n| *n += 1).or_insert(1);
            if *n > 1 {
                *name = format!("{name} ({n})");
            }
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_files_hold() {
        let one = r#"{"count": 1, "rate": 2.0}"#;
        let several = parse(&format!("{one}\n{one}[{one}]"), "a").unwrap();
        assert_eq!((several.len(), several[0].servers[0].0.as_str(), several[0].servers[0].1.len()), (1, "a", 3));
        let figures = parse(&format!(r#"{{"date": "", "rows": [{{"key": "chat", "runs": {{"X": [{one}]}}}}]}}"#), "a").unwrap();
        assert_eq!((figures[0].title.as_str(), figures[0].servers[0].0.as_str()), ("chat", "X"));
        for bad in ["", "{}", "[]", "7", "{\"count\": \"1\"}", "{"] {
            assert!(parse(bad, "a").is_err(), "{bad}");
        }
    }

    #[test]
    fn the_same_name_twice() {
        let group = |name: &str| Group { title: String::new(), servers: vec![(name.into(), vec![])] };
        let merged = merge(vec![group("a"), group("b"), group("a")]);
        let names: Vec<_> = merged[0].servers.iter().map(|s| s.0.as_str()).collect();
        assert_eq!((merged.len(), names), (1, vec!["a", "b", "a (2)"]));
    }
}
