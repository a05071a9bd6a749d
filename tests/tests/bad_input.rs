//! The corpus of bad input (`tests/corpus`), in short: `cargo run -p chappe-tests --bin bad-input` is the long form.

use anyhow::Result;
use chappe_tests::corpus::run::{Options, is_good, run_all, table};
use chappe_tests::corpus::{Absent, Group, check_rows};

#[test]
fn every_row_has_an_entry_or_a_reason() -> Result<()> {
    check_rows(&Group::read_all()?, &Absent::read()?)
}

#[tokio::test]
async fn bad_input_does_no_harm() -> Result<()> {
    let options = Options { seed: chappe_tests::random() >> 16, ..Options::default() };
    let scores = run_all(&Group::read_all()?, &options).await?;
    let table = table(&scores);
    println!("seed {}\n{table}", options.seed);
    assert!(is_good(&scores), "seed {}\n{table}", options.seed);
    Ok(())
}
