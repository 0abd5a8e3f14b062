//! Everything a machine runs, as one archive: the same bytes for the same scripts. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::archive;
use super::event::List;
use crate::aws::objects::PresignedUrl;
use crate::image::leaks::Sealed;
use crate::render::machine;
use crate::render::script::Script;

const FOLLOW: &str = include_str!("../../templates/follow.sh");
const PACKAGES: &str = include_str!("../../templates/packages.sh");
const FETCH: &str = include_str!("../../templates/fetch.sh");
const USER_DATA: &str = include_str!("../../templates/user-data.sh");

/// Where bundles are unpacked on a machine.
pub const HOME: &str = "/var/lib/piaas-bake";
/// Where `seal.sh` goes on from once the bundle is gone.
const SEALED: &str = "/run/piaas-bake-seal";
/// Base64 characters in one command. A command document may have 64 KB in all (`SendCommand`,
/// `MaxDocumentSizeExceeded`), JSON and our own lines included.
const CHUNK: usize = 40_000;
/// Characters in one line of base64; a multiple of four, so that every line stands alone.
const LINE: usize = 1000;
/// The largest archive that goes in commands: about 560 of them, at a second or two each.
const LIMIT: usize = 16 * 1024 * 1024;

/// A bundle, packed.
#[derive(Debug, Clone)]
pub struct Bundle {
    archive: Bytes,
    sha256: [u8; 32],
    lists: BTreeMap<&'static str, Vec<Script>>,
}

/// Scripts and files are too large to be sent through SSM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the bundle has {size} bytes packed, more than the {LIMIT} that can be sent through Systems Manager"
)]
pub struct TooLarge {
    pub size: usize,
}

impl TooLarge {
    /// What to do about it.
    pub const WAY_OUT: &str = "name an S3 bucket for it (bundle_bucket in the config file, or PIAAS_BUNDLE_BUCKET), or let a \
                               step download large files";
}

impl Bundle {
    /// Packs these lists of scripts with the payloads that they name, and the seal with what the recipe says of its own;
    /// for this `SOURCE_DATE_EPOCH`.
    #[must_use]
    pub fn new(
        lists: &[(List, &[Script])],
        payloads: &BTreeMap<String, Bytes>,
        sealed: &[Sealed],
        source_date: i64,
    ) -> Self {
        let named: Vec<_> = lists
            .iter()
            .map(|(list, scripts)| (list.as_str(), *scripts))
            .collect();
        let entries = machine::entries(&named, payloads, sealed, source_date);
        let files = entries
            .iter()
            .map(|(path, entry)| (path.clone(), entry.mode, entry.bytes.as_ref()));
        let archive = archive::write(Vec::new(), flate2::Compression::best(), files)
            .expect("writing to memory does not fail, and our paths are relative and short");
        Self {
            sha256: Sha256::digest(&archive).into(),
            archive: archive.into(),
            lists: lists
                .iter()
                .map(|(list, scripts)| (list.as_str(), scripts.to_vec()))
                .collect(),
        }
    }

    /// Whether it can go in commands.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn fits_commands(&self) -> Result<(), TooLarge> {
        let size = self.archive.len();
        if size > LIMIT {
            return Err(TooLarge { size });
        }
        Ok(())
    }

    /// The archive.
    #[must_use]
    pub fn archive(&self) -> Bytes {
        self.archive.clone()
    }

    /// SHA-256 of the archive.
    #[must_use]
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// The directory of this bundle on its machine.
    #[must_use]
    pub fn dir(&self) -> String {
        format!("{HOME}/{}", &hex::encode(self.sha256)[..12])
    }

    /// The commands that bring it there; repeating one is harmless, and so is one that goes on while it is repeated. The
    /// last, which most often is the only one, also checks and unpacks it.
    #[must_use]
    pub fn transfer(&self) -> Vec<String> {
        let dir = self.dir();
        let text = STANDARD.encode(&self.archive);
        let chunks: Vec<&[u8]> = text.as_bytes().chunks(CHUNK).collect();
        if let [all] = chunks[..] {
            let whole = put(all, &dir, "bundle.tar.gz");
            return vec![format!("{whole}{}", self.unpack())];
        }
        let parts = chunks.into_iter().enumerate();
        let parts = parts.map(|(index, part)| put(part, &dir, &format!("parts/{index:04}")));
        parts.chain([self.unpack()]).collect()
    }

    /// The command that fetches it from this URL, checks and unpacks it.
    #[must_use]
    pub fn fetch(&self, url: &PresignedUrl) -> String {
        let fetch = FETCH
            .replace("@DIR@", &self.dir())
            .replace("@URL@", url.reveal());
        format!("{fetch}{}", self.unpack())
    }

    /// Checks and unpacks what has arrived, in parts or as a whole. Before the first step, it is noted which packages are there.
    fn unpack(&self) -> String {
        let note = match self.lists.contains_key(List::Steps.as_str()) {
            true => format!(
                "\n[ -e {} ] || {{\nset -- before\n{}}}",
                self.packages_before(),
                self.packages()
            ),
            false => String::new(),
        };
        format!(
            "set -eu\numask 022\ncd {}\nif [ -d parts ]; then cat parts/* >bundle.tar.gz; fi\n\
             echo '{}  bundle.tar.gz' | sha256sum -c --status - || {{ echo 'bundle.tar.gz: wrong checksum' >&2; \
             rm -rf parts; exit 1; }}\ntar --no-same-owner -xzf bundle.tar.gz\nrm -rf parts{note}",
            self.dir(),
            hex::encode(self.sha256)
        )
    }

    /// The command that runs a list; repeating it skips what is done.
    #[must_use]
    pub fn run(&self, list: List) -> String {
        format!("exec /bin/sh {}/runner.sh {}", self.dir(), list.as_str())
    }

    /// As [`Self::run`], with a pause after the script that is under way when this time is over.
    #[must_use]
    pub fn run_for(&self, list: List, patience: Duration) -> String {
        format!("{} {}", self.run(list), patience.as_secs())
    }

    /// The scripts of a list.
    #[must_use]
    pub fn scripts(&self, list: List) -> &[Script] {
        self.lists.get(list.as_str()).map_or(&[], Vec::as_slice)
    }

    /// The number in the bundle of the first script of a list, less one.
    #[must_use]
    pub fn offset(&self, list: List) -> u32 {
        let before = [List::Steps, List::Validate, List::Test]
            .into_iter()
            .take_while(|other| *other != list);
        before
            .map(|other| u32::try_from(self.scripts(other).len()).unwrap_or(u32::MAX))
            .sum()
    }

    /// The longest that a list can take: every attempt of every script up to its time-out.
    #[must_use]
    pub fn longest(&self, list: List) -> Duration {
        self.scripts(list)
            .iter()
            .map(|script| {
                (script.timeout + Duration::from_secs(15))
                    .saturating_mul(script.retries.saturating_add(1))
            })
            .fold(Duration::from_secs(60), Duration::saturating_add)
    }

    /// The command that waits up to `wait` seconds for a list's log to grow past `offset` and prints what is new.
    #[must_use]
    pub fn follow(&self, list: List, offset: u64, wait: u32) -> String {
        FOLLOW
            .replace("@LOG@", &format!("{}/log/{}", self.dir(), list.as_str()))
            .replace("@OFFSET@", &offset.to_string())
            .replace("@WAIT@", &wait.to_string())
            .replace("@LIMIT@", &FOLLOW_BYTES.to_string())
    }

    /// The command that prints a line with what [`Self::packages`] prints, cleans the machine, and fails with 1 and the paths
    /// that are left if that left something; with 3 if the cleaning failed. Repeated, it goes on from the copy that it made,
    /// and prints the packages as they were: the bundle is gone. One that runs is waited for.
    #[must_use]
    pub fn seal(&self) -> String {
        /// What is left has room behind them (`GetCommandInvocation`, `StandardOutputContent`: 24,000 characters).
        const PACKAGES_BYTES: usize = 16_000;
        // The packages first: the cleaning removes the indexes of apt.
        format!(
            "exec 8>{SEALED}.lock && flock 8 || exit 3\nif [ ! -e {SEALED}.packages ]; then\n(\n{}\n) | \
             head -c {PACKAGES_BYTES} >{SEALED}.part\nmv {SEALED}.part {SEALED}.packages\nfi\ncat {SEALED}.packages\necho\n(\n\
             [ ! -e {SEALED}/seal.sh ] || exec /bin/sh {SEALED}/seal.sh seal\nexec /bin/sh {}/seal.sh seal\n) >&2 8>&- || \
             exit 3\nexec /bin/sh {SEALED}/seal.sh assert",
            self.packages(),
            self.dir()
        )
    }

    /// Where it is noted which packages were there before the first step.
    fn packages_before(&self) -> String {
        format!("{}/packages-before", self.dir())
    }

    /// The command that prints which packages have been installed since; see [`super::packages`].
    #[must_use]
    pub fn packages(&self) -> String {
        PACKAGES.replace("@BEFORE@", &self.packages_before())
    }
}

/// Commands that write a file of a directory, whole or not at all.
fn put(base64: &[u8], dir: &str, name: &str) -> String {
    let path = format!("{dir}/{name}");
    let parent = path.rsplit_once('/').map_or(dir, |(parent, _)| parent);
    let mut command =
        format!("set -eu\numask 077\nmkdir -p {parent}\nbase64 -d >{dir}/$$.part <<'END'\n");
    for line in base64.chunks(LINE) {
        // Base64 is ASCII.
        command.extend(line.iter().map(|byte| char::from(*byte)));
        command.push('\n');
    }
    command.push_str(&format!("END\nmv {dir}/$$.part {path}\n"));
    command
}

/// Bytes of log in one answer: 22,980 characters with base64's line ends, below SSM's limit of 24,000.
pub(super) const FOLLOW_BYTES: u64 = 17_000;

/// User data of builders and testers.
#[must_use]
pub fn user_data(region: &str, lifetime: Duration) -> String {
    let minutes = lifetime.as_secs().div_ceil(60);
    USER_DATA
        .replace("@REGION@", region)
        .replace("@MINUTES@", &minutes.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::{bake, target};
    use super::super::plan::{Plan, Survey};
    use super::*;
    use crate::recipe::secret;

    fn sample() -> Plan {
        let mut plan = bake(&target(), &Survey::default());
        let sha = "5".repeat(64);
        plan.steps[0].text = format!("cp \"$PIAAS_BUNDLE/files/{sha}\" /etc/x\n");
        plan.steps[0]
            .env
            .insert("KEY".into(), "it's $(odd)\n".into());
        plan.steps[1].title = "a\ttitle\nof two lines".into();
        plan.payloads = BTreeMap::from([
            (sha, vec![7; 100].into()),
            ("6".repeat(64), vec![8; 100].into()),
        ]);
        plan
    }

    fn bundle(plan: &Plan) -> Bundle {
        let lists = [
            (List::Steps, plan.steps.as_slice()),
            (List::Validate, plan.validate.as_slice()),
        ];
        Bundle::new(&lists, &plan.payloads, &plan.sealed, plan.source_date)
    }

    fn unpack(bundle: &Bundle) -> BTreeMap<String, String> {
        let files = unpack_bytes(bundle).into_iter();
        files
            .map(|(path, bytes)| (path, String::from_utf8(bytes).unwrap()))
            .collect()
    }

    fn unpack_bytes(bundle: &Bundle) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bundle.archive.as_ref()));
        let mut files = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            files.insert(entry.path().unwrap().to_string_lossy().into_owned(), bytes);
        }
        files
    }

    #[test]
    fn a_bundle_holds_lists_scripts_environment_and_only_the_payloads_it_names() {
        let files = unpack(&bundle(&sample()));
        assert_eq!(
            files["steps"].lines().collect::<Vec<_>>(),
            [
                "001\t001-debian-base-step-001-a\t60\t0\t0\tdo debian-base/step-001-a",
                "002\t002-ci-base-step-001-a\t60\t0\t0\ta title of two lines",
                "003\t003-ci-worker-step-001-a\t60\t0\t0\tdo ci-worker/step-001-a",
            ]
        );
        assert!(files["validate"].starts_with("004\t"));
        assert_eq!(files["env/001"], "export KEY='it'\\''s $(odd)\n'\n");
        let payloads: Vec<_> = files
            .keys()
            .filter(|path| path.starts_with("files/"))
            .collect();
        assert_eq!(payloads, [&format!("files/{}", "5".repeat(64))]);
    }

    /// `render -o` is what people read before they bake: it must be what a bake sends, to the byte.
    #[test]
    fn what_render_writes_is_what_a_bundle_carries() {
        let recipes = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
        let mut compared = 0;
        for name in crate::recipe::names(&recipes).unwrap() {
            let given = crate::recipe::Given::default();
            let resolved = crate::recipe::load(&recipes, &name, &given).unwrap();
            let layers = crate::render::render(&resolved, b"\x7fELF agent").unwrap();
            let out = tempfile::tempdir().unwrap();
            let written = crate::render::write_dir(&layers, "its user data", out.path()).unwrap();

            let mut target = target();
            target.layers = layers
                .iter()
                .map(|layer| super::super::plan::LayerPlan {
                    recipe: layer.recipe.clone(),
                    version: layer.version.clone(),
                    digest: hex::encode(Sha256::digest(&layer.recipe)),
                    manifest_json: "{}".into(),
                    layer: layer.clone(),
                })
                .collect();
            let plan = bake(&target, &Survey::default());
            // The builder's bundle and that of the machine that tests the image, as the engine makes them.
            let lists: [(List, &[Script]); 3] = [
                (List::Steps, &plan.steps),
                (List::Validate, &plan.validate),
                (List::Test, &plan.test),
            ];
            let bundles = [
                Bundle::new(&lists[..2], &plan.payloads, &plan.sealed, plan.source_date),
                Bundle::new(&lists[2..], &plan.payloads, &[], plan.source_date),
            ];
            let mut carried: BTreeMap<String, Vec<u8>> =
                BTreeMap::from([("user-data.sh".into(), b"its user data".to_vec())]);
            for (machine, bundle, lists) in [
                ("builder", &bundles[0], &lists[..2]),
                ("tester", &bundles[1], &lists[2..]),
            ] {
                let scripts = lists.iter().flat_map(|(_, scripts)| scripts.iter());
                let ids: Vec<_> = scripts.map(|script| &script.id).collect();
                for (path, bytes) in unpack_bytes(bundle) {
                    let id = |number: &str| ids[number[..3].parse::<usize>().unwrap() - 1];
                    let place = match path.split_once('/') {
                        Some(("scripts", file)) => {
                            assert_eq!(file[4..], id(file).replace('/', "-"));
                            id(file).clone()
                        }
                        Some(("env", _)) if bytes.is_empty() => continue,
                        Some(("env", number)) => format!("{}.env", id(number)),
                        Some(_) => path,
                        None => format!("{machine}.bundle/{path}"),
                    };
                    carried.insert(place, bytes);
                }
            }
            let written: BTreeMap<String, Vec<u8>> = written
                .iter()
                .map(|path| {
                    let name = path.strip_prefix(out.path()).unwrap();
                    (name.display().to_string(), std::fs::read(path).unwrap())
                })
                .collect();
            assert_eq!(
                written.keys().collect::<Vec<_>>(),
                carried.keys().collect::<Vec<_>>(),
                "{name}"
            );
            for (path, bytes) in &written {
                assert!(carried[path] == *bytes, "{name}: {path} differs");
            }
            compared += written.len();
        }
        assert!(compared > 50, "{compared} files");
    }

    #[test]
    fn a_bundle_with_secrets_seals_them() {
        let mut plan = sample();
        assert!(!unpack(&bundle(&plan))["sealed-paths"].contains(secret::DIR));
        plan.steps[0].text = format!("cat {}/token\n", secret::DIR);
        let list = &unpack(&bundle(&plan))["sealed-paths"];
        assert!(
            list.ends_with("now\tgone\t/run/piaas-bake-secrets\trandom: secrets of steps\n"),
            "{list}"
        );
    }

    #[test]
    fn the_same_scripts_make_the_same_bytes() {
        assert_eq!(bundle(&sample()).archive, bundle(&sample()).archive);
    }

    #[test]
    fn numbers_continue_from_list_to_list() {
        let bundle = bundle(&sample());
        assert_eq!(
            (bundle.offset(List::Steps), bundle.offset(List::Validate)),
            (0, 3)
        );
    }

    #[test]
    fn no_command_exceeds_a_document_and_none_holds_ssm_braces() {
        let mut plan = sample();
        // Noise, so that gzip leaves it large.
        let noise: Vec<u8> = (0..200_000u32)
            .map(|n| Sha256::digest(n.to_le_bytes())[0])
            .collect();
        plan.payloads.insert("5".repeat(64), noise.into());
        let commands = bundle(&plan).transfer();
        assert!(commands.len() > 6);
        for command in commands {
            assert!(command.len() < 48_000);
            assert!(!command.contains("{{"));
        }
    }

    #[test]
    fn too_large_a_bundle_needs_a_bucket() {
        let mut plan = sample();
        let mut state = 1u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        });
        plan.payloads
            .insert("5".repeat(64), noise.take(LIMIT + 1_000_000).collect());
        bundle(&sample()).fits_commands().unwrap();
        let error = bundle(&plan).fits_commands().unwrap_err();
        assert!(error.size > LIMIT);
        assert!(TooLarge::WAY_OUT.contains("bundle_bucket"));
    }

    #[test]
    fn user_data_knows_its_region_and_its_end() {
        let text = user_data("eu-west-1", Duration::from_secs(7230));
        assert!(text.contains("shutdown -P +121\n"));
        assert!(text.contains("https://s3.eu-west-1.amazonaws.com/amazon-ssm-eu-west-1/"));
        assert!(!text.contains('@'));
    }
}
