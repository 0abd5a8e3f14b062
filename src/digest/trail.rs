//! Why a bake runs a script: each script of a line, what is there of it, and which of its inputs is another than before.

use std::collections::BTreeSet;

use serde::Serialize;

use super::Step;

/// What a bake does about a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Use {
    /// It has run in what the builder starts from.
    Hit,
    /// It runs.
    Miss,
}

/// One script of a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Told {
    pub recipe: String,
    pub title: String,
    pub digest: String,
    pub layer: Use,
    /// Of a miss: why it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Tells of each script of `chain` what becomes of it when a builder starts after the first `done` of them. `base` is the
/// base image. `before` is the chain of the last bake on this host with its base image, if there was one, and `all` says
/// that nothing was to be reused.
#[must_use]
pub fn trail(
    base: &str,
    chain: &[Step],
    done: usize,
    before: Option<(&str, &[Step])>,
    all: bool,
) -> Vec<Told> {
    let mut told = Vec::new();
    for (index, step) in chain.iter().enumerate() {
        let why = (index >= done).then(|| {
            if all {
                return "nothing is reused: that was asked for".to_owned();
            }
            let Some((old_base, old)) = before else {
                return "no bake of this recipe is known on this host".to_owned();
            };
            if old.iter().any(|one| one.digest == step.digest) {
                return "unchanged, and no layer of it is kept: to run it costs less, or it was removed"
                    .to_owned();
            }
            changed(base, chain, index, old_base, old)
        });
        told.push(Told {
            recipe: step.recipe.clone(),
            title: step.script.title.clone(),
            digest: step.digest.to_string(),
            layer: if why.is_some() { Use::Miss } else { Use::Hit },
            why,
        });
    }
    told
}

/// What is another in a script than in the chain before.
fn changed(base: &str, chain: &[Step], index: usize, old_base: &str, old: &[Step]) -> String {
    let step = &chain[index];
    let mut found = Vec::new();
    let same_id = |one: &&Step| one.recipe == step.recipe && one.script.id == step.script.id;
    match old.iter().find(same_id) {
        None => found.push("it is new".to_owned()),
        Some(one) => {
            let (now, then) = (&step.script, &one.script);
            if now.sha256 != then.sha256 {
                found.push(format!(
                    "its script is another: {} was {}",
                    now.sha256.short(),
                    then.sha256.short()
                ));
            }
            let names: BTreeSet<_> = now.env.keys().chain(then.env.keys()).collect();
            found.extend(
                names
                    .into_iter()
                    .filter(|name| now.env.get(*name) != then.env.get(*name))
                    .map(|name| format!("its variable {name} is another")),
            );
            if now.reboot != then.reboot {
                found.push("whether it reboots is another".to_owned());
            }
        }
    }
    if index == 0 && base != old_base {
        found.push(format!("the base image is another: {base} was {old_base}"));
    }
    let below = index.checked_sub(1).map(|below| &chain[below]);
    if let Some(below) = below
        && !old.iter().any(|one| one.digest == below.digest)
    {
        found.push(format!("what is below it changed: {}", below.script.title));
    }
    if found.is_empty() {
        // Nothing of the script itself and nothing below it.
        found.push("its secrets, or what runs it, are others".to_owned());
    }
    found.join("; ")
}

#[cfg(test)]
mod tests {
    use super::super::{Digest, steps};
    use super::*;
    use crate::render::script::{Layer, Script};

    /// Id, text and environment.
    type Sketch<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

    fn layer(scripts: &[Sketch<'_>]) -> Layer {
        let mut layer = Layer::new("web", semver::Version::new(1, 0, 0));
        layer.provision = scripts
            .iter()
            .map(|(id, text, env)| Script {
                id: (*id).into(),
                title: format!("do {id}"),
                text: (*text).into(),
                env: env
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                    .collect(),
                timeout: std::time::Duration::from_secs(60),
                retries: 0,
                reboot: false,
            })
            .collect();
        layer
    }

    fn whys(base: &str, now: &[Step], done: usize, old: &[Step]) -> Vec<Option<String>> {
        trail(base, now, done, Some(("ami-1", old)), false)
            .into_iter()
            .map(|one| one.why)
            .collect()
    }

    #[test]
    fn each_miss_names_the_input_that_is_another() {
        let old = layer(&[
            ("a", "one", &[]),
            ("b", "two", &[("X", "1")]),
            ("c", "three", &[]),
        ]);
        let old = steps("ami-1", [&old].into_iter());
        let now = layer(&[
            ("a", "one", &[]),
            ("b", "two", &[("X", "2")]),
            ("c", "three!", &[]),
            ("d", "four", &[]),
        ]);
        let now = steps("ami-1", [&now].into_iter());
        let found = whys("ami-1", &now, 1, &old);
        assert_eq!(found[0], None);
        assert_eq!(found[1].as_deref(), Some("its variable X is another"));
        let third = found[2].as_deref().unwrap();
        assert!(third.starts_with("its script is another: "), "{third}");
        assert!(third.ends_with("what is below it changed: do b"), "{third}");
        assert!(found[3].as_deref().unwrap().starts_with("it is new"));
        // Without its layer, what is the same runs all the same.
        let found = whys("ami-1", &now, 0, &old);
        assert!(found[0].as_deref().unwrap().starts_with("unchanged"));
        let moved = steps("ami-2", [&layer(&[("a", "one", &[])])].into_iter());
        assert_eq!(
            whys("ami-2", &moved, 0, &old)[0].as_deref(),
            Some("the base image is another: ami-2 was ami-1")
        );
    }

    #[test]
    fn a_digest_stands_for_all_below_and_for_no_names() {
        let digests = |base, scripts| -> Vec<Digest> {
            let layer = layer(scripts);
            let steps = steps(base, [&layer].into_iter());
            steps.into_iter().map(|step| step.digest).collect()
        };
        let one = digests("ami-1", &[("a", "one", &[]), ("b", "two", &[])]);
        assert_eq!(
            one,
            digests("ami-1", &[("x", "one", &[]), ("y", "two", &[])])
        );
        let other = digests("ami-1", &[("a", "one!", &[]), ("b", "two", &[])]);
        assert!(one[0] != other[0] && one[1] != other[1]);
        let other = digests("ami-1", &[("a", "one", &[]), ("b", "two", &[("X", "1")])]);
        assert!(one[0] == other[0] && one[1] != other[1]);
        assert_ne!(
            one,
            digests("ami-2", &[("a", "one", &[]), ("b", "two", &[])])
        );
    }
}
