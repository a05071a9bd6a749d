//! A program for the layer's tests: it does what its arguments say and says how each went, one line each.
#![allow(clippy::disallowed_methods, reason = "its clock is what is tested")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

fn one(words: &[&str]) -> io::Result<String> {
    let number = |n: usize| words[n].parse::<u64>().map_err(io::Error::other);
    let text = |count: u64| words.last().unwrap_or(&"?").repeat(count as usize);
    match words {
        // write FILE AT COUNT TEXT
        ["write", file, ..] => {
            let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(file)?;
            file.seek(SeekFrom::Start(number(2)?))?;
            file.write_all(text(number(3)?).as_bytes())?;
        }
        // append FILE COUNT TEXT
        ["append", file, ..] => OpenOptions::new().append(true).open(file)?.write_all(text(number(2)?).as_bytes())?,
        ["replace", file, content] => fs::write(file, content)?,
        ["size", file, _] => OpenOptions::new().write(true).open(file)?.set_len(number(2)?)?,
        ["sync", file] => File::open(file)?.sync_all()?,
        ["data-sync", file] => File::open(file)?.sync_data()?,
        ["rename", from, to] => fs::rename(from, to)?,
        // Without libc.
        ["raw-rename", from, to] => rustix::fs::rename(*from, *to)?,
        ["copy", from, to] => drop(fs::copy(from, to)?),
        ["remove", file] => fs::remove_file(file)?,
        ["make", folder] => fs::create_dir(folder)?,
        ["remove-all", folder] => fs::remove_dir_all(folder)?,
        ["link", from, to] => fs::hard_link(from, to)?,
        ["read", file] => {
            let mut content = String::new();
            File::open(file)?.read_to_string(&mut content)?;
            return Ok(content);
        }
        ["free", file] => return Ok(rustix::fs::statvfs(*file).map(|s| s.f_bavail * s.f_frsize)?.to_string()),
        ["clock"] => return Ok(SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?.as_secs().to_string()),
        ["abort"] => std::process::abort(),
        _ => return Err(io::Error::other(format!("{words:?}"))),
    }
    Ok("ok".into())
}

fn main() {
    for argument in std::env::args().skip(1) {
        let words: Vec<&str> = argument.split(' ').collect();
        match one(&words) {
            Ok(said) => println!("{said}"),
            Err(e) => println!("{:?}", e.raw_os_error().map_or(e.to_string(), |n| format!("error {n}"))),
        }
    }
}
