//! Directory entries with short and long names (sections 6 and 7).

use super::put_cluster;
use crate::image::bytes::{low8, put16, put32};
use crate::image::{ImageError, Result};

/// Bytes of an entry.
pub(super) const BYTES: usize = 32;
/// UTF-16 units in one entry of a long name.
const UNITS: usize = 13;
/// Where they lie in it.
const UNIT_OFFSETS: [usize; UNITS] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];

const VOLUME_LABEL: u8 = 0x08;
const DIRECTORY: u8 = 0x10;
const ARCHIVE: u8 = 0x20;
const LONG_NAME: u8 = 0x0f;

/// A file or, without a size, a directory.
pub(super) struct Entry<'a> {
    pub name: &'a str,
    pub cluster: u32,
    pub size: Option<u32>,
}

/// Entries that a name takes.
pub(super) fn slots(name: &str) -> usize {
    if short(name).is_some() {
        1
    } else {
        1 + name.len().div_ceil(UNITS)
    }
}

/// An entry with its long name before it, if it needs one. `taken` holds the short names that the directory
/// has in use: to begin with, those of names that need no alias.
pub(super) fn encode(entry: &Entry<'_>, date: i64, taken: &mut Vec<[u8; 11]>) -> Result<Vec<u8>> {
    let refused = |reason| Err(ImageError::unsupported(entry.name.as_bytes(), reason));
    let odd = |c: char| !c.is_ascii() || c.is_ascii_control() || r#""*/:<>?\|"#.contains(c);
    if entry.name.is_empty() || entry.name.len() > 255 || entry.name.ends_with([' ', '.']) {
        return refused(
            "a name on FAT has 1 to 255 characters and does not end in a dot or a space",
        );
    }
    if entry.name.contains(odd) {
        return refused("names on the EFI system partition are plain ASCII");
    }
    let mut raw = Vec::new();
    let short_name = if let Some(name) = short(entry.name) {
        name
    } else {
        let name = alias(entry.name, taken);
        raw = long(entry.name, &name);
        taken.push(name);
        name
    };
    let attribute = if entry.size.is_some() {
        ARCHIVE
    } else {
        DIRECTORY
    };
    let mut last = stamped(&short_name, attribute, date);
    put_cluster(&mut last, entry.cluster);
    put32(&mut last, 28, entry.size.unwrap_or(0));
    raw.extend_from_slice(&last);
    Ok(raw)
}

/// The root's first entry.
pub(super) fn label(label: &str, date: i64) -> Vec<u8> {
    stamped(&padded_label(label), VOLUME_LABEL, date).to_vec()
}

/// A label as the boot sector and the root keep it.
pub(super) fn padded_label(label: &str) -> [u8; 11] {
    let mut raw = [b' '; 11];
    let length = label.len().min(raw.len());
    raw[..length].copy_from_slice(&label.as_bytes()[..length]);
    raw
}

/// The first two entries of every other directory.
pub(super) fn dots(own: u32, parent: u32, date: i64) -> Vec<u8> {
    [(&b".          ", own), (&b"..         ", parent)]
        .into_iter()
        .flat_map(|(name, cluster)| {
            let mut raw = stamped(name, DIRECTORY, date);
            put_cluster(&mut raw, cluster);
            raw
        })
        .collect()
}

fn stamped(name: &[u8; 11], attribute: u8, date: i64) -> [u8; BYTES] {
    let mut raw = [0; BYTES];
    raw[..11].copy_from_slice(name);
    raw[11] = attribute;
    let (day, time) = dos_time(date);
    put16(&mut raw, 14, time);
    put16(&mut raw, 16, day);
    put16(&mut raw, 18, day);
    put16(&mut raw, 22, time);
    put16(&mut raw, 24, day);
    raw
}

/// Date and time in UTC, in steps of two seconds, from 1980 to 2107.
fn dos_time(seconds: i64) -> (u16, u16) {
    const FIRST: (u16, u16) = (1 << 5 | 1, 0);
    let Ok(timestamp) = jiff::Timestamp::from_second(seconds) else {
        return FIRST;
    };
    let utc = jiff::tz::Offset::UTC.to_datetime(timestamp);
    let Ok(year) = u16::try_from(i32::from(utc.year()) - 1980) else {
        return FIRST;
    };
    let field = |value: i8| u16::try_from(value).expect("a calendar field is positive");
    let day = year.min(127) << 9 | field(utc.month()) << 5 | field(utc.day());
    let time = field(utc.hour()) << 11 | field(utc.minute()) << 5 | (field(utc.second()) / 2);
    (day, time)
}

fn plain(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"!#$%&'()-@^_`{}~".contains(&byte)
}

fn packed(base: &[u8], extension: &[u8]) -> [u8; 11] {
    let mut raw = [b' '; 11];
    raw[..base.len()].copy_from_slice(base);
    raw[8..8 + extension.len()].copy_from_slice(extension);
    raw
}

/// The name as a short one, when nothing of it is lost by that.
pub(super) fn short(name: &str) -> Option<[u8; 11]> {
    let (base, extension) = name.split_once('.').unwrap_or((name, ""));
    let fits = |part: &str, most: usize| part.len() <= most && part.bytes().all(plain);
    let whole = !base.is_empty() && !name.ends_with('.') && fits(base, 8) && fits(extension, 3);
    whole.then(|| packed(base.as_bytes(), extension.as_bytes()))
}

/// A short name for a long one: its start, a number that makes it the only one, its extension.
fn alias(name: &str, taken: &[[u8; 11]]) -> [u8; 11] {
    let upper = name.to_ascii_uppercase();
    let (base, extension) = upper.rsplit_once('.').unwrap_or((&upper, ""));
    let keep = |part: &str, most: usize| -> Vec<u8> {
        part.bytes().filter(|b| plain(*b)).take(most).collect()
    };
    let extension = keep(extension, 3);
    (1..=u32::MAX)
        .map(|number| {
            let tail = format!("~{number}");
            let base = [keep(base, 8 - tail.len()).as_slice(), tail.as_bytes()].concat();
            packed(&base, &extension)
        })
        .find(|candidate| !taken.contains(candidate))
        .expect("a directory has fewer files than there are numbers")
}

/// The entries of a long name, last part first.
fn long(name: &str, short: &[u8; 11]) -> Vec<u8> {
    let sum = short
        .iter()
        .fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let units: Vec<u16> = name.encode_utf16().collect();
    let parts: Vec<&[u16]> = units.chunks(UNITS).collect();
    let mut raw = Vec::with_capacity(parts.len() * BYTES);
    for (index, part) in parts.iter().enumerate().rev() {
        let mut entry = [0; BYTES];
        let last = if index + 1 == parts.len() { 0x40 } else { 0 };
        entry[0] = (low8(index as u64) + 1) | last;
        entry[11] = LONG_NAME;
        entry[13] = sum;
        for (slot, offset) in UNIT_OFFSETS.into_iter().enumerate() {
            // One zero ends a name, ones fill the rest.
            let filler = if slot == part.len() { 0 } else { 0xffff };
            put16(
                &mut entry,
                offset,
                part.get(slot).copied().unwrap_or(filler),
            );
        }
        raw.extend_from_slice(&entry);
    }
    raw
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_stay_and_long_ones_get_an_alias_of_their_own() {
        assert_eq!(short("BOOTX64.EFI").as_ref(), Some(b"BOOTX64 EFI"));
        assert_eq!(short("loader.conf"), None);
        let mut taken = Vec::new();
        for (name, expected) in [
            ("loader.conf", b"LOADER~1CON"),
            ("loader.config", b"LOADER~2CON"),
        ] {
            let raw = encode(
                &Entry {
                    name,
                    cluster: 5,
                    size: Some(9),
                },
                0,
                &mut taken,
            )
            .unwrap();
            assert_eq!(raw.len(), slots(name) * BYTES);
            assert_eq!(&raw[32..43], expected);
        }
    }

    #[test]
    fn names_that_fat_cannot_hold_are_refused() {
        for name in ["", "a:b", "trailing.", "n\u{e4}me"] {
            assert!(
                encode(
                    &Entry {
                        name,
                        cluster: 0,
                        size: None
                    },
                    0,
                    &mut Vec::new()
                )
                .is_err(),
                "{name}"
            );
        }
    }

    #[test]
    fn times_are_utc_from_1980_on() {
        assert_eq!(dos_time(0), (33, 0));
        // 2024-02-29T12:34:57Z
        assert_eq!(
            dos_time(1_709_210_097),
            (44 << 9 | 2 << 5 | 29, 12 << 11 | 34 << 5 | 28)
        );
    }
}
