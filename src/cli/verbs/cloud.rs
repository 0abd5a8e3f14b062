//! `cloud`: the local cloud itself.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::layers;
use crate::bake::{self, LeftOver};
use crate::cli::args::{CloudName, Format};
use crate::cli::context::{Connected, Context, io};
use crate::cli::error::{CliError, CliResult};
use crate::cli::{exit, interrupt, lent, output};
use crate::events::Sink;
use crate::journal::{self, RunFile, RunState};
use crate::localcloud::faults::Faults;
use crate::localcloud::inventory::{Item, Kind, Reaped};
use crate::localcloud::{self, LocalCloud, gc};

pub async fn serve(context: &Context, listen: SocketAddr, script: Option<&Path>) -> CliResult {
    only_local(context)?;
    if !listen.ip().is_loopback() {
        return Err(
            CliError::new(exit::USAGE, format!("{listen} is not a loopback address")).hint(
                "the local cloud has one well-known key; it listens on 127.0.0.1 or [::1] only",
            ),
        );
    }
    let script = script.map(faults).transpose()?;
    let connected = context.connect_to_act().await?;
    let local = match &script {
        Some(script) => context.open_local_with(Some(script.clone()))?,
        None => local(&connected)?,
    };
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .map_err(|error| {
            CliError::failure(format!("cannot listen on {listen}"))
                .because(&error)
                .hint("choose another port with --listen")
        })?;
    let address = listener
        .local_addr()
        .map_err(|error| CliError::failure("cannot tell the address").because(&error))?;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    interrupt::on_signal(move || {
        stop.send_replace(true);
    })?;
    match context.format {
        Format::Json => output::json(&json!({
            "endpoint": format!("http://{address}"),
            "access_key_id": localcloud::ACCESS_KEY,
            "secret_access_key": localcloud::SECRET_KEY,
            "region": connected.clients.region,
        }))?,
        Format::Human => output::data(&format!(
            // boto3 and version 1 of the AWS CLI read only AWS_DEFAULT_REGION, the SDKs AWS_REGION.
            "export AWS_ENDPOINT_URL=http://{address} AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={} \
             AWS_REGION={region} AWS_DEFAULT_REGION={region}\n",
            localcloud::ACCESS_KEY,
            localcloud::SECRET_KEY,
            region = connected.clients.region
        ))?,
    }
    if let Some(script) = &script {
        output::note(&format!("with faults, seed {}", script.seed()));
    }
    output::note(
        "serving; paste the line above where you run `aws` or boto3. Ctrl-C ends it, machines stay until they are terminated.",
    );
    let mut stopped = stopped;
    let shutdown = async move {
        // An error means that the signal watcher is gone, and with it this process.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    // The machines' own endpoint leaves Auto Scaling to a process with faults.
    let ticking = script.is_some().then(|| tokio::spawn(tick(local.clone())));
    localcloud::serve::serve(local, listener, shutdown)
        .await
        .map_err(|error| CliError::failure("the server ended").because(&error))?;
    if let Some(ticking) = ticking {
        ticking.abort();
    }
    Ok(exit::DONE)
}

pub async fn status(context: &Context) -> CliResult {
    only_local(context)?;
    let dir = context.settings.cloud_dir();
    if !dir.exists() {
        match context.format {
            Format::Json => output::json(
                &json!({ "directory": dir, "resources": [], "buckets": [], "left_behind": [] }),
            )?,
            Format::Human => {
                output::data("there is no local cloud yet: nothing runs and nothing is kept\n")?
            }
        }
        return Ok(exit::DONE);
    }
    let local = context.open_local()?;
    let items = inventory(&local)?;
    let left = gc::survey(
        &dir,
        &ids(&items, Kind::Instance),
        &ids(&items, Kind::Snapshot),
    );
    let buckets = local
        .buckets()
        .map_err(|error| CliError::failure("cannot read the local cloud").because(&error))?;
    let base = localcloud::base::is_made(&context.settings.base_dir());
    match context.format {
        Format::Json => output::json(
            &json!({ "directory": dir, "base_is_made": base, "resources": items, "buckets": buckets, "left_behind": left }),
        )?,
        Format::Human => {
            let mut text = format!("local cloud in {}\n", dir.display());
            let state = if base { "made" } else { "not made yet" };
            text.push_str(&format!(
                "base image {state} ({})\n\n",
                context.settings.base_dir().display()
            ));
            if items.is_empty() {
                text.push_str("no machines, images or snapshots\n");
            } else {
                let rows: Vec<Vec<String>> = items.iter().map(row).collect();
                text.push_str(&output::table(&rows));
            }
            for bucket in &buckets {
                text.push_str(&format!(
                    "bucket {} in {}: {}, {} bytes\n",
                    bucket.name,
                    bucket.region,
                    match bucket.objects {
                        1 => "1 object".to_owned(),
                        count => format!("{count} objects"),
                    },
                    bucket.bytes
                ));
            }
            for one in &left {
                text.push_str(&format!("left behind: {one}\n"));
            }
            let orphans = items
                .iter()
                .filter(|item| item.owner.is_some_and(|owner| !owner.alive))
                .count();
            if orphans + left.len() > 0 {
                let gc = context.commands().own("cloud gc");
                text.push_str(&format!("\n`{gc}` removes what dead runs left\n"));
            }
            output::data(&text)?;
        }
    }
    Ok(exit::DONE)
}

pub async fn gc(
    context: &Context,
    run: Option<&str>,
    layers_gib: Option<u64>,
    dry_run: bool,
) -> CliResult {
    let limit = layers_gib.unwrap_or(layers::LIMIT_GIB);
    let connected = context.connect().await?;
    let runs = dead_runs(context, run)?;
    if dry_run {
        return would_remove(context, &connected, &runs, run.is_none().then_some(limit)).await;
    }
    context.say_where(&connected);
    let (clients, account) = (&connected.clients, &connected.account.id);
    let mut dead = Vec::new();
    for file in &runs {
        let undone = bake::undo_dead_run(clients, account, &file.path, &Notes).await;
        dead.extend(undone.map_err(|error| unreadable(&error))?);
    }
    let (reaped, left) = match &connected.local {
        // What belongs to no run stays where one run is asked for.
        Some(local) if run.is_none() => sweep(context, local)?,
        _ => (Reaped::default(), Vec::new()),
    };
    let layers = match run {
        None => layers::trim(&connected, limit).await?,
        Some(_) => Vec::new(),
    };
    let lent = lent::forgotten(context, &connected)?;
    let secrets = lent.names().to_vec();
    lent.take_back(&connected).await?;
    let stuck: Vec<_> = dead.iter().flat_map(|run| &run.left_over).collect();
    match context.format {
        Format::Json => output::json(&json!({
            "dead_runs": dead,
            "orphans": reaped,
            "secrets": secrets,
            "layers": layers,
            "left_behind": left,
        }))?,
        Format::Human => {
            let mut lines: Vec<String> = dead.iter().map(super::gc::words).collect();
            for (kind, ids) in [
                ("machine", &reaped.instances),
                ("image", &reaped.images),
                ("snapshot", &reaped.snapshots),
            ] {
                lines.extend(
                    ids.iter()
                        .map(|id| format!("removed the {kind} {id} of a process that is gone")),
                );
            }
            lines.extend(
                secrets
                    .iter()
                    .map(|name| format!("removed the secret {name} that a bake had lent")),
            );
            lines.extend(left.iter().map(|one| format!("removed: {one}")));
            lines.extend(layers.iter().map(|one| format!("removed the {one}")));
            if lines.is_empty() {
                lines.push("nothing to remove".to_owned());
            }
            output::data(&format!("{}\n", lines.join("\n")))?;
        }
    }
    if stuck.is_empty() {
        return Ok(exit::DONE);
    }
    let stuck = stuck.into_iter().map(words_of_left).collect();
    not_all(context, incomplete(stuck))
}

/// Something that could not be removed, with the command that removes it.
pub fn words_of_left(one: &LeftOver) -> String {
    format!("{} {}: {}", one.kind.as_str(), one.id, one.command)
}

/// The failure of a clean-up that leaves these.
pub fn incomplete(remain: Vec<String>) -> CliError {
    let error = CliError::new(
        exit::CLEANUP_INCOMPLETE,
        format!("{} things could not be removed", remain.len()),
    );
    remain.into_iter().fold(error, CliError::hint)
}

/// The end of a verb that has said what it did, and has not done all. Where that was one document, it has said this, too.
pub fn not_all(context: &Context, error: CliError) -> CliResult {
    if context.format == Format::Json && !output::has_lines() {
        output::note(error.render(context.err).trim_end());
        return Ok(error.code);
    }
    Err(error)
}

/// Why a run is not cleaned up.
pub fn still_lives(run: &str) -> CliError {
    CliError::new(
        exit::LEASE_HELD,
        format!("the run {run} is not over: its process lives"),
    )
}

/// The runs that died: all, or the one that is asked for.
fn dead_runs(context: &Context, run: Option<&str>) -> Result<Vec<RunFile>, CliError> {
    let mut found = journal::runs(&context.runs()).map_err(|error| unreadable(&error))?;
    if let Some(run) = run {
        let path = journal::path_of(&context.runs(), run);
        found.retain(|file| file.path == path);
        match found.first().map(|file| &file.state) {
            None => {
                return Err(CliError::failure(format!("there is no run {run}"))
                    .hint("`piaas-bake cloud gc --dry-run` shows what dead runs left"));
            }
            Some(RunState::Alive) => {
                return Err(still_lives(run));
            }
            Some(_) => {}
        }
    }
    found.retain(|file| file.state == RunState::Dead);
    Ok(found)
}

pub fn unreadable(error: &journal::Error) -> CliError {
    CliError::failure("cannot read the runs").because(error)
}

/// Says what a clean-up waits for.
pub struct Notes;

impl Sink<bake::Event> for Notes {
    fn emit(&self, event: bake::Stamped) {
        if let bake::Event::Note { text } = event.event {
            output::note(&text);
        }
    }
}

/// Moves the cloud on every second. Where that fails, the next request says why.
async fn tick(cloud: Arc<LocalCloud>) {
    loop {
        tokio::time::sleep(localcloud::endpoint::TICK).await;
        let cloud = cloud.clone();
        let _failed = tokio::task::spawn_blocking(move || cloud.tick(|| ())).await;
    }
}

/// Reads a script of faults.
fn faults(file: &Path) -> Result<Arc<Faults>, CliError> {
    let text = std::fs::read_to_string(file).map_err(|error| CliError {
        code: exit::USAGE,
        ..io("read", file, &error)
    })?;
    let script = Faults::parse(&text).map_err(|error| {
        CliError::new(
            exit::USAGE,
            format!("cannot use the script of faults {}", file.display()),
        )
        .because(&error)
        .hint("its form is in the README, under `Faults on purpose`")
    })?;
    Ok(Arc::new(script))
}

/// With a limit for layers everything is looked at, else these runs alone.
async fn would_remove(
    context: &Context,
    connected: &Connected,
    runs: &[RunFile],
    layers_gib: Option<u64>,
) -> CliResult {
    let mut lines = Vec::new();
    for file in runs {
        let name = file.path.file_stem().unwrap_or_default().to_string_lossy();
        for left in bake::unfinished(&file.ledger, &connected.clients.commands) {
            let (kind, id) = (left.kind.as_str(), left.id);
            lines.push(format!("{kind} {id} of the dead run {name}"));
        }
    }
    if let (Some(local), Some(limit)) = (&connected.local, layers_gib) {
        let items = inventory(local)?;
        let orphans = items
            .iter()
            .filter(|item| item.owner.is_some_and(|owner| !owner.alive));
        lines.extend(orphans.map(|item| format!("{} of a process that is gone", item.id)));
        let left = gc::survey(
            local.directory(),
            &ids(&items, Kind::Instance),
            &ids(&items, Kind::Snapshot),
        );
        lines.extend(left.iter().map(ToString::to_string));
        let lent = lent::forgotten(context, connected)?;
        lines.extend(lent.names().iter().map(|name| format!("the secret {name}")));
        let surplus = layers::surplus(connected, limit).await?;
        lines.extend(
            surplus
                .iter()
                .map(|(layer, size)| format!("the {}", layers::words(layer, *size))),
        );
    }
    match context.format {
        Format::Json => output::json(&json!({ "would_remove": lines }))?,
        Format::Human if lines.is_empty() => output::data("nothing to remove\n")?,
        Format::Human => output::data(&format!("would remove:\n  {}\n", lines.join("\n  ")))?,
    }
    Ok(exit::DONE)
}

fn sweep(context: &Context, local: &LocalCloud) -> Result<(Reaped, Vec<gc::Leftover>), CliError> {
    let failed = |error: &dyn std::error::Error| {
        CliError::failure("cannot clean the local cloud").because(error)
    };
    let reaped = local.reap_orphans().map_err(|error| failed(&error))?;
    let items = inventory(local)?;
    let dir = context.settings.cloud_dir();
    let left = gc::survey(
        &dir,
        &ids(&items, Kind::Instance),
        &ids(&items, Kind::Snapshot),
    );
    gc::sweep(&dir, &left).map_err(|error| failed(&error))?;
    Ok((reaped, left))
}

pub fn reset(context: &Context, yes: bool, base: bool) -> CliResult {
    only_local(context)?;
    let dir = context.settings.cloud_dir();
    if !yes {
        return Err(CliError::new(
            exit::USAGE,
            format!(
                "this removes every machine, image and disk in {}",
                dir.display()
            ),
        )
        .hint("pass --yes to do it"));
    }
    let failed =
        |error: std::io::Error| CliError::failure("cannot reset the local cloud").because(&error);
    gc::reset(&dir).map_err(failed)?;
    if base {
        localcloud::base::remove_all(&context.settings.base_dir()).map_err(failed)?;
    }
    match context.format {
        Format::Json => output::json(&json!({ "removed": dir }))?,
        Format::Human => output::data(&format!("removed {}\n", dir.display()))?,
    }
    Ok(exit::DONE)
}

fn row(item: &Item) -> Vec<String> {
    let kind = match item.kind {
        Kind::Instance => "machine",
        Kind::Image => "image",
        Kind::Snapshot => "snapshot",
    };
    let owner = match item.owner {
        Some(owner) if owner.alive => format!("process {}", owner.pid),
        Some(owner) => format!("process {}, which is gone", owner.pid),
        None => {
            let group = item.tags.get("aws:autoscaling:groupName");
            group.map_or_else(String::new, |group| format!("group {group}"))
        }
    };
    let name = item.tags.get("Name").cloned().unwrap_or_default();
    vec![
        kind.to_owned(),
        item.id.clone(),
        item.region.clone(),
        item.state.clone(),
        name,
        owner,
    ]
}

/// What has a right to files on this host. A terminated machine has none, though its record stays for a while.
fn ids(items: &[Item], kind: Kind) -> Vec<String> {
    items
        .iter()
        .filter(|item| item.kind == kind && item.state != "terminated")
        .map(|item| item.id.clone())
        .collect()
}

fn inventory(local: &LocalCloud) -> Result<Vec<Item>, CliError> {
    local
        .inventory()
        .map_err(|error| CliError::failure("cannot read the local cloud").because(&error))
}

fn local(connected: &Connected) -> Result<std::sync::Arc<LocalCloud>, CliError> {
    connected.local.clone().ok_or_else(cloud_is_aws)
}

pub(super) fn only_local(context: &Context) -> Result<(), CliError> {
    if context.settings.cloud == CloudName::Local {
        Ok(())
    } else {
        Err(cloud_is_aws())
    }
}

fn cloud_is_aws() -> CliError {
    CliError::new(exit::USAGE, "this verb is about the local cloud")
        .hint("leave out --cloud aws, or unset PIAAS_CLOUD")
}
