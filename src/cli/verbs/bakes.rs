//! Several recipes at the same time: what they share is baked once, and first.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};

use super::bake::{
    UnderWay, Way, after_its_parent, already_baked, already_document, baked_document,
    cancel_on_signal, carry_out, describe, not_baked,
};
use super::plan::{Order, Wishes, decide, prepare};
use super::{layers, saved};
use crate::bake::Baked;
use crate::bake::images::Image;
use crate::bake::plan::{Decision, Plan};
use crate::cancel::Cancel;
use crate::cli::args::{BakeArgs, Format};
use crate::cli::context::{Connected, Context};
use crate::cli::error::{CliError, CliResult};
use crate::cli::locked::connect;
use crate::cli::style::elapsed;
use crate::cli::view::progress::Lanes;
use crate::cli::{exit, github, output};
use crate::recipe::Given;

/// Bakes that go on at the same time, if nobody says how many.
const JOBS: u16 = 4;

/// One image to bake.
struct Node {
    order: Order,
    wishes: Wishes,
    /// Somebody asked for it by name; otherwise it is what others are built on.
    asked: bool,
    /// The one that must be there first.
    after: Option<usize>,
}

/// How that ended.
enum Ending {
    Baked(Box<Plan>, Box<Baked>),
    AlreadyBaked(Box<Image>),
    Failed(CliError),
    /// What it is built on could not be baked; the same steps would fail again.
    ParentFailed(String),
}

/// Bakes the recipes of `args`, which are several.
///
/// # Errors
/// One of them is invalid (nothing is baked then), or could not be baked: the code of the first that failed.
pub async fn run(context: &Context, args: &BakeArgs) -> CliResult {
    refuse_options(args)?;
    let mut nodes = nodes(context, args)?;
    let orders: Vec<&Order> = nodes.iter().map(|node| &node.order).collect();
    let connected = connect(context, &orders, args.offline).await?;
    for node in &mut nodes {
        node.order = node.order.clone().pinned(&connected)?;
    }
    let (cancel, under_way) = cancel_on_signal(context)?;
    for node in nodes.iter().filter(|node| !node.asked) {
        let recipe = &node.order.recipe;
        output::note(&format!(
            "{recipe} comes first: more than one of them is built on it"
        ));
    }
    let lanes = Lanes::new(
        context.err,
        context.clock.clone(),
        nodes.iter().map(|node| node.order.recipe.as_str()),
    )
    .grouped(context.github);
    // Which are there; `None` as long as it is not known.
    let (done, _) = watch::channel(vec![None; nodes.len()]);
    let turns = Semaphore::new(usize::from(args.jobs.unwrap_or(JOBS)));
    let work = nodes.iter().enumerate().map(|(number, node)| {
        let (connected, lanes, turns, done) = (&connected, &lanes, &turns, &done);
        let (nodes, stop) = (&nodes, (cancel.clone(), under_way.clone()));
        async move {
            let ending = match failed_parent(node, done.subscribe()).await {
                Some(parent) => Ending::ParentFailed(nodes[parent].order.recipe.clone()),
                None => {
                    let _turn = turns.acquire().await;
                    one(context, connected, node, args, lanes, stop)
                        .await
                        .unwrap_or_else(Ending::Failed)
                }
            };
            let is_there = matches!(ending, Ending::Baked(..) | Ending::AlreadyBaked(_));
            done.send_modify(|done| done[number] = Some(is_there));
            ending
        }
    });
    let endings = join_all(work).await;
    drop(lanes);
    end(context, &nodes, &endings)
}

fn refuse_options(args: &BakeArgs) -> Result<(), CliError> {
    if let Some(file) = args.recipe.iter().find(|name| saved::is_file(name)) {
        return Err(CliError::new(
            exit::USAGE,
            format!("the plan file {file} is carried out alone; give it by itself"),
        ));
    }
    if args.sets.set.is_empty() && args.sets.values.is_empty() {
        return Ok(());
    }
    Err(CliError::new(
        exit::USAGE,
        "--set and --values are for one recipe at a time",
    )
    .hint("bake them one by one, each with its own"))
}

/// What is asked for, and before it what more than one of that is built on.
fn nodes(context: &Context, args: &BakeArgs) -> Result<Vec<Node>, CliError> {
    let node = |order, asked, after| {
        let mut wishes = Wishes::from(&args.how);
        wishes.force &= asked;
        Node {
            order,
            wishes,
            asked,
            after,
        }
    };
    let asked: BTreeSet<&String> = args.recipe.iter().collect();
    let mut orders = Vec::new();
    for recipe in asked {
        let order = prepare(context, recipe, &Given::default())?;
        order.check_locked(args.only_locked())?;
        orders.push((order, true));
    }
    // Nothing is started from without a cache.
    if args.how.no_cache {
        let alone = orders.into_iter();
        return Ok(alone.map(|(order, _)| node(order, true, None)).collect());
    }
    let lines: Vec<Vec<&str>> = orders.iter().map(|(order, _)| digests(order)).collect();
    let mut shared = Vec::new();
    for (line, depth) in forks(&lines) {
        let layer = &orders[line].0.layers[depth];
        // With other values of its parameters it is another image, which is nobody's by name.
        if let Ok(order) = prepare(context, &layer.recipe, &Given::default())
            && digests(&order).last() == Some(&layer.digest.as_str())
        {
            shared.push((order, false));
        }
    }
    orders.extend(shared);
    let lines: Vec<Vec<&str>> = orders.iter().map(|(order, _)| digests(order)).collect();
    let after: Vec<_> = (0..lines.len())
        .map(|number| below(&lines, number))
        .collect();
    Ok(orders
        .into_iter()
        .zip(after)
        .map(|((order, asked), after)| node(order, asked, after))
        .collect())
}

fn digests(order: &Order) -> Vec<&str> {
    order
        .layers
        .iter()
        .map(|layer| layer.digest.as_str())
        .collect()
}

/// Where lines part: the last layer that two of them have in common, by line and place, each layer once. A layer that
/// is the end of a line is asked for already.
fn forks(lines: &[Vec<&str>]) -> Vec<(usize, usize)> {
    let mut seen = BTreeSet::new();
    let mut forks = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        for other in &lines[number + 1..] {
            let common = line.iter().zip(other).take_while(|(a, b)| a == b).count();
            let is_end = common == line.len() || common == other.len();
            if common > 0 && !is_end && seen.insert(line[common - 1]) {
                forks.push((number, common - 1));
            }
        }
    }
    forks
}

/// The line that ends deepest inside a line.
fn below(lines: &[Vec<&str>], number: usize) -> Option<usize> {
    let line = &lines[number];
    let inside = &line[..line.len() - 1];
    (0..lines.len())
        .filter(|other| *other != number)
        .filter_map(|other| {
            let end = lines[other].last()?;
            let depth = inside.iter().position(|digest| digest == end)?;
            Some((depth, other))
        })
        .max()
        .map(|(_, other)| other)
}

/// Waits for what a node is built on; gives it if it could not be baked.
async fn failed_parent(node: &Node, mut done: watch::Receiver<Vec<Option<bool>>>) -> Option<usize> {
    let parent = node.after?;
    // The sender lives as long as all the work.
    let is_there = done
        .wait_for(|done| done[parent].is_some())
        .await
        .is_ok_and(|done| done[parent] == Some(true));
    (!is_there).then_some(parent)
}

async fn one(
    context: &Context,
    connected: &Connected,
    node: &Node,
    args: &BakeArgs,
    lanes: &Lanes,
    (cancel, under_way): (Cancel, UnderWay),
) -> Result<Ending, CliError> {
    let recipe = &node.order.recipe;
    if cancel.is_cancelled() {
        return Err(CliError::new(
            exit::INTERRUPTED,
            format!("interrupted before {recipe} was begun"),
        ));
    }
    let decision = decide(context, connected, &node.order, node.wishes.clone()).await?;
    match decision {
        Decision::AlreadyBaked(image) => {
            if node.asked {
                already_baked(context, connected, recipe, node.wishes.channel, &image).await?;
            }
            lanes.lane(recipe).note(&format!(
                "{} {} is baked already",
                context.err.tick(),
                image.name
            ));
            Ok(Ending::AlreadyBaked(image))
        }
        Decision::Bake(plan) => {
            if args.explain {
                layers::tell(context, &plan, &args.how)?;
            }
            let way = Way {
                cancel,
                under_way,
                keep_on_failure: args.keep_on_failure,
                progress: lanes.lane(recipe),
                saved: None,
                run: None,
            };
            let way = way.resumable(context, connected, (&node.order, &node.wishes), &plan);
            let baked = carry_out(context, connected, &plan, way).await?;
            let took = elapsed(std::time::Duration::from_millis(baked.milliseconds));
            lanes.lane(recipe).note(&format!(
                "{} {} in {took}: {}",
                context.err.tick(),
                baked.name,
                baked.image
            ));
            Ok(Ending::Baked(plan, Box::new(baked)))
        }
    }
}

fn end(context: &Context, nodes: &[Node], endings: &[Ending]) -> CliResult {
    let mut left_over = false;
    let mut failed: Vec<String> = Vec::new();
    let mut code = None;
    let mut documents = Vec::new();
    for (node, ending) in nodes.iter().zip(endings) {
        let recipe = &node.order.recipe;
        documents.push(document(recipe, ending));
        match ending {
            Ending::Baked(_, baked) => {
                for left in &baked.left_over {
                    output::note(&format!("{recipe}: {}", describe(left)));
                }
                left_over |= !baked.left_over.is_empty();
                print_image(context, node, &baked.image)?;
            }
            Ending::AlreadyBaked(image) => print_image(context, node, &image.id)?,
            Ending::Failed(error) => {
                output::note(error.render(context.err).trim_end());
                if context.github {
                    for line in github::annotations_of(recipe, error) {
                        output::command(&line);
                    }
                }
                code.get_or_insert(error.code);
                if node.asked {
                    failed.push(recipe.clone());
                }
            }
            Ending::ParentFailed(parent) if node.asked => {
                failed.push(after_its_parent(recipe, parent));
            }
            Ending::ParentFailed(_) => {}
        }
    }
    if context.format == Format::Json {
        output::json(&json!({ "recipes": documents }))?;
    }
    let Some(code) = code else {
        return Ok(if left_over {
            exit::CLEANUP_INCOMPLETE
        } else {
            exit::DONE
        });
    };
    // Whoever asked for two recipes did not count what they are built on.
    let asked = nodes.iter().filter(|node| node.asked).count();
    context.failed_after_its_document(not_baked(code, &failed, asked))
}

fn print_image(context: &Context, node: &Node, image: &str) -> Result<(), CliError> {
    if context.format == Format::Human && node.asked {
        output::data(&format!("{} {image}\n", node.order.recipe))?;
    }
    Ok(())
}

fn document(recipe: &str, ending: &Ending) -> Value {
    match ending {
        Ending::Baked(plan, baked) => baked_document(plan, baked),
        Ending::AlreadyBaked(image) => already_document(recipe, image),
        Ending::Failed(error) => {
            json!({ "recipe": recipe, "outcome": "failed", "error": error.to_json() })
        }
        Ending::ParentFailed(parent) => {
            json!({ "recipe": recipe, "outcome": "parent-failed", "parent": parent })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_part_where_they_have_no_more_in_common() {
        let lines = [
            vec!["base", "ci", "web"],
            vec!["base", "ci", "api"],
            vec!["base", "tool"],
        ];
        // `ci` is shared by two, `base` by all three.
        assert_eq!(forks(&lines), [(0, 1), (0, 0)]);
        // What is asked for itself is no fork, and nor is nothing.
        assert_eq!(forks(&[vec!["base", "ci"], vec!["base"]]), []);
        assert_eq!(forks(&[vec!["a"], vec!["b"]]), []);
    }

    #[test]
    fn the_deepest_line_inside_comes_first() {
        let lines = [vec!["base", "ci", "web"], vec!["base"], vec!["base", "ci"]];
        assert_eq!(below(&lines, 0), Some(2));
        assert_eq!(below(&lines, 2), Some(1));
        assert_eq!(below(&lines, 1), None);
    }
}
