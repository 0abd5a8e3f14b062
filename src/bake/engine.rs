//! The bake itself: the phases in order, and the way back when one of them fails.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::bundle::{Bundle, TooLarge};
use super::checkpoint;
use super::claim;
use super::error::{BakeError, Failure, Kept, LeftOver};
use super::event::{Event, List, Phase, Resource};
use super::finished::{finished, result};
use super::images::{self, Image};
use super::machine::{self, Ending};
use super::names::{BundleStore, RunId};
use super::packages::{Part, Record};
use super::phases::{commands, deliver, image, launch, publish, scripts};
use super::plan::Plan;
use super::run::{Log, Run, milliseconds};
use super::saved::path_of;
use super::undo::describe;
use crate::aws::Clients;
use crate::cancel::Cancel;
use crate::events::Sink;
use crate::image::tree::TreeManifest;
use crate::journal::{self, IntentId, Journal, RunHeader, State};

/// What a run needs besides its plan.
#[derive(Debug)]
pub struct Settings<'a> {
    /// Directory of the journals and logs: `<dir>/<run>.jsonl`, `<dir>/<run>.log`.
    pub runs: &'a Path,
    /// Account id, as [`Clients::account`] gives it.
    pub account: String,
    pub run: RunId,
    /// Where bundles are put for machines to fetch; `None`: they go in commands, which limits them.
    pub bundles: Option<BundleStore>,
    pub cancel: Cancel,
    /// Leave the machine on which a bake fails, for somebody to look at.
    pub keep_on_failure: bool,
    /// Keep the layer of a script each time that so much work has been done since the last one; `None`: of none.
    pub layers: Option<Duration>,
    /// Where finished disks can be read; without it the builder's own assertion stands.
    pub disks: Option<&'a dyn Disks>,
}

/// Reads what is on the disk of an image.
pub trait Disks: Sync {
    /// The tree of an image's disk.
    ///
    /// # Errors
    /// It should be readable, and is not; why.
    fn tree(&self, image: &Image) -> Result<DiskTree, String>;
}

/// The tree of an image's disk.
#[derive(Debug)]
pub enum DiskTree {
    /// The disk cannot be read here.
    Elsewhere,
    /// The disk is still being written.
    NotYet,
    /// The disk could not be written; why.
    Failed(String),
    Here(TreeManifest),
}

impl std::fmt::Debug for dyn Disks + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disks")
    }
}

/// A finished image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Baked {
    pub image: String,
    /// Another run has made the image meanwhile, and this one has waited for it.
    pub reused: bool,
    pub name: String,
    pub digest: String,
    pub run: String,
    pub milliseconds: u64,
    pub log: PathBuf,
    /// Temporaries that could not be removed; the image is complete all the same (exit code 7).
    pub left_over: Vec<LeftOver>,
}

/// Carries out a plan.
///
/// # Errors
/// [`BakeError`]; everything that the run created has been removed then, but for what it lists as left over and an image that
/// was finished.
pub async fn bake(
    clients: &Clients,
    plan: &Plan,
    settings: Settings<'_>,
    sink: &dyn Sink<Event>,
) -> Result<Baked, BakeError> {
    let begin = |clients: &Clients, settings: &Settings<'_>| {
        let header = header(clients, plan, settings, journal::BAKE);
        Journal::create(settings.runs, header)
    };
    carry_out(clients, plan, settings, sink, Vec::new(), begin).await
}

/// Goes on with a bake whose process has died, by the plan that it had: what was done is not done again, commands and
/// snapshots that are under way are waited for. `journal` is that of the run, and of one that may be resumed
/// ([`super::resumable`]).
///
/// # Errors
/// As [`bake`].
pub async fn resume(
    clients: &Clients,
    plan: &Plan,
    journal: Journal,
    settings: Settings<'_>,
    sink: &dyn Sink<Event>,
) -> Result<Baked, BakeError> {
    let standing = describe(&journal.ledger().to_undo(), &clients.commands);
    let begin = |clients: &Clients, _: &Settings<'_>| {
        let mut journal = journal;
        journal.resumed(clients.clock.now())?;
        Ok(journal)
    };
    carry_out(clients, plan, settings, sink, standing, begin).await
}

async fn carry_out(
    clients: &Clients,
    plan: &Plan,
    settings: Settings<'_>,
    sink: &dyn Sink<Event>,
    // What is there as long as it could not be begun.
    standing: Vec<LeftOver>,
    begin: impl FnOnce(&Clients, &Settings<'_>) -> Result<Journal, journal::Error>,
) -> Result<Baked, BakeError> {
    let started = clients.clock.now();
    let keep = settings.keep_on_failure;
    let account = settings.account.clone();
    let runs = settings.runs;
    let log_path = runs.join(format!("{}.log", settings.run));
    let opened = begin(clients, &settings).map_err(Failure::from);
    let opened = opened.and_then(|journal| open(clients, plan, settings, journal, &log_path, sink));
    let mut run = match opened {
        Ok(run) => run,
        Err(failure) => {
            return Err(BakeError {
                failure,
                phase: None,
                last_lines: Vec::new(),
                log: log_path,
                left_over: standing,
                kept: None,
                finished: None,
            });
        }
    };
    run.emit(Event::Started {
        run: run.id.to_string(),
        recipe: plan.recipe.clone(),
        version: plan.version.to_string(),
        digest: plan.digest.clone(),
        image_name: plan.image_name.clone(),
        start_image: plan.start.image.id.clone(),
        cloud: clients.cloud.to_owned(),
        account,
        region: clients.region.clone(),
        log: run.log_path().display().to_string(),
    });
    let (failure, phase) = match flow(&mut run).await {
        Ok(Finished {
            image,
            name,
            reused,
        }) => {
            let left_over = release(&mut run).await;
            run.leave();
            if left_over.is_empty() {
                // The lock alone ends the run as well; a later clean-up would find nothing to do.
                let _later = run.journal.end("baked", run.now());
            }
            let baked = Baked {
                image,
                reused,
                name,
                digest: plan.digest.clone(),
                run: run.id.to_string(),
                milliseconds: milliseconds(started, run.now()),
                log: log_path,
                left_over,
            };
            run.emit(Event::Done {
                image: baked.image.clone(),
                name: baked.name.clone(),
                milliseconds: baked.milliseconds,
            });
            return Ok(baked);
        }
        Err(failure) => (failure, run.phase()),
    };
    let kept = kept(&run, &failure, phase).filter(|_| keep);
    run.emit(Event::Undoing {
        reason: failure.to_string(),
        kept: kept.as_ref().map(|kept| kept.instance.clone()),
    });
    let last_lines = run.tail.to_vec();
    let spared: &[Resource] = match &kept {
        Some(kept) => &[kept.kind, Resource::SecurityGroup],
        None => &[],
    };
    if let Some(kept) = &kept {
        // One that cannot be told that is cleaned up sooner.
        let _sooner = run.pass(checkpoint::KEPT, &kept.until.to_string());
    }
    // Nobody goes on with it. A journal that takes no more does not stop the way back.
    let _later = run.pass(journal::UNDOING, &failure.to_string());
    // Neither does one whose journal could not be told that.
    let _stays = std::fs::remove_file(path_of(runs, run.id.as_str()));
    let left_over = undo(&mut run, spared).await;
    // A run that is not ended is cleaned up by the next `cloud gc`.
    if left_over.is_empty() && kept.is_none() {
        let result = result(run.journal.ledger());
        let _later = run.journal.end(result, run.now());
    }
    let finished = finished(run.journal.ledger()).map(str::to_owned);
    run.emit(Event::Failed {
        error: failure.to_string(),
    });
    Err(BakeError {
        failure,
        phase,
        last_lines,
        log: log_path,
        left_over,
        kept,
        finished,
    })
}

/// The machine on which a bake failed, if there is one that runs and would tell something.
fn kept(run: &Run<'_>, failure: &Failure, phase: Option<Phase>) -> Option<Kept> {
    let kind = match phase? {
        Phase::Boot | Phase::Send | Phase::Provision | Phase::Validate | Phase::Seal => {
            Resource::Builder
        }
        // What is wrong with the disk is on the disk; its machine would tell nothing more.
        Phase::Test
            if matches!(
                failure,
                Failure::NotSealed { .. } | Failure::NotInspected { .. } | Failure::NoDisk { .. }
            ) =>
        {
            return None;
        }
        Phase::Test => Resource::Tester,
        _ => return None,
    };
    if matches!(
        failure,
        Failure::Cancelled | Failure::InstanceLost { .. } | Failure::Journal(_)
    ) {
        return None;
    }
    let entries = run.journal.ledger().to_undo();
    let entry = entries
        .into_iter()
        .find(|entry| entry.kind == kind.as_str())?;
    Some(Kept {
        run: run.id.to_string(),
        kind,
        instance: entry.ids.into_iter().next()?,
        until: run.expires,
    })
}

pub(super) fn header(
    clients: &Clients,
    plan: &Plan,
    settings: &Settings<'_>,
    purpose: &'static str,
) -> RunHeader {
    RunHeader {
        format: journal::FORMAT,
        purpose: purpose.to_owned(),
        run: settings.run.to_string(),
        recipe: plan.recipe.clone(),
        version: plan.version.to_string(),
        digest: plan.digest.clone(),
        cloud: clients.cloud.to_owned(),
        account: settings.account.clone(),
        region: clients.region.clone(),
        started: clients.clock.now(),
    }
}

pub(super) fn open<'a>(
    clients: &'a Clients,
    plan: &'a Plan,
    settings: Settings<'a>,
    journal: Journal,
    log_path: &Path,
    sink: &'a dyn Sink<Event>,
) -> Result<Run<'a>, Failure> {
    let log = Log::open(log_path.to_owned())?;
    let mut run = Run::new(
        clients,
        plan,
        settings.run,
        journal,
        log,
        sink,
        settings.cancel,
    );
    run.bundles = settings.bundles;
    // A layer is not cleaned: what a script makes of a secret may lie in it.
    run.layers = settings.layers.filter(|_| plan.secrets.is_empty());
    run.disks = settings.disks;
    if run.journal.ledger().resumed() > 0 {
        run.go_on();
        run.write_log("== another process goes on with the run")?;
    }
    Ok(run)
}

/// What the builder gets, and what the tester gets.
pub(super) fn bundles(plan: &Plan) -> [Bundle; 2] {
    let lists = [
        (List::Steps, plan.steps.as_slice()),
        (List::Validate, plan.validate.as_slice()),
    ];
    let tests = [(List::Test, plan.test.as_slice())];
    [
        Bundle::new(&lists, &plan.payloads, &plan.sealed, plan.source_date),
        Bundle::new(&tests, &plan.payloads, &[], plan.source_date),
    ]
}

/// Whether what a plan sends to machines can go there without a bucket.
///
/// # Errors
/// [`TooLarge`].
pub fn fits_commands(plan: &Plan) -> Result<(), TooLarge> {
    bundles(plan).iter().try_for_each(Bundle::fits_commands)
}

/// An image that can be used.
struct Finished {
    image: String,
    name: String,
    /// Another run has made it.
    reused: bool,
}

/// Everything up to the image that can be used.
async fn flow(run: &mut Run<'_>) -> Result<Finished, Failure> {
    let plan = run.plan;
    let own = |image| Finished {
        image,
        name: plan.image_name.clone(),
        reused: false,
    };
    if let Some(id) = finished(run.journal.ledger()).map(str::to_owned) {
        // Another process of this run has finished it; since then somebody may have removed it.
        image::available(run, &id).await?;
        // A wish to stop comes too late here as well.
        run.commit();
        let latest = run.standing(Resource::Latest, &plan.channel.parameter(&plan.recipe));
        if latest.is_none_or(|latest| latest.state != State::Kept) {
            point(run, &id).await?;
        }
        return Ok(own(id));
    }
    let [bundle, tests] = bundles(plan);
    if run.bundles.is_none() {
        bundle.fits_commands()?;
        tests.fits_commands()?;
    }

    run.enter(Phase::Launch)?;
    if let Some(image) = claim::claim(run).await? {
        // From here on it goes to its end: what is left is quickly done.
        run.commit();
        point(run, &image.id).await?;
        return Ok(Finished {
            image: image.id,
            name: image.name,
            reused: true,
        });
    }
    let Built {
        groups,
        intent: image_intent,
        image: made,
        installed,
    } = build(run, &bundle).await?;
    let id = made.id.clone();

    run.enter(Phase::Test)?;
    if run.passed(checkpoint::TEST).is_none() {
        test(run, &made, &groups, &tests).await?;
    }

    run.enter(Phase::Publish)?;
    let mut kept = vec![image_intent];
    kept.extend(publish::manifest(run).await?);
    if let Some(record) = record(run, installed).await? {
        kept.extend(publish::packages(run, &id, &record).await?);
    }
    run.pass(checkpoint::PUBLISH, "")?;
    publish::ready(run, &made).await?;
    // From here on others use it.
    run.commit();
    run.keep(kept)?;
    point(run, &id).await?;
    Ok(own(id))
}

/// Points the plan's channel at the finished image, unless it has gone on to a newer one since the run was cut off.
async fn point(run: &mut Run<'_>, image: &str) -> Result<(), Failure> {
    if run.journal.ledger().resumed() > 0
        && let Some(newer) = publish::newer(run, image).await?
    {
        run.emit(Event::Note {
            text: format!(
                "{} points at {newer}, which is newer: it is left there",
                run.plan.channel.parameter(&run.plan.recipe)
            ),
        });
        return Ok(());
    }
    let latest = publish::latest(run, image).await?;
    run.keep(vec![latest])
}

/// An image, with what it was made by.
pub(super) struct Built {
    pub groups: Vec<String>,
    pub intent: IntentId,
    pub image: Image,
    pub installed: Option<Part>,
}

/// Provisions a builder, and makes the image of it: all of a bake but its tests and what it publishes. It begins amid the
/// first phase.
pub(super) async fn build(run: &mut Run<'_>, bundle: &Bundle) -> Result<Built, Failure> {
    let (groups, builder) = equipped(run, bundle).await?;
    run.enter(Phase::Provision)?;
    if run.passed(checkpoint::PROVISION).is_none() {
        match run.layers {
            Some(patience) => scripts::provision(run, &builder, bundle, patience).await?,
            None => scripts::execute(run, &builder, bundle, List::Steps).await?,
        }
        run.pass(checkpoint::PROVISION, "")?;
    }
    run.enter(Phase::Validate)?;
    if run.passed(checkpoint::VALIDATE).is_none() {
        scripts::execute(run, &builder, bundle, List::Validate).await?;
        run.pass(checkpoint::VALIDATE, "")?;
    }
    run.enter(Phase::Seal)?;
    let packages = match run.passed(checkpoint::SEAL) {
        Some(packages) => packages,
        None => {
            let packages = commands::seal(run, &builder, bundle).await?;
            run.pass(checkpoint::SEAL, &packages)?;
            packages
        }
    };
    let installed = commands::installed(run, &packages);
    run.enter(Phase::Stop)?;
    if run.passed(checkpoint::STOP).is_none() {
        launch::stop(run, &builder).await?;
        run.pass(checkpoint::STOP, "")?;
    }

    run.enter(Phase::Image)?;
    let (intent, id) = image::create(run, &builder).await?;
    let image = image::available(run, &id).await?;
    image::put_off(run, &image).await?;
    // The snapshot is complete: the builder may go.
    let _waited_for_at_the_end = machine::terminate(run.clients, &builder, Ending::Orderly).await;
    Ok(Built {
        groups,
        intent,
        image,
        installed,
    })
}

/// Launches a builder and brings it its bundle; gives its security groups and its id.
pub(super) async fn equipped(
    run: &mut Run<'_>,
    bundle: &Bundle,
) -> Result<(Vec<String>, String), Failure> {
    let sent = run.passed(checkpoint::SEND).is_some();
    // Before the builder: a bucket that cannot be used costs no machine.
    let deposit = match sent {
        true => None,
        false => deliver::deposit(run, bundle).await?,
    };
    let (groups, _) = launch::security_groups(run).await?;
    let start = &run.plan.start.image;
    let (_, builder) = launch::instance(run, Resource::Builder, start, &groups).await?;
    run.enter(Phase::Boot)?;
    if run.passed(checkpoint::BOOT).is_none() {
        launch::online(run, &builder).await?;
        run.pass(checkpoint::BOOT, "")?;
    }
    run.enter(Phase::Send)?;
    if !sent {
        deliver::send(run, &builder, bundle, deposit).await?;
        run.pass(checkpoint::SEND, "")?;
    }
    Ok((groups, builder))
}

/// What is installed in the image: by this bake, and by those of the image that it started from, if that is known.
pub(super) async fn record(
    run: &Run<'_>,
    installed: Option<Part>,
) -> Result<Option<Record>, Failure> {
    let Some(part) = installed else {
        return Ok(None);
    };
    let start = &run.plan.start;
    if start.image.id == run.plan.base.id {
        return Ok(Some(Record::after(None, part)));
    }
    let before = images::packages(run.clients, &start.image.id).await?;
    Ok(before.map(|before| Record::after(Some(before), part)))
}

/// Boots the image and runs its tests; an image without tests must at least boot.
async fn test(
    run: &mut Run<'_>,
    made: &Image,
    groups: &[String],
    bundle: &Bundle,
) -> Result<(), Failure> {
    let (_, tester) = launch::instance(run, Resource::Tester, made, groups).await?;
    // While it boots.
    image::inspect(run, made).await?;
    launch::online(run, &tester).await?;
    if !run.plan.test.is_empty() {
        let deposit = deliver::deposit(run, bundle).await?;
        deliver::send(run, &tester, bundle, deposit).await?;
        scripts::execute(run, &tester, bundle, List::Test).await?;
    }
    run.pass(checkpoint::TEST, "")?;
    // It takes its time to end: it may as well begin now.
    let _waited_for_at_the_end = machine::terminate(run.clients, &tester, Ending::AtOnce).await;
    Ok(())
}

/// Removes the temporaries of a bake that succeeded.
async fn release(run: &mut Run<'_>) -> Vec<LeftOver> {
    // A wish to stop comes too late to undo anything here.
    let _stopping = run.enter(Phase::Release);
    undo(run, &[]).await
}

/// Removes what the run has created, but for the kinds that are spared.
pub(super) async fn undo(run: &mut Run<'_>, spared: &[Resource]) -> Vec<LeftOver> {
    let undo = run.undo();
    let is_finished = undo.settle(&mut run.journal).await;
    undo.all(&mut run.journal, spared, is_finished).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bake_may_move_between_threads() {
        fn bakes<'a>(
            clients: &'a Clients,
            plan: &'a Plan,
            settings: Settings<'a>,
        ) -> impl Send + 'a {
            bake(clients, plan, settings, &())
        }
        fn undoes<'a>(clients: &'a Clients, runs: &'a Path) -> impl Send + 'a {
            crate::bake::undo_dead_runs(clients, "", runs, &())
        }
        let _compiles = (bakes as fn(_, _, _) -> _, undoes as fn(_, _) -> _);
    }
}
