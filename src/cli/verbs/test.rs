//! `test --vm`: the disk of an image boots in QEMU, and is tested there.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd as _;
use std::path::Path;

use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::bake::chance;
use super::images::{assemble, disk, find, no_disk, tree};
use super::plan::prepare;
use crate::aws::tags;
use crate::bake::cancel_pair;
use crate::bake::images::Image;
use crate::bake::names::RunId;
use crate::cli::args::{CloudName, Format, TestArgs};
use crate::cli::config::variable;
use crate::cli::context::{Connected, Context, io};
use crate::cli::error::{CliError, CliResult};
use crate::cli::lines::Told;
use crate::cli::style::elapsed;
use crate::cli::{exit, interrupt, output, view};
use crate::image::SOURCE_DATE;
use crate::localcloud::driver::LaunchSpec;
use crate::localcloud::supervisor::imds;
use crate::render::script::Layer;
use crate::vm::qemu::{self, Accelerator};
use crate::vm::{self, CONSOLE, Failure, Order, Proof};

/// Lines of a console, or of a test, that an error shows.
const SHOWN: usize = 15;

pub async fn run(context: &Context, args: &TestArgs) -> CliResult {
    if context.settings.cloud == CloudName::Aws {
        return Err(CliError::failure(
            "images on AWS cannot be booted here: their disks are not here",
        )
        .hint("a bake boots its image and tests it before it is published")
        .hint("images of the local cloud can be booted: bake it there"));
    }
    let accelerator = accelerator()?;
    qemu::check_installed().map_err(|missing| {
        CliError::failure(missing).hint("apt-get install qemu-system-x86 ovmf")
    })?;
    let connected = context.connect().await?;
    let image = find(&connected, &args.image).await?;
    let Some(disk) = disk(&connected, &image)? else {
        return Err(no_disk(&image)
            .hint("only images that the local cloud has made are booted, not its base image"));
    };
    let (_, tree) = tree(&disk)?;
    let layers = layers(context, &image, args)?;
    let tests: Vec<_> = layers.iter().flat_map(|one| one.test.clone()).collect();
    let payloads = layers.iter().flat_map(|one| one.payloads.clone()).collect();

    let run = RunId::new(context.clock.now(), chance()?);
    let dir = context.settings.state_dir.join("vm").join(run.to_string());
    std::fs::create_dir_all(&dir).map_err(|error| io("make", &dir, &error))?;
    let dir = std::fs::canonicalize(&dir).map_err(|error| io("find", &dir, &error))?;
    // Without a name: whatever becomes of this process, the disk goes with it.
    let file = tempfile::tempfile_in(&dir).map_err(|error| io("write in", &dir, &error))?;
    assemble(&disk, &file, &dir)?;
    let disk = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let metadata = serve_metadata(&connected, &image, &dir)?;
    let (canceller, cancel) = cancel_pair();
    interrupt::on_signal(move || canceller.cancel())?;
    let (sink, events) = mpsc::unbounded_channel();
    let view = if output::has_lines() {
        let image = image.id.clone();
        tokio::spawn(view::write_lines(events, move |event| Told::Test {
            image: image.clone(),
            event,
        }))
    } else {
        tokio::spawn(view::test::show(events, context.progress()))
    };
    let order = Order {
        image_name: &image.name,
        disk: Path::new(&disk),
        tree: &tree,
        tests: &tests,
        payloads: &payloads,
        source_date: layers.last().map_or(SOURCE_DATE, |top| top.source_date),
        dir: &dir,
        accelerator,
        metadata: Some(&metadata),
        limit: args.timeout,
        cancel,
    };
    let result = vm::prove(order, &sink).await;
    drop(sink);
    view.await.map_err(|error| {
        CliError::new(exit::BUG, "the view of the test panicked").because(&error)
    })?;
    match result {
        Ok(proof) if proof.passed() => {
            // What is left is of no use to anybody.
            let _ = std::fs::remove_dir_all(&dir);
            show(context, &image, &proof)?;
            Ok(exit::DONE)
        }
        Ok(proof) => {
            if context.format == Format::Json {
                show(context, &image, &proof)?;
            }
            context.failed_after_its_document(not_passed(&image, &proof, &dir))
        }
        Err(failure) => Err(dead(&image, &failure, &dir)),
    }
}

/// The accelerator that the environment asks for.
fn accelerator() -> Result<Option<Accelerator>, CliError> {
    let Some(value) = variable("PIAAS_VM_ACCEL") else {
        return Ok(None);
    };
    let value = value.to_string_lossy();
    let known = [Accelerator::Kvm, Accelerator::Tcg];
    match known.into_iter().find(|one| one.as_str() == value) {
        Some(one) => Ok(Some(one)),
        None => Err(CliError::new(
            exit::USAGE,
            format!("PIAAS_VM_ACCEL is `{value}`: it can be kvm or tcg"),
        )),
    }
}

/// The layers, with their tests, of the recipe that an image was baked from, as it is here now.
fn layers(context: &Context, image: &Image, args: &TestArgs) -> Result<Vec<Layer>, CliError> {
    let Some(recipe) = image.tag(tags::RECIPE) else {
        return Err(CliError::failure(format!(
            "{} was not made by a bake: there is no recipe to test it by",
            image.id
        )));
    };
    let order = prepare(context, recipe, &args.sets.given())?;
    let here = order.layers.last().map(|layer| layer.digest.as_str());
    if here != image.digest() {
        output::note(&format!(
            "note: the recipe here is not the one that {} was baked from; its tests are taken as they are here",
            image.id
        ));
    }
    Ok(order.layers.into_iter().map(|plan| plan.layer).collect())
}

/// Answers for the metadata service of a machine of this image, as long as this process lives. Gives the command that
/// passes a connection on to it.
fn serve_metadata(connected: &Connected, image: &Image, dir: &Path) -> Result<String, CliError> {
    let failed = |error: std::io::Error| {
        CliError::failure("cannot serve the metadata of the machine").because(&error)
    };
    let id = hex::encode(Sha256::digest(dir.as_os_str().as_encoded_bytes()));
    let region = connected.clients.region.clone();
    let spec = LaunchSpec {
        instance_id: format!("i-{}", &id[..17]),
        snapshot_id: image.snapshots.first().cloned().unwrap_or_default(),
        image_id: image.id.clone(),
        instance_type: "t3.small".to_owned(),
        availability_zone: format!("{region}a"),
        region,
        // The first address that QEMU gives.
        private_ip: "169.254.0.15".to_owned(),
        account_id: connected.account.id.clone(),
        user_data: None,
        imds_tokens_required: true,
        imds_hop_limit: 1,
        metadata_tags: BTreeMap::new(),
        instance_profile: None,
        terminate_on_shutdown: true,
        spot: false,
        silent: false,
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?.to_string();
    imds::serve(listener, spec, dir).map_err(failed)?;
    let exe = std::env::current_exe().map_err(failed)?;
    shlex::try_join([&*exe.to_string_lossy(), "local-relay", &address])
        .map_err(|error| failed(std::io::Error::other(error)))
}

fn show(context: &Context, image: &Image, proof: &Proof) -> Result<(), CliError> {
    let took = elapsed(std::time::Duration::from_millis(proof.milliseconds));
    match context.format {
        Format::Json => {
            let mut value = serde_json::to_value(proof).map_err(|error| {
                CliError::failure("cannot write the result as JSON").because(&error)
            })?;
            value["image_id"] = json!(image.id);
            value["name"] = json!(image.name);
            value["passed"] = json!(proof.passed());
            output::json(&value)
        }
        Format::Human => {
            let mut text = format!(
                "{} passed in {took}: {} tests, {} checks of the boot, and the exit status {} that ends a proof\n",
                image.id,
                proof.tests.len(),
                proof.checks.len(),
                proof.status,
            );
            text.push_str(&format!("systemd: {}\n", state(proof)));
            let rows = proof.checks.iter();
            let rows = rows.map(|check| vec![check.name.clone(), check.detail.clone()]);
            text.push_str(&output::table(&rows.collect::<Vec<_>>()));
            output::data(&text)
        }
    }
}

fn state(proof: &Proof) -> String {
    if proof.failed_units.is_empty() {
        return proof.state.clone();
    }
    format!("{}, failed: {}", proof.state, proof.failed_units.join(" "))
}

/// A machine came to its end, and something did not hold.
fn not_passed(image: &Image, proof: &Proof, dir: &Path) -> CliError {
    let message = format!("{} ({}) does not pass", image.id, image.name);
    let mut error = CliError::new(exit::BAKE_FAILED, message);
    for test in proof.tests.iter().filter(|test| test.exit_code != 0) {
        let cause = format!("test `{}`: exit code {}", test.title, test.exit_code);
        error.causes.push(cause);
    }
    if proof.status != qemu::PASSED {
        if error.causes.is_empty() {
            let cause = "the tests did not come to an end: one that reboots cannot be run here";
            error.causes.push(cause.to_owned());
        }
        let from = proof.last_lines.len().saturating_sub(SHOWN);
        error = error.with_detail(proof.last_lines[from..].join("\n"));
    }
    for check in proof.checks.iter().filter(|check| !check.passed) {
        error
            .causes
            .push(format!("{}: {}", check.name, check.detail));
    }
    error.causes.push(format!("systemd: {}", state(proof)));
    with_console(error, dir)
}

/// A machine did not come to its end.
fn dead(image: &Image, failure: &Failure, dir: &Path) -> CliError {
    let code = match failure {
        Failure::Io { .. } | Failure::NotStarted(_) => exit::FAILURE,
        Failure::Cancelled => exit::INTERRUPTED,
        Failure::TimedOut { .. } => exit::TIMED_OUT,
        Failure::Panicked { .. }
        | Failure::Off { .. }
        | Failure::Died { .. }
        | Failure::Incomplete => exit::BAKE_FAILED,
    };
    let mut error = CliError::new(code, format!("{} ({}): {failure}", image.id, image.name));
    let lines = vm::last_lines(dir, SHOWN);
    if lines.is_empty() {
        // Nothing has run: there is nothing to look at.
        let _ = std::fs::remove_dir_all(dir);
        return error;
    }
    error = error.with_detail(lines.join("\n"));
    with_console(error, dir)
}

fn with_console(error: CliError, dir: &Path) -> CliError {
    error.hint(format!(
        "the whole console is in {}",
        dir.join(CONSOLE).display()
    ))
}
