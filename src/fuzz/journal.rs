//! The file of a run, whole, torn and damaged. A line of the input that is the JSON of a record (`{"type":…}`) stands in the
//! file with its checksum, as nobody guesses that; any other line as it is.

use std::fs;

use jiff::Timestamp;

use crate::journal::{self, Error, Facts, Journal, Record, decode, encode, path_of, replay};

pub fn run(input: &[u8]) {
    let file = file(input);
    match replay(&file, drop) {
        Ok((ledger, good)) => {
            let good = usize::try_from(good).expect("it is a part of what is in memory");
            assert!(good <= file.len());
            assert_eq!(replay(&file[..good], drop), Ok((ledger, good as u64)));
            prefixes(&file[..good]);
        }
        Err(journal::Broken::Damaged { line }) => {
            let lines = file.split_inclusive(|byte| *byte == b'\n').count();
            assert!(1 <= line && line < lines, "the last one would be torn");
        }
        Err(journal::Broken::Newer { format }) => assert!(format > journal::FORMAT),
        Err(journal::Broken::Illegal(_)) => {}
    }
    on_disk(&file);
}

fn file(input: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    for line in input.split_inclusive(|byte| *byte == b'\n') {
        let body = line.strip_suffix(b"\n").unwrap_or(line);
        match std::str::from_utf8(body) {
            Ok(body) if body.starts_with("{\"type\":") => {
                let crc = crc32c::crc32c(body.as_bytes());
                file.extend(format!("{{\"crc\":\"{crc:08x}\",\"record\":{body}}}").into_bytes());
                file.extend(&line[body.len()..]);
            }
            _ => file.extend(line),
        }
    }
    file
}

/// Wherever whole records are torn, what is read is the records before that, and each is written as it was read.
fn prefixes(whole: &[u8]) {
    let mut again = Vec::new();
    let mut end = 0;
    let mut before = replay(b"", drop).expect("an empty journal is one");
    for line in whole.split_inclusive(|byte| *byte == b'\n') {
        for cut in [1, line.len() / 2, line.len() - 1] {
            assert_eq!(replay(&whole[..end + cut], drop).as_ref(), Ok(&before));
        }
        end += line.len();
        let text = std::str::from_utf8(&line[..line.len() - 1]).expect("it was read");
        let record = decode(text).expect("it was read");
        let written = encode(&record);
        assert_eq!(decode(written.trim_end()), Some(record.clone()));
        again.extend(written.into_bytes());
        let mut ledger = before.0.clone();
        ledger.apply(&record).expect("it was read");
        before = (ledger, end as u64);
        assert_eq!(replay(&whole[..end], drop).as_ref(), Ok(&before));
        if matches!(record, Record::End { .. }) {
            assert!(before.0.to_undo().is_empty() && before.0.result().is_some());
        }
    }
    let (ledger, _) = replay(&again, drop).expect("what is written is read");
    assert_eq!(ledger, before.0);
}

/// Who takes a run over keeps exactly its whole records, and what he adds is read behind them.
fn on_disk(file: &[u8]) {
    let dir = super::directory();
    let path = path_of(dir.path(), "r");
    fs::write(&path, file).expect("a file can be written");
    let bytes = || fs::read(&path).expect("a file can be read");
    let (ledger, good) = match replay(file, drop) {
        Ok(read) => read,
        Err(_) => {
            for error in [
                journal::read(&path).expect_err("it is broken"),
                Journal::adopt(&path).expect_err("it is broken"),
            ] {
                let known = matches!(
                    error,
                    Error::Damaged { .. } | Error::Newer { .. } | Error::Illegal { .. }
                );
                assert!(known, "{error}");
            }
            // Somebody is to look at it: nothing of it is gone.
            assert_eq!(bytes(), file);
            return;
        }
    };
    let length = usize::try_from(good).expect("it is a part of what is in memory");
    let mut taken = Journal::adopt(&path).expect("it is read");
    assert_eq!(taken.ledger(), &ledger);
    assert_eq!(bytes(), &file[..length]);
    let begun = taken.intent("instance", "token", Facts::new(), Timestamp::UNIX_EPOCH);
    match begun {
        Ok(id) => {
            assert!(ledger.entries().all(|entry| entry.id < id));
            taken
                .failed(id, "no\nline", Timestamp::UNIX_EPOCH)
                .expect("it is open");
        }
        Err(Error::Illegal { .. }) => {
            let undoing = ledger.checkpoint(journal::UNDOING).is_some();
            assert!(ledger.header().is_none() || ledger.result().is_some() || undoing);
            assert_eq!(bytes(), &file[..length]);
        }
        Err(error) => panic!("{error}"),
    }
    assert_eq!(&journal::read(&path).expect("it is whole"), taken.ledger());
}
