//! Images compared by what machines of theirs list: on AWS, where disks are not at hand. What a boot writes does not count,
//! and it is said what that was.

use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use super::bake::{Way, describe, failed_as, watched};
use super::diff::{Side, document, files, shown, text};
use super::diff_args::{DiffArgs, VerifyArgs};
use super::images::find;
use super::plan::{Wishes, decide};
use super::verify;
use crate::aws::tags;
use crate::bake::images::{self, Image};
use crate::bake::names::Channel;
use crate::bake::plan::{Decision, Plan};
use crate::bake::{BakeError, Compared, Settings, Stamped, bake_again, list_both};
use crate::cli::args::Format;
use crate::cli::context::{Connected, Context, cloud, invalid};
use crate::cli::error::{CliError, CliResult};
use crate::cli::locked::connect;
use crate::cli::{exit, output};
use crate::digest::{Manifest, Under};
use crate::image::SOURCE_DATE;
use crate::image::compare::{Comparison, FileChange, compare};
use crate::image::leaks::Sealed;
use crate::image::leaks::booted::{Parted, Traces};
use crate::image::tree::listing::Attributes;
use crate::recipe;
use crate::recipe::Given;
use crate::recipe::model::BuildSpec;

/// Recipes of a line, at the most: whoever stored a circle gets no further.
const LINE: usize = 100;

/// `diff` by machines.
pub async fn diff(context: &Context, args: &DiffArgs) -> CliResult {
    let connected = context.connect_to_act().await?;
    let images = [
        find(&connected, &args.a).await?,
        find(&connected, &args.b).await?,
    ];
    let [a, b] = &images;
    let said = [said_of(&connected, a).await?, said_of(&connected, b).await?];
    // Of two dates the earlier: what is later was written by a bake, in one of them at least.
    let dates = said.iter().filter_map(|said| said.source_date);
    let date = dates.min().unwrap_or(SOURCE_DATE);
    let plan = Plan::to_list([a, b], build(context, args, [b, a])?, date);
    let way = Way::alone(context, false)?;
    let act = async |settings: Settings<'_>, sink: &UnboundedSender<Stamped>| {
        list_both(&connected.clients, &plan, [a, b], settings, sink).await
    };
    let (listed, returned) = watched(context, &connected, &plan, way, act).await?;
    let listed = listed.map_err(|error| not_compared(context, &error))?;
    returned?;
    let own: Vec<Sealed> = said.into_iter().flat_map(|said| said.sealed).collect();
    let held = Held::new([a, b], listed, &own, date);
    let found = held.content();
    let same = found.is_same();
    match context.format {
        Format::Json => output::json(&held.document(&found, ["from", "to"])?)?,
        Format::Human => {
            let head = if same {
                String::new()
            } else {
                let all = text(&found, args.all);
                format!("{} {} -> {} {}\n{all}\n", a.id, a.name, b.id, b.name)
            };
            output::data(&format!("{head}{}", held.text(same, args.all)))?;
        }
    }
    let code = if args.exit_code && !same {
        exit::MISMATCH
    } else {
        exit::DONE
    };
    Ok(held.code(code))
}

/// `verify` by machines: the image is baked again, cold, and nothing names the second one.
pub async fn verify(context: &Context, args: &VerifyArgs) -> CliResult {
    let found = find(&context.connect().await?, &args.image).await?;
    let order = verify::order(context, &found, args)?;
    let connected = connect(context, &[&order], false).await?;
    let order = order.pinned(&connected)?;
    let wishes = Wishes::new(true, Channel::Latest, true);
    let Decision::Bake(plan) = decide(context, &connected, &order, wishes).await? else {
        return Err(CliError::new(exit::BUG, "a forced bake found its image"));
    };
    if let Some(base) = found.tag(tags::BASE_IMAGE)
        && base != plan.base.id
    {
        let now = &plan.base.id;
        return Err(CliError::new(
            exit::MISMATCH,
            format!("{} stands on the base image {base}, and a bake stands on {now} now", found.id),
        )
        .hint("the lock file of the recipe at the root pins it: go back to the one that it was baked by"));
    }
    let way = Way::alone(context, false)?;
    let act = async |settings: Settings<'_>, sink: &UnboundedSender<Stamped>| {
        bake_again(&connected.clients, &plan, &found, args.keep, settings, sink).await
    };
    let (again, returned) = watched(context, &connected, &plan, way, act).await?;
    let again = again
        .map_err(|error| failed_as(context, "the bake", &error).complete(&context.commands()))?;
    returned?;
    let Some(second) = again.again.clone() else {
        return Err(CliError::new(exit::BUG, "a bake made no image"));
    };
    let held = Held::new([&found, &second], again, &plan.sealed, plan.source_date);
    let differences = held.content();
    let same = differences.is_same();
    match context.format {
        Format::Json => {
            let mut value = held.document(&differences, ["image", "again"])?;
            value["kept"] = json!(args.keep);
            output::json(&value)?;
        }
        Format::Human if same => output::data(&format!(
            "{} {} is the same when it is baked again\n{}",
            context.out.tick(),
            found.name,
            held.text(same, args.all)
        ))?,
        Format::Human => output::data(&format!(
            "{} is another one when it is baked again\n{}\n{}",
            found.name,
            text(&differences, args.all),
            held.text(same, args.all)
        ))?,
    }
    if args.keep {
        let id = &second.id;
        output::note(&format!(
            "kept: {id}; remove it with: aws ec2 deregister-image --delete-associated-snapshots --image-id {id}"
        ));
    }
    Ok(held.code(if same { exit::DONE } else { exit::MISMATCH }))
}

/// What an image's recipes say about its listing.
#[derive(Debug, Default)]
struct Said {
    source_date: Option<i64>,
    sealed: Vec<Sealed>,
}

/// By the manifests of its line; nothing for an image that no bake made.
async fn said_of(connected: &Connected, image: &Image) -> Result<Said, CliError> {
    let mut said = Said::default();
    let mut next = image.digest().map(str::to_owned);
    for _ in 0..LINE {
        let Some(digest) = next.take() else { break };
        let text = images::manifest(&connected.clients, &digest)
            .await
            .map_err(|error| cloud(&error))?;
        let Some(manifest) = text.and_then(|text| Manifest::from_json(&text).ok()) else {
            output::note(&format!(
                "note: no manifest of {digest} is stored: what its recipe says in `seal` is not known"
            ));
            break;
        };
        said.source_date = said.source_date.or(Some(manifest.source_date));
        said.sealed.extend(manifest.sealed);
        if let Under::Parent(parent) = manifest.on {
            next = Some(parent.to_string());
        }
    }
    Ok(said)
}

/// How to launch the machines: as the recipe that was named says, or that of the first image that has one here.
fn build(context: &Context, args: &DiffArgs, images: [&Image; 2]) -> Result<BuildSpec, CliError> {
    let recipes = &context.settings.recipes;
    let load = |name: &str| {
        let merged = recipe::merge_with(recipes, name, &Given::default());
        // Values of parameters may be missing; they do not matter here.
        merged.map(|merged| merged.resolved.build)
    };
    if let Some(name) = &args.like {
        return load(name).map_err(|found| invalid(&found));
    }
    let names = images.iter().filter_map(|image| image.tag(tags::RECIPE));
    if let Some(build) = names.filter_map(|name| load(name).ok()).next() {
        return Ok(build);
    }
    let mut build = BuildSpec::default();
    if images[0].architecture == "arm64" {
        build.instance_types = vec!["t4g.medium".into()];
    }
    output::note(&format!(
        "note: the recipe of neither image is here: their machines are {} in the default VPC, without an instance \
         profile; --like RECIPE launches them as a recipe says in `build`",
        build.instance_types.join(" or ")
    ));
    Ok(build)
}

fn not_compared(context: &Context, error: &BakeError) -> CliError {
    let mut edge = failed_as(context, "the comparison", error);
    // Nothing was baked.
    if edge.code == exit::BAKE_FAILED {
        edge.code = exit::FAILURE;
    }
    edge.complete(&context.commands())
}

/// Two images that have been listed.
struct Held<'a> {
    images: [&'a Image; 2],
    parted: [Parted; 2],
    digests: [String; 2],
    traces: Traces,
    /// In words.
    not_compared: Vec<String>,
    source_date: i64,
    compared: Compared,
}

impl<'a> Held<'a> {
    fn new(
        images: [&'a Image; 2],
        mut compared: Compared,
        own: &[Sealed],
        source_date: i64,
    ) -> Self {
        let date = jiff::Timestamp::from_second(source_date)
            .map_or_else(|_| source_date.to_string(), |date| date.to_string());
        let mut not_compared = vec![
            format!("times of directories, and which time after {date} a file has"),
            "other file systems than the root, such as the boot loader's, and where they are mounted".to_owned(),
        ];
        let [first, second] = &mut compared.listings;
        if let Some(what) = unknown(first.attributes, second.attributes) {
            not_compared.push(what.to_owned());
        }
        if first.attributes != second.attributes {
            for entry in [&mut first.tree, &mut second.tree]
                .into_iter()
                .flat_map(|tree| &mut tree.entries)
            {
                entry.xattrs.clear();
            }
        }
        let traces = Traces::new(own);
        let parted = [&compared.listings[0], &compared.listings[1]]
            .map(|listing| traces.part(listing.tree.clone()));
        Self {
            images,
            digests: [&parted[0], &parted[1]].map(|part| part.content.digest()),
            parted,
            traces,
            not_compared,
            source_date,
            compared,
        }
    }

    /// What makes the images differ.
    fn content(&self) -> Comparison<'_> {
        compare(&self.parted[0].content, &self.parted[1].content)
    }

    /// In what the boots of the two differ.
    fn booted(&self) -> Vec<FileChange<'_>> {
        compare(&self.parted[0].traces, &self.parted[1].traces).files
    }

    fn why(&self, change: &FileChange<'_>) -> &str {
        self.traces
            .of(change.entry())
            .map_or("", |leak| leak.why.as_str())
    }

    /// The exit code: what could not be removed comes first.
    fn code(&self, code: u8) -> u8 {
        for left in &self.compared.left_over {
            output::note(&describe(left));
        }
        if self.compared.left_over.is_empty() {
            code
        } else {
            exit::CLEANUP_INCOMPLETE
        }
    }

    fn document(&self, found: &Comparison<'_>, keys: [&str; 2]) -> Result<Value, CliError> {
        let side = |place: usize| Side {
            image: self.images[place],
            digest: &self.digests[place],
        };
        let sides = [(keys[0], side(0)), (keys[1], side(1))];
        let mut value = document(found, found.is_same(), sides)?;
        let booted = self.booted();
        let but_for = booted.iter().map(|change| {
            let mut value = json!(change);
            value["path"] = json!(change.entry().path);
            value["why"] = json!(self.why(change));
            value
        });
        value["but_for"] = but_for.collect();
        value["not_compared"] = json!(self.not_compared);
        value["source_date"] = json!(self.source_date);
        value["listed_on"] = json!("machines");
        value["left_over"] = json!(self.compared.left_over);
        Ok(value)
    }

    /// What the claim is, for people.
    fn text(&self, same: bool, all: bool) -> String {
        let booted = self.booted();
        let mut changes: Vec<&FileChange<'_>> = booted.iter().collect();
        changes.sort_by_key(|change| change.entry().path.0.clone());
        let why = |change: &FileChange<'_>| match self.why(change) {
            "" => String::new(),
            why => format!("  ({why})"),
        };
        let lines = files(&changes, all, &why);
        let paths = if changes.len() == 1 { "path" } else { "paths" };
        let title = match (same, changes.len()) {
            (true, 0) => "the same content".to_owned(),
            (true, count) => {
                format!("the same content but for {count} {paths} that a boot writes:")
            }
            (false, 0) => String::new(),
            (false, count) => format!("not counted, for a boot writes there: {count} {paths}"),
        };
        let mut out = String::new();
        if !title.is_empty() {
            out.push_str(&format!("{title}\n"));
        }
        out.push_str(&shown(lines, all));
        let [first, second] = &self.digests;
        let digest = if same {
            first.clone()
        } else {
            format!("{first} -> {second}")
        };
        out.push_str(&format!("tree, without what a boot writes: {digest}\n"));
        out.push_str(&format!("not compared: {}\n", self.not_compared.join("; ")));
        out
    }
}

/// What is not known of extended attributes.
fn unknown(first: Attributes, second: Attributes) -> Option<&'static str> {
    match (first, second) {
        (Attributes::All, Attributes::All) => None,
        (Attributes::Capabilities, Attributes::Capabilities) => {
            Some("extended attributes but for file capabilities (the machines have no getfattr)")
        }
        (one, other) if one == other => {
            Some("extended attributes (the machines have neither getfattr nor getcap)")
        }
        _ => Some("extended attributes (one machine has other programs for them than the other)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bake::images::sample;
    use crate::image::compare::tests::manifest;
    use crate::image::tree::listing::Listing;
    use crate::image::tree::{ByteString, Node};

    fn listing(id: &str, conf: &str, attributes: Attributes) -> Listing {
        let nodes = vec![
            ("etc/conf", Node::file(conf, 0o644, 0)),
            ("etc/machine-id", Node::file(id, 0o444, 0)),
            ("usr/bin/ping", Node::file("ping", 0o755, 0)),
        ];
        let mut tree = manifest(&[("jq", "1")], nodes);
        for entry in &mut tree.entries {
            if entry.path.0.ends_with(b"ping") {
                let word = |text: &str| ByteString(text.as_bytes().to_vec());
                let value = format!("{attributes:?}");
                entry.xattrs = vec![(word("security.capability"), word(&value))];
            }
        }
        Listing { tree, attributes }
    }

    /// What people and machines are told.
    fn told(listings: [Listing; 2]) -> (bool, String, Value) {
        let images = ["ami-1", "ami-2"].map(|id| sample(id, "web", &[]));
        let compared = Compared {
            listings,
            again: None,
            left_over: Vec::new(),
        };
        let held = Held::new([&images[0], &images[1]], compared, &[], 0);
        let found = held.content();
        let same = found.is_same();
        let document = held.document(&found, ["from", "to"]).unwrap();
        (same, held.text(same, false), document)
    }

    #[test]
    fn the_claim_names_what_it_leaves_out() {
        use Attributes::{All, Capabilities, Nothing};
        let (same, text, document) = told([listing("1", "a", All), listing("2", "a", All)]);
        let digest = document["from"]["tree_digest"].as_str().unwrap();
        assert!(same && document["same"] == true);
        assert_eq!(document["to"]["tree_digest"], digest);
        let expected = format!(
            "the same content but for 1 path that a boot writes:\n  ~ /etc/machine-id  content  (random: the id of the \
             machine)\ntree, without what a boot writes: {digest}\nnot compared: times of directories, and which time \
             after 1970-01-01T00:00:00Z a file has; other file systems than the root, such as the boot loader's, and where they are mounted\n"
        );
        assert_eq!(text, expected);
        let but_for = &document["but_for"][0];
        assert_eq!(but_for["path"], "etc/machine-id");
        assert_eq!(but_for["why"], "random: the id of the machine");
        assert_eq!(but_for["differs"], json!(["content"]));

        let (same, text, _) = told([listing("1", "a", All), listing("1", "a", All)]);
        assert!(
            same && text.starts_with("the same content\ntree, "),
            "{text}"
        );

        let (same, text, document) = told([listing("1", "a", All), listing("2", "b", All)]);
        assert!(!same && document["files"].as_array().unwrap().len() == 1);
        assert!(
            text.starts_with("not counted, for a boot writes there: 1 path\n"),
            "{text}"
        );
        assert!(text.contains(" -> "), "{text}");

        // What only one of them tells of attributes is no difference, and it is said that it was not compared.
        for (one, other, words) in [
            (All, Capabilities, "one machine has other programs"),
            (Capabilities, Nothing, "one machine has other programs"),
            (Capabilities, Capabilities, "but for file capabilities"),
            (Nothing, Nothing, "neither getfattr nor getcap"),
        ] {
            let (same, text, document) = told([listing("1", "a", one), listing("1", "a", other)]);
            assert!(same, "{text}");
            assert!(text.contains(words), "{text}");
            assert_eq!(document["not_compared"].as_array().unwrap().len(), 3);
        }
    }
}
