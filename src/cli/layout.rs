//! Where in a data directory the logs of its shards lie.
//!
//! A single shard has its log in the data directory itself. Of several each has a directory there, `shard-0` and so on, and
//! the file `shards` keeps their number: which one a namespace is in follows from it. Once all of them have a log, each gets
//! a file `shard` with its own number. So a shard that is gone or took another's place is told from a first start that was
//! cut short, and from a directory of a version that left no such file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::log::LogError;

const NUMBER_FILE: &str = "shards";
const SHARD_FILE: &str = "shard";

/// How many shards a data directory was made for, if it has noted that or has a log.
///
/// # Errors
/// When it cannot be read, its note is none, or it has shards and no note.
pub(super) fn shards_of(directory: &Path) -> anyhow::Result<Option<u64>> {
    let path = directory.join(NUMBER_FILE);
    if let Some(text) = read_note(&path)? {
        let number = text.trim().parse().ok().filter(|&number| number > 1);
        let number = number.with_context(|| {
            let path = path.display();
            format!("{path} holds {text:?}, not a number of shards: write into it how many directories shard-N there are")
        })?;
        return Ok(Some(number));
    }
    let shards = shard_directories(directory)?;
    ensure!(
        shards == 0,
        "{} has directories of {shards} shards, but the file {} is missing, which says how many there are: put it \
         back, or write {shards} into it",
        directory.display(),
        path.display()
    );
    Ok(has_log(directory)?.then_some(1))
}

/// How many shards there are by the names of the directories.
fn shard_directories(directory: &Path) -> anyhow::Result<u64> {
    let numbers = names(directory)?.into_iter().filter_map(|name| name.strip_prefix("shard-")?.parse().ok());
    Ok(numbers.max().map_or(0, |highest: u64| highest.saturating_add(1)))
}

/// The names of what is in a directory; none where there is no such directory.
fn names(directory: &Path) -> anyhow::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(cannot_read(directory))?,
    };
    let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    Ok(entries.map(name).collect::<io::Result<_>>().map_err(cannot_read(directory))?)
}

/// Whether a single shard has its log here.
fn has_log(directory: &Path) -> anyhow::Result<bool> {
    Ok(!names(&directory.join("log"))?.is_empty())
}

/// Refuses a directory of several shards of which one is gone or in the place of another.
///
/// # Errors
/// That, or it cannot be read.
pub(super) fn check_homes(directory: &Path, shards: u64) -> anyhow::Result<()> {
    let homes = homes(directory, shards);
    if homes.len() == 1 {
        return Ok(());
    }
    let mut is_noted = false;
    for (home, number) in homes.iter().zip(0..) {
        is_noted |= check_own_number(home, number)?;
    }
    let is_segment = |name: &String| Path::new(name).extension().is_some_and(|extension| extension == "seg");
    let (mut gone, mut has_segments) = (None, is_noted);
    for home in &homes {
        let log = home.join("log");
        let is_empty = !names(&log)?.iter().any(is_segment);
        has_segments |= !is_empty;
        // Of a first start that was cut short some shards have a log, and the others a place for it.
        if gone.is_none() && is_empty && (is_noted || !log.exists()) {
            gone = Some(home);
        }
    }
    let Some(gone) = gone.filter(|_| has_segments) else { return Ok(()) };
    bail!(
        "{gone} has no log, and is one of {shards} shards: restore it from a copy; or, to go on without the messages \
         that it held, make the directory {gone}/log and remove the files {}/shard-*/{SHARD_FILE}",
        directory.display(),
        gone = gone.display()
    )
}

/// Whether the shard's directory has noted its number; refuses another one's.
fn check_own_number(home: &Path, number: u64) -> anyhow::Result<bool> {
    let path = home.join(SHARD_FILE);
    let Some(text) = read_note(&path)? else { return Ok(false) };
    ensure!(
        text.trim().parse() == Ok(number),
        "{} says {:?}, but the directory has the name of shard {number}: give each directory the name that its own \
         file says, or restore {} from a copy",
        path.display(),
        text.trim(),
        home.display()
    );
    Ok(true)
}

/// Notes in the directory of each of several shards which one it is. All of them have a log now.
///
/// # Errors
/// When it cannot be written.
pub(super) fn note_homes(directory: &Path, shards: u64) -> anyhow::Result<()> {
    if shards == 1 {
        return Ok(());
    }
    for (home, number) in homes(directory, shards).iter().zip(0..) {
        if !check_own_number(home, number)? {
            write_note(&home.join(SHARD_FILE), number)?;
        }
    }
    Ok(())
}

/// Notes that a new data directory is for so many shards, whole or not at all, before there is a log that depends on it. A
/// single one needs no note.
///
/// # Errors
/// When it cannot be written.
pub(super) fn note_shards(directory: &Path, shards: u64) -> anyhow::Result<()> {
    if shards == 1 {
        return Ok(());
    }
    write_note(&directory.join(NUMBER_FILE), shards)
}

/// What a note holds, if there is one.
fn read_note(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot_read(path)(error).into()),
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
    }
}

fn cannot_read(path: &Path) -> impl Fn(io::Error) -> LogError {
    |cause| LogError::Directory { directory: path.display().to_string(), what: "reading", cause }
}

/// Writes a note whole or not at all.
fn write_note(path: &Path, number: u64) -> anyhow::Result<()> {
    let draft = path.with_extension("draft");
    let write = || {
        let mut file = File::create(&draft)?;
        writeln!(file, "{number}")?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Where each of so many shards has its log, in their order.
pub(super) fn homes(directory: &Path, shards: u64) -> Vec<PathBuf> {
    match shards {
        0 | 1 => vec![directory.to_owned()],
        _ => (0..shards).map(|shard| directory.join(format!("shard-{shard}"))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_tells_for_how_many_shards_it_is() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path();
        let shards = || shards_of(directory).map_err(|error| error.to_string());
        assert_eq!(shards(), Ok(None));
        note_shards(directory, 1).unwrap();
        fs::create_dir(directory.join("log")).unwrap();
        assert_eq!(shards(), Ok(None), "nothing was written yet");
        fs::write(directory.join("log/000000000001.seg"), "").unwrap();
        assert_eq!(shards(), Ok(Some(1)));
        note_shards(directory, 4).unwrap();
        assert_eq!(shards(), Ok(Some(4)));
        fs::write(directory.join(NUMBER_FILE), "many").unwrap();
        let told = shards().unwrap_err();
        assert!(told.contains("\"many\"") && told.contains("how many directories shard-N"), "{told}");
    }

    fn put_log(home: &Path) {
        fs::create_dir_all(home.join("log")).unwrap();
        fs::write(home.join("log/000000000001.seg"), "").unwrap();
    }

    #[test]
    fn a_first_start_may_be_cut_short_at_any_moment_and_a_shard_that_goes_later_is_missed() {
        let data = tempfile::tempdir().unwrap();
        let directory = data.path();
        let homes = homes(directory, 3);
        let check = || check_homes(directory, 3).map_err(|error| error.to_string());
        note_shards(directory, 3).unwrap();
        assert_eq!(check(), Ok(()));
        for home in &homes {
            fs::create_dir_all(home.join("log")).unwrap();
            assert_eq!(check(), Ok(()));
        }
        for home in homes.iter().rev() {
            put_log(home);
            assert_eq!(check(), Ok(()));
        }
        let gone = format!("{} has no log", homes[1].display());
        // A directory of a version that left no file in each shard's.
        fs::remove_dir_all(&homes[1]).unwrap();
        assert!(check().unwrap_err().contains(&gone));
        put_log(&homes[1]);
        for home in &homes {
            write_note(&home.join(SHARD_FILE), 7).unwrap();
            assert!(check().is_err());
            fs::remove_file(home.join(SHARD_FILE)).unwrap();
        }
        note_homes(directory, 3).unwrap();
        assert_eq!(check(), Ok(()));
        fs::remove_file(homes[1].join("log/000000000001.seg")).unwrap();
        assert!(check().unwrap_err().contains(&gone), "the place for it is not enough now");
        // What the text says to do to go on without it.
        homes.iter().for_each(|home| fs::remove_file(home.join(SHARD_FILE)).unwrap());
        assert_eq!(check(), Ok(()));
    }
}
