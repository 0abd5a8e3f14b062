//! A planted text is searched for: in files as they are, in the forms that programs write texts in, and in what is packed.

use std::path::Path;
use std::process::Command;

/// The forms in which a text may be written down: as it is, in base64 wherever it begins, in a URL, in hexadecimal.
fn forms(text: &str) -> Vec<String> {
    use base64::Engine as _;
    let base64 = base64::engine::general_purpose::STANDARD_NO_PAD;
    let mut all = vec![text.to_owned(), hex::encode(text)];
    for before in 0..3 {
        let shifted = base64.encode([&b"   "[..before], text.as_bytes()].concat());
        // The digits at both ends hold bits of what is beside it.
        let end = shifted.len() - usize::from(!(before + text.len()).is_multiple_of(3));
        all.push(shifted[(before * 8).div_ceil(6)..end].to_owned());
    }
    let url = percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC);
    all.push(url.to_string());
    all.push(
        url.to_string()
            .replace("%2D", "-")
            .replace("%5F", "_")
            .replace("%2E", "."),
    );
    all
}

/// What is packed in a file: it is all of it, or there is gzip in base64, as parameters hold it.
fn unpacked(bytes: &[u8]) -> Vec<Vec<u8>> {
    use base64::Engine as _;
    use std::io::{Read as _, Write as _};
    let gunzip = |bytes: &[u8]| {
        let mut all = Vec::new();
        // What can be read of one that is cut off counts too.
        let _ = flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut all);
        all
    };
    let mut all = Vec::new();
    for (magic, program) in [
        (&b"\x1f\x8b"[..], ""),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
    ] {
        if !bytes.starts_with(magic) {
            continue;
        }
        if program.is_empty() {
            all.push(gunzip(bytes));
            continue;
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let mut command = Command::new(program);
        let output = command.arg("-dc").arg(file.path()).output();
        all.push(output.expect("the host can unpack").stdout);
    }
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let mut rest = bytes;
    while let Some(at) = rest.windows(4).position(|four| four == b"H4sI") {
        let length = rest[at..].iter().take_while(|byte| is_base64(byte)).count();
        let whole = &rest[at..at + length / 4 * 4];
        let decoded = base64::engine::general_purpose::STANDARD.decode(whole);
        all.push(gunzip(&decoded.unwrap_or_default()));
        rest = &rest[at + length.max(4)..];
    }
    all
}

/// Files below `dir` that hold `text` in any form, packed or not; the path of each.
pub fn holding_packed(dir: &Path, text: &str) -> Vec<String> {
    let forms = forms(text);
    let mut grep = Command::new("grep");
    grep.args(["-r", "-l", "-a", "-F"]);
    for form in &forms {
        grep.args(["-e", form]);
    }
    let found = String::from_utf8(grep.arg(dir).output().unwrap().stdout).unwrap();
    let mut found: Vec<String> = found.lines().map(String::from).collect();
    // Of what is packed: by what it begins with, or what is in it.
    let mut packed = Command::new("grep");
    let magic = "^\\x1f\\x8b|^\\xfd7zXZ|^\\x28\\xb5\\x2f\\xfd|H4sI";
    packed
        .env("LC_ALL", "C")
        .args(["-r", "-l", "-a", "-P", "--exclude=*.raw", "-e", magic]);
    let packed = String::from_utf8_lossy(&packed.arg(dir).output().unwrap().stdout).into_owned();
    for path in packed.lines() {
        let Ok(bytes) = std::fs::read(path) else {
            continue;
        };
        let holds = |bytes: &Vec<u8>| {
            let bytes = bytes.as_slice();
            forms.iter().any(|form| memmem(bytes, form.as_bytes()))
        };
        if unpacked(&bytes).iter().any(holds) && !found.iter().any(|one| one == path) {
            found.push(path.to_owned());
        }
    }
    found.sort();
    found
}

fn memmem(bytes: &[u8], wanted: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == wanted[0]) {
        if rest[at..].starts_with(wanted) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_text_is_found_in_every_form() {
        use base64::Engine as _;
        use std::io::Write as _;
        let dir = tempfile::tempdir().unwrap();
        let text = "canary-1/2 3";
        let base64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let gzip = |text: &str| {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            gzip.write_all(text.as_bytes()).unwrap();
            gzip.finish().unwrap()
        };
        let put = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
        put("plain", format!("x{text}y").as_bytes());
        for (number, before) in ["", "a", "ab", "abc"].iter().enumerate() {
            put(
                &format!("base64-{number}"),
                base64(&format!("{before}{text} and more")).as_bytes(),
            );
        }
        put("url", b"?a=canary-1%2F2%203");
        put("gzip", &gzip(&format!("in {text}")));
        let inner = base64::engine::general_purpose::STANDARD.encode(gzip(text));
        put("parameter", format!("{{\"value\":\"{inner}\"}}").as_bytes());
        for program in ["xz", "zstd"] {
            let plain = dir.path().join("plain");
            let packed = Command::new(program)
                .arg("-qc")
                .arg(plain)
                .output()
                .unwrap();
            put(program, &packed.stdout);
        }
        put("else", b"canary-1");
        put("else.gz", &gzip("canary-1"));
        let found = holding_packed(dir.path(), text);
        let names: Vec<&str> = found
            .iter()
            .map(|path| path.rsplit('/').next().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "base64-0",
                "base64-1",
                "base64-2",
                "base64-3",
                "gzip",
                "parameter",
                "plain",
                "url",
                "xz",
                "zstd"
            ]
        );
    }
}
