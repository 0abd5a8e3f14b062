//! Tokens of pages: a position in the list of one operation, with a checksum that tells a token that was given from one
//! that was made up.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// Bytes of the checksum.
const CHECKSUM: usize = 8;

fn checksum(scope: &str, position: &[u8]) -> Vec<u8> {
    let mut digest = Sha256::new();
    digest.update(scope);
    digest.update([0]);
    digest.update(position);
    digest.finalize()[..CHECKSUM].to_vec()
}

/// The token of a position; `scope` is what else must not take it, such as the operation's name.
#[must_use]
pub fn seal(scope: &str, position: &str) -> String {
    let mut bytes = checksum(scope, position.as_bytes());
    bytes.extend_from_slice(position.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The position that a token of this scope stands for; `None`: it was never given.
#[must_use]
pub fn open(scope: &str, token: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (sum, position) = bytes.split_at_checked(CHECKSUM)?;
    let known = sum == checksum(scope, position);
    known.then(|| String::from_utf8(position.to_vec()).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_token_that_was_given_opens_and_only_where_it_was() {
        let token = seal("DescribeInstances", "i-1");
        assert_eq!(open("DescribeInstances", &token).as_deref(), Some("i-1"));
        assert_eq!(open("DescribeImages", &token), None);
        for made_up in [
            "",
            "AAAA",
            "i-1",
            &URL_SAFE_NO_PAD.encode("i-1"),
            &token[1..],
        ] {
            assert_eq!(open("DescribeInstances", made_up), None, "{made_up}");
        }
    }
}
