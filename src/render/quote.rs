//! How values are quoted in scripts. Where they may stand is the business of `place`.

use std::io::{self, Write};

/// Writes `value` as one word of a POSIX shell (tera's escape function for scripts).
///
/// Always in quotes: a bare `5` before `>` would be a file descriptor, a bare `if` a keyword.
pub fn quote(value: &str, out: &mut dyn Write) -> io::Result<()> {
    if value.contains('\0') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a shell word cannot hold a NUL character",
        ));
    }
    out.write_all(word(value).as_bytes())
}

/// `value` as one word of a POSIX shell. It must be without NUL, which no word can hold.
#[must_use]
pub fn word(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}
