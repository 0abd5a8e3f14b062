//! The order of Debian's package versions (deb-version(7), "Sorting algorithm").

use std::cmp::Ordering;

/// Compares `[epoch:]upstream[-revision]`. What does not follow the form is compared as the same rules have it.
#[must_use]
pub fn compare(a: &str, b: &str) -> Ordering {
    let (a_epoch, a) = epoch(a);
    let (b_epoch, b) = epoch(b);
    let (a_upstream, a_revision) = a.rsplit_once('-').unwrap_or((a, ""));
    let (b_upstream, b_revision) = b.rsplit_once('-').unwrap_or((b, ""));
    number(a_epoch)
        .cmp(&number(b_epoch))
        .then_with(|| part(a_upstream, b_upstream))
        .then_with(|| part(a_revision, b_revision))
}

fn epoch(version: &str) -> (&str, &str) {
    version.split_once(':').unwrap_or(("0", version))
}

/// Digits without leading zeros; longer is larger, and as texts otherwise.
fn number(digits: &str) -> (usize, &str) {
    let digits = digits.trim_start_matches('0');
    (digits.len(), digits)
}

/// A part without digits, then a part of digits, in turns.
fn part(mut a: &str, mut b: &str) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        let (a_word, a_rest) = split(a, |byte| !byte.is_ascii_digit());
        let (b_word, b_rest) = split(b, |byte| !byte.is_ascii_digit());
        let words = word(a_word, b_word);
        let (a_digits, a_rest) = split(a_rest, |byte| byte.is_ascii_digit());
        let (b_digits, b_rest) = split(b_rest, |byte| byte.is_ascii_digit());
        let order = words.then_with(|| number(a_digits).cmp(&number(b_digits)));
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (a_rest, b_rest);
    }
    Ordering::Equal
}

fn split(text: &str, belongs: impl Fn(u8) -> bool) -> (&str, &str) {
    let end = text.bytes().position(|byte| !belongs(byte));
    // A boundary between bytes of one character would need a digit inside it; digits are ASCII.
    text.split_at(end.unwrap_or(text.len()))
}

/// `~` before the end, the end before letters, letters before everything else.
fn word(a: &str, b: &str) -> Ordering {
    let weight = |byte: Option<u8>| match byte {
        Some(b'~') => -1,
        None => 0,
        Some(byte) if byte.is_ascii_alphabetic() => i32::from(byte),
        Some(byte) => i32::from(byte) + 256,
    };
    let (mut a, mut b) = (a.bytes(), b.bytes());
    loop {
        let (left, right) = (a.next(), b.next());
        match weight(left).cmp(&weight(right)) {
            Ordering::Equal if left.is_none() => return Ordering::Equal,
            Ordering::Equal => {}
            order => return order,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_order_is_debians() {
        let ascending = [
            "1.0~~",
            "1.0~~a",
            "1.0~rc1-1",
            "1.0~rc2-1",
            "1.0",
            "1.0-1",
            "1.0-1+deb12u1",
            "1.0-1+deb12u2",
            "1.0-1+deb12u10",
            "1.0a",
            "1.0+git",
            "1.0.1",
            "1.9",
            "1.10",
            "1:0.1",
            "2:0",
        ];
        for pair in ascending.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
            assert_eq!(compare(pair[1], pair[0]), Ordering::Greater, "{pair:?}");
        }
        for (a, b) in [
            ("1.0", "0:1.0"),
            ("1.0-0", "1.0"),
            ("1.00", "1.0"),
            ("0", "00"),
        ] {
            assert_eq!(compare(a, b), Ordering::Equal, "{a} {b}");
        }
    }

    proptest! {
        #[test]
        fn it_is_an_order(versions in prop::array::uniform3("([0-9]:)?[0-9][0-9a-b~+.é]{0,5}(-[0-9a~+.]{1,3})?")) {
            let [a, b, c] = versions;
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            if compare(&a, &b) != Ordering::Greater && compare(&b, &c) != Ordering::Greater {
                prop_assert_ne!(compare(&a, &c), Ordering::Greater);
            }
        }
    }

    /// An independent judge, where there is one.
    #[test]
    fn dpkg_agrees() {
        let versions = [
            "1.0~~",
            "1.0~rc1-1",
            "1.0",
            "1.0-1",
            "1.0-1+b2",
            "1:1.0",
            "1.0a",
            "1.0+",
            "1.0.10",
            "1.0.9-2",
        ];
        for a in versions {
            for b in versions {
                let judge = std::process::Command::new("dpkg")
                    .args(["--compare-versions", a, "lt", b])
                    .status();
                let Ok(status) = judge else { return };
                assert_eq!(status.success(), compare(a, b) == Ordering::Less, "{a} {b}");
            }
        }
    }
}
