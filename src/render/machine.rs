//! What a machine gets: the runner and its lists, scripts with their environment, payloads, the seal. A bake packs it,
//! [`write_dir`](super::write_dir) writes it for people. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::Bytes;

use super::quote;
use super::script::{SEAL, SEALED_PATHS, SEALED_SECRETS, Script};
use crate::image::leaks::Sealed;
use crate::recipe::secret;

/// Runs the scripts of a list on a machine.
pub const RUNNER: &str = include_str!("../../templates/runner.sh");

/// One file of a machine's directory.
#[derive(Debug)]
pub struct Entry<'a> {
    pub is: Kind<'a>,
    /// Permission bits.
    pub mode: u32,
    pub bytes: Cow<'a, [u8]>,
}

/// What a file is.
#[derive(Debug, Clone, Copy)]
pub enum Kind<'a> {
    Script(&'a Script),
    /// What the script finds in its environment, as text of a shell.
    Environment(&'a Script),
    Payload,
    /// The same for every recipe, or an order of scripts.
    Frame,
}

/// The files of a machine's directory, by their paths in it: these lists of scripts, by name, with the payloads that they
/// name, the seal with what the recipe says of its own, and the time, in seconds since the epoch, of what is dated.
#[must_use]
pub fn entries<'a>(
    lists: &[(&str, &'a [Script])],
    payloads: &'a BTreeMap<String, Bytes>,
    own: &[Sealed],
    source_date: i64,
) -> BTreeMap<String, Entry<'a>> {
    let scripts = || lists.iter().flat_map(|(_, scripts)| scripts.iter());
    let mut files = BTreeMap::new();
    let mut put = |path: String, is: Kind<'a>, mode: u32, bytes: Cow<'a, [u8]>| {
        files.insert(path, Entry { is, mode, bytes });
    };
    let mut sealed = SEALED_PATHS.to_owned();
    if scripts().any(|script| script.text.contains(secret::DIR)) {
        sealed.push_str(SEALED_SECRETS);
    }
    sealed.extend(own.iter().map(Sealed::line));
    for (name, bytes) in [
        ("runner.sh", Cow::Borrowed(RUNNER.as_bytes())),
        ("seal.sh", Cow::Borrowed(SEAL.as_bytes())),
        ("sealed-paths", Cow::Owned(sealed.into_bytes())),
        (
            "source-date",
            Cow::Owned(format!("{source_date}\n").into_bytes()),
        ),
    ] {
        put(name.to_owned(), Kind::Frame, 0o644, bytes);
    }
    let mut number = 0;
    for (list, scripts) in lists {
        let mut lines = String::new();
        for script in *scripts {
            number += 1;
            let file = format!("{number:03}-{}", script.id.replace('/', "-"));
            let title: String = script
                .title
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect();
            let (limit, retries) = (script.timeout.as_secs().max(1), script.retries);
            let reboot = u8::from(script.reboot);
            let _infallible = writeln!(
                lines,
                "{number:03}\t{file}\t{limit}\t{retries}\t{reboot}\t{title}"
            );
            put(
                format!("env/{number:03}"),
                Kind::Environment(script),
                0o644,
                exports(&script.env).into_bytes().into(),
            );
            put(
                format!("scripts/{file}"),
                Kind::Script(script),
                0o755,
                script.text.as_bytes().into(),
            );
        }
        put(
            (*list).to_owned(),
            Kind::Frame,
            0o644,
            lines.into_bytes().into(),
        );
    }
    for (sha256, bytes) in payloads {
        if scripts().any(|script| script.text.contains(sha256.as_str())) {
            put(
                format!("files/{sha256}"),
                Kind::Payload,
                0o644,
                bytes.as_ref().into(),
            );
        }
    }
    files
}

fn exports(env: &BTreeMap<String, String>) -> String {
    env.iter()
        .map(|(name, value)| format!("export {name}={}\n", quote::word(value)))
        .collect()
}
