//! A plan in a file: everything that a bake runs and everything that it was planned on, to be looked at and carried out
//! later, here or elsewhere, exactly as it is, or not at all.
//!
//! The file is a `.tar.gz`: `plan.json`, its sha256, then `files/<sha256>` for what the scripts install. The recipes are not needed
//! again, and what has become of them since does not matter. What the cloud looks like does: [`Saved::moved`] says what
//! is not as it was.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::archive;
use super::names::Channel;
use super::plan::{Decision, LayerPlan, Plan};
use crate::digest;
use crate::recipe::model::{BaseRef, BuildSpec, ImageSpec};
use crate::render::script::Layer;
use crate::whole;

/// Name and version of the format.
pub const FORMAT: &str = "piaas-bake/plan/2";
/// The format of plans without [`SHA256`].
const OLD_FORMAT: &str = "piaas-bake/plan/1";
/// The first file of the archive.
const JSON: &str = "plan.json";
/// The sha256 of [`JSON`] in hex: digests of recipes do not cover all of it, such as the builder's instance type.
const SHA256: &str = "plan.json.sha256";
/// Bytes that a plan has unpacked, at the most: that of a recipe with several of the largest files is below.
const LIMIT: u64 = 4 << 30;

/// Where the plan of a run lies as long as somebody may go on with it: `<runs>/<run>.plan`.
#[must_use]
pub fn path_of(runs: &Path, run: &str) -> PathBuf {
    runs.join(format!("{run}.plan"))
}

/// What is in a plan file, but for the bytes of payloads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// [`FORMAT`].
    pub format: String,
    /// Version of the piaas-bake that made it: another one might carry it out in another way.
    pub program: String,
    pub made: Timestamp,
    pub place: Place,
    pub description: String,
    /// What the line stands on, as the recipe says it.
    pub base: BaseRef,
    /// The line, root first.
    pub line: Vec<SavedLayer>,
    pub build: BuildSpec,
    pub force: bool,
    /// Images of parents are not started from.
    pub no_cache: bool,
    pub channel: Channel,
    /// What was found, and what follows from it.
    pub outcome: Outcome,
}

/// Where a plan was made, and the only place where it may be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// `aws` or `local`.
    pub cloud: String,
    /// Account id.
    pub account: String,
    pub region: String,
}

/// One recipe of the line, with its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedLayer {
    pub digest: String,
    pub image: ImageSpec,
    pub layer: Layer,
    /// The files of the archive that its scripts install, by sha256.
    pub payloads: Vec<String>,
}

impl SavedLayer {
    /// A layer with the disk of its image.
    #[must_use]
    pub fn new(plan: &LayerPlan, image: &ImageSpec) -> Self {
        Self {
            digest: plan.digest.clone(),
            image: image.clone(),
            payloads: plan.layer.payloads.keys().cloned().collect(),
            layer: plan.layer.clone(),
        }
    }
}

/// What a bake would do: the part of a plan that depends on what exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    tag = "decision",
    rename_all = "kebab-case",
    rename_all_fields = "snake_case"
)]
pub enum Outcome {
    AlreadyBaked {
        image: String,
    },
    Bake {
        image_name: String,
        /// Id of the base image.
        base: String,
        /// Id of the image that the builder starts from.
        start: String,
        /// Unfinished images that are removed first.
        stale: Vec<String>,
    },
}

impl From<&Decision> for Outcome {
    fn from(decision: &Decision) -> Self {
        match decision {
            Decision::AlreadyBaked(image) => Self::AlreadyBaked {
                image: image.id.clone(),
            },
            Decision::Bake(plan) => Self::from(plan.as_ref()),
        }
    }
}

impl From<&Plan> for Outcome {
    fn from(plan: &Plan) -> Self {
        Self::Bake {
            image_name: plan.image_name.clone(),
            base: plan.base.id.clone(),
            start: plan.start.image.id.clone(),
            stale: plan.stale.iter().map(|image| image.id.clone()).collect(),
        }
    }
}

/// A file is no plan that can be carried out.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    #[error("this is not a plan file: {0}")]
    NotAPlan(#[from] io::Error),
    #[error("this is not a plan file: {JSON}: {0}")]
    Json(#[from] serde_json::Error),
    #[error("an older version of piaas-bake made this plan, without a checksum; plan anew")]
    Old,
    #[error("the plan file has been changed: {JSON} is not what its checksum says; plan anew")]
    Checksum,
    #[error("this plan has the format `{0}`, and this version reads `{FORMAT}`; plan anew")]
    Format(String),
    #[error(
        "piaas-bake {made_by} made this plan, and this is {}; plan anew, or use that version",
        env!("CARGO_PKG_VERSION")
    )]
    Program { made_by: String },
    #[error(
        "the plan file has been changed: what it runs for `{recipe}` has the digest {found}, not {stated}; plan anew"
    )]
    Digest {
        recipe: String,
        found: String,
        stated: String,
    },
    #[error("the plan file has been changed: files/{name} has another content than its name says")]
    Payload { name: String },
    #[error("the plan file is damaged: there is no recipe in it")]
    Empty,
    #[error("the plan file is damaged: files/{name} is missing")]
    Missing { name: String },
}

impl Saved {
    /// The recipe to bake: the last of the line.
    #[must_use]
    pub fn recipe(&self) -> &str {
        let top = self.line.last();
        &top.expect("`read` refuses a plan without a line, and a recipe has one")
            .layer
            .recipe
    }

    /// The layers as a bake takes them.
    #[must_use]
    pub fn layers(&self) -> Vec<LayerPlan> {
        let saved = self.line.iter().zip(self.chain());
        saved
            .map(|(saved, (manifest, digest))| {
                LayerPlan::new(saved.layer.clone(), &manifest, digest)
            })
            .collect()
    }

    fn chain(&self) -> Vec<(digest::Manifest, digest::Digest)> {
        let layers = self.line.iter().map(|saved| (&saved.layer, &saved.image));
        digest::chain_of(&self.base, layers)
    }

    /// What is not as it was when the plan was made, in words; nothing if the plan holds.
    #[must_use]
    pub fn moved(&self, place: &Place, now: &Outcome) -> Vec<String> {
        let mut moved = Vec::new();
        let mut tell = |what: &str, then: &str, now: &str| {
            if then != now {
                moved.push(format!("{what}: {now} now, {then} when the plan was made"));
            }
        };
        tell("the cloud", &self.place.cloud, &place.cloud);
        tell("the account", &self.place.account, &place.account);
        tell("the region", &self.place.region, &place.region);
        match (&self.outcome, now) {
            (Outcome::AlreadyBaked { image: then }, Outcome::AlreadyBaked { image: now }) => {
                tell("the image of this digest", then, now);
            }
            (Outcome::AlreadyBaked { image }, Outcome::Bake { .. }) => {
                moved.push(format!(
                    "the image {image}, which made a bake needless, is not there any more"
                ));
            }
            (Outcome::Bake { .. }, Outcome::AlreadyBaked { image }) => {
                moved.push(format!("{image} has been baked from the same since"));
            }
            (
                Outcome::Bake {
                    image_name,
                    base,
                    start,
                    stale,
                },
                Outcome::Bake {
                    image_name: name_now,
                    base: base_now,
                    start: start_now,
                    stale: stale_now,
                },
            ) => {
                tell("the base image", base, base_now);
                // A start that is the base, then and now, has moved with it.
                if start != base || start_now != base_now {
                    tell("the image to start from", start, start_now);
                }
                tell("the image's name", image_name, name_now);
                let list = |ids: &[String]| match ids {
                    [] => "none".to_owned(),
                    ids => ids.join(", "),
                };
                tell("images to remove first", &list(stale), &list(stale_now));
            }
        }
        moved
    }

    /// Writes the plan: the same bytes for the same plan.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn write(&self, to: impl io::Write) -> io::Result<()> {
        self.write_at(flate2::Compression::default(), to)
    }

    /// Writes the plan of a run where [`path_of`] says, for whoever goes on with it; whole or not at all.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn keep(&self, runs: &Path, run: &str) -> io::Result<()> {
        let mut bytes = Vec::new();
        // It is needed for a while, and the bake waits for it.
        self.write_at(flate2::Compression::none(), &mut bytes)?;
        whole::write(&path_of(runs, run), &bytes)
    }

    fn write_at(&self, level: flate2::Compression, to: impl io::Write) -> io::Result<()> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        let payloads: BTreeMap<_, _> = self
            .line
            .iter()
            .flat_map(|saved| &saved.layer.payloads)
            .map(|(sha256, bytes)| (format!("files/{sha256}"), bytes.as_ref()))
            .collect();
        let sha256 = digest::Digest::of(&json).to_string();
        let json = [
            (JSON.to_owned(), json.as_slice()),
            (SHA256.to_owned(), sha256.as_bytes()),
        ];
        let files = json.into_iter().chain(payloads);
        let files = files.map(|(path, bytes)| (path, 0o644, bytes));
        archive::write(to, level, files)?.flush()
    }

    /// Reads a plan and checks that it is whole and unchanged.
    ///
    /// # Errors
    /// [`SavedError`].
    pub fn read(from: impl Read) -> Result<Self, SavedError> {
        #[derive(Deserialize)]
        struct Head {
            format: String,
            program: String,
        }
        let (mut json, mut sha256) = (String::new(), String::new());
        let mut files: BTreeMap<String, Bytes> = BTreeMap::new();
        let unpacked = flate2::read::GzDecoder::new(from);
        crate::untar::files(unpacked, LIMIT, |path, bytes| {
            if path == JSON {
                json = text(bytes)?;
                let Head { format, program } = serde_json::from_str(&json)?;
                if format == OLD_FORMAT {
                    return Err(SavedError::Old);
                }
                if format != FORMAT {
                    return Err(SavedError::Format(format));
                }
                if program != env!("CARGO_PKG_VERSION") {
                    return Err(SavedError::Program { made_by: program });
                }
            } else if path == SHA256 {
                sha256 = text(bytes)?;
            } else if let Some(name) = path.strip_prefix("files/") {
                if digest::Digest::of(&bytes).to_string() != name {
                    return Err(SavedError::Payload {
                        name: name.to_owned(),
                    });
                }
                files.insert(name.to_owned(), bytes.into());
            }
            Ok(())
        })?;
        let mut saved: Self = serde_json::from_str(&json)?;
        if saved.line.is_empty() {
            return Err(SavedError::Empty);
        }
        for layer in &mut saved.line {
            for name in &layer.payloads {
                let bytes = files
                    .get(name)
                    .ok_or_else(|| SavedError::Missing { name: name.clone() })?;
                layer.layer.payloads.insert(name.clone(), bytes.clone());
            }
        }
        for (layer, (manifest, digest)) in saved.line.iter().zip(saved.chain()) {
            if digest.to_string() != layer.digest {
                return Err(SavedError::Digest {
                    recipe: manifest.recipe,
                    found: digest.short(),
                    stated: layer.digest.chars().take(12).collect(),
                });
            }
        }
        // Last: what is known better has been said by now.
        if digest::Digest::of(json.as_bytes()).to_string() != sha256 {
            return Err(SavedError::Checksum);
        }
        Ok(saved)
    }
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::target;
    use super::*;

    fn saved() -> Saved {
        let mut target = target();
        for layer in &mut target.layers {
            layer.layer.payloads.clear();
        }
        let bytes = Bytes::from_static(b"a file");
        let sha256 = digest::Digest::of(&bytes).to_string();
        target.layers[0].layer.payloads.insert(sha256, bytes);
        let base = BaseRef::Ami {
            id: target.base.id.clone(),
        };
        let chain = digest::chain_of(
            &base,
            target
                .layers
                .iter()
                .map(|plan| (&plan.layer, &target.image)),
        );
        for (layer, (_, digest)) in target.layers.iter_mut().zip(chain) {
            layer.digest = digest.to_string();
        }
        Saved {
            format: FORMAT.into(),
            program: env!("CARGO_PKG_VERSION").into(),
            made: Timestamp::UNIX_EPOCH,
            place: place(),
            description: "d".into(),
            base,
            line: target
                .layers
                .iter()
                .map(|plan| SavedLayer::new(plan, &target.image))
                .collect(),
            build: target.build.clone(),
            force: false,
            no_cache: false,
            channel: Channel::Latest,
            outcome: outcome(),
        }
    }

    fn place() -> Place {
        Place {
            cloud: "aws".into(),
            account: "123456789012".into(),
            region: "eu-west-1".into(),
        }
    }

    fn outcome() -> Outcome {
        Outcome::Bake {
            image_name: "web-1.0.0-abc".into(),
            base: "ami-1".into(),
            start: "ami-1".into(),
            stale: vec![],
        }
    }

    fn bytes(saved: &Saved) -> Vec<u8> {
        let mut bytes = Vec::new();
        saved.write(&mut bytes).unwrap();
        bytes
    }

    /// The archive again, its JSON changed by hand.
    fn edited(edit: impl Fn(&str) -> String) -> Result<Saved, SavedError> {
        let packed = bytes(&saved());
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(packed.as_slice()));
        let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(
            Vec::new(),
            flate2::Compression::fast(),
        ));
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            let text = edit(&text);
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            tar.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
        let packed = tar.into_inner().unwrap().finish().unwrap();
        Saved::read(packed.as_slice())
    }

    #[test]
    fn a_plan_comes_back_whole_and_gives_the_same_bytes() {
        let plan = saved();
        assert_eq!(bytes(&plan), bytes(&plan));
        let back = Saved::read(bytes(&plan).as_slice()).unwrap();
        assert_eq!(back, plan);
        let layers = back.layers();
        assert_eq!(layers.len(), plan.line.len());
        assert_eq!(layers[0].layer.payloads.len(), 1);
        assert_eq!(layers[1].digest, plan.line[1].digest);
        assert_eq!(edited(str::to_owned).unwrap(), plan);
    }

    #[test]
    fn a_changed_or_damaged_file_is_refused_by_name() {
        let message = |result: Result<Saved, SavedError>| result.unwrap_err().to_string();
        let text = message(edited(|text| text.replace("do ci-base", "rm -r ci-base")));
        assert!(
            text.contains("changed: what it runs for `ci-base` has the digest"),
            "{text}"
        );
        let text = message(edited(|text| text.replace("a file", "no file")));
        assert!(text.contains("another content than its name"), "{text}");
        let text = message(edited(|text| text.replace(FORMAT, "piaas-bake/plan/0")));
        assert!(
            text.contains("has the format `piaas-bake/plan/0`"),
            "{text}"
        );
        let version = format!("\"program\": \"{}\"", env!("CARGO_PKG_VERSION"));
        let text = message(edited(|text| {
            text.replace(&version, "\"program\": \"0.0.1\"")
        }));
        assert!(text.contains("piaas-bake 0.0.1 made this plan"), "{text}");
        // What no recipe's digest covers.
        for (then, now) in [
            ("\"t3.medium\"", "\"p5.48xlarge\""),
            (
                "\"instance_profile\": null",
                "\"instance_profile\": \"admin\"",
            ),
            ("\"timeout_seconds\": 60", "\"timeout_seconds\": 61"),
            ("\"retries\": 0", "\"retries\": 1"),
            ("\"force\": false", "\"force\": true"),
        ] {
            let text = message(edited(|text| {
                let changed = text.replace(then, now);
                assert!(
                    changed != text || !text.starts_with('{'),
                    "no {then} in {text}"
                );
                changed
            }));
            assert_eq!(
                text,
                "the plan file has been changed: plan.json is not what its checksum says; plan anew"
            );
        }
        let text = message(edited(|text| text.replace(FORMAT, OLD_FORMAT)));
        assert!(
            text.starts_with("an older version of piaas-bake made this plan"),
            "{text}"
        );
        let text = message(edited(|text| text.replace("\"force\"", "\"farce\"")));
        assert!(text.contains("unknown field `farce`"), "{text}");
        let text = message(Saved::read(&b"schema: piaas-bake/v1\n"[..]));
        assert!(text.starts_with("this is not a plan file: "), "{text}");
        let packed = bytes(&saved());
        let text = message(Saved::read(&packed[..packed.len() / 2]));
        assert!(text.starts_with("this is not a plan file: "), "{text}");
        let mut plan = saved();
        let name = "0".repeat(64);
        plan.line[0].payloads.push(name.clone());
        let text = message(Saved::read(bytes(&plan).as_slice()));
        assert_eq!(
            text,
            format!("the plan file is damaged: files/{name} is missing")
        );
    }

    #[test]
    fn what_moved_is_named_and_nothing_else() {
        let plan = saved();
        assert_eq!(plan.moved(&place(), &outcome()), [] as [String; 0]);
        let elsewhere = Place {
            region: "eu-west-2".into(),
            ..place()
        };
        assert_eq!(
            plan.moved(&elsewhere, &outcome()),
            ["the region: eu-west-2 now, eu-west-1 when the plan was made"]
        );
        let baked = Outcome::AlreadyBaked {
            image: "ami-9".into(),
        };
        assert_eq!(
            plan.moved(&place(), &baked),
            ["ami-9 has been baked from the same since"]
        );
        // A base that moved moves the start too: said once.
        let other = Outcome::Bake {
            image_name: "web-1.0.0-abc-2".into(),
            base: "ami-2".into(),
            start: "ami-2".into(),
            stale: vec!["ami-7".into()],
        };
        assert_eq!(
            plan.moved(&place(), &other),
            [
                "the base image: ami-2 now, ami-1 when the plan was made",
                "the image's name: web-1.0.0-abc-2 now, web-1.0.0-abc when the plan was made",
                "images to remove first: ami-7 now, none when the plan was made",
            ]
        );
        let parent = Outcome::Bake {
            image_name: "web-1.0.0-abc".into(),
            base: "ami-1".into(),
            start: "ami-5".into(),
            stale: vec![],
        };
        assert_eq!(
            plan.moved(&place(), &parent),
            ["the image to start from: ami-5 now, ami-1 when the plan was made"]
        );
    }
}
