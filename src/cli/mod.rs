//! The command line: parse, resolve settings, run one verb, render its failure.
//!
//! Data goes to stdout, everything else to stderr. Only this room prints.

mod args;
mod bug;
mod completions;
pub(crate) mod config;
mod context;
mod downloads;
mod error;
pub mod exit;
mod github;
mod interrupt;
mod lent;
mod lines;
mod locked;
mod output;
mod style;
mod usage;
mod verbs;
mod view;
mod worker_agent;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Cli, CloudVerb, ConfigVerb, ImagesVerb, OutputFormat, Verb};
use context::Context;
use error::CliResult;
use style::Style;

/// Parses the command line, runs the verb and gives its exit code.
#[must_use]
pub fn main() -> ExitCode {
    completions::answer();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage::refuse(&error),
    };
    // The helpers of the local cloud run without settings and without a runtime: they change their namespaces, which
    // a process with threads cannot do.
    match &cli.verb {
        Verb::LocalMachine { dir } => return crate::localcloud::supervisor::main(dir),
        Verb::LocalSnapshot { dir } => return crate::localcloud::nspawn::snapshot_main(dir),
        Verb::LocalRelay { address } => return crate::localcloud::relay::main(*address),
        Verb::LocalEndpoint { dir, base } => return crate::localcloud::endpoint::main(dir, base),
        _ => {}
    }
    let (format, color) = (cli.global.format, cli.global.color);
    output::into(format);
    let changed = matches!(&cli.verb, Verb::Plan(args) if args.changed_since.is_some());
    let result = match Context::new(&cli.global) {
        _ if format == OutputFormat::GithubMatrix && !changed => Err(no_matrix()),
        Ok(context) => bug::caught(|| run(&context, cli.verb))
            .map_err(|error| error.complete(&context.commands())),
        Err(error) => Err(error),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output::failure(&error, format.reader(), Style::for_stderr(color));
            ExitCode::from(error.code)
        }
    }
}

fn no_matrix() -> error::CliError {
    error::CliError::new(exit::USAGE, "only a list of changed recipes is a matrix")
        .hint("piaas-bake plan --changed-since REV --format github-matrix")
}

fn run(context: &Context, verb: Verb) -> CliResult {
    match verb {
        Verb::Init(args) => verbs::init::run(context, &args),
        Verb::Lint(args) => verbs::lint::run(context, &args),
        Verb::Schema { of } => verbs::schema::run(of),
        Verb::Show(args) => verbs::show::run(context, &args),
        Verb::Render(args) => verbs::render::run(context, &args),
        Verb::Doctor(args) => verbs::doctor::run(context, &args),
        Verb::Config(ConfigVerb::Show) => block_on(verbs::config::show(context)),
        Verb::Config(ConfigVerb::Variables) => verbs::config::variables(context),
        Verb::Completions { shell } => completions::script(context, shell),
        Verb::Man { output } => verbs::man::run(context, output.as_deref()),
        Verb::Plan(args) => block_on(verbs::plan::run(context, &args)),
        Verb::Policy(of) => block_on(verbs::policy::run(context, &of)),
        Verb::Bake(args) => block_on(verbs::bake::run(context, &args)),
        Verb::Gc(args) => block_on(verbs::gc::run(context, &args)),
        Verb::Runs { what } => verbs::runs::run(context, what.as_ref()),
        Verb::Rebake(args) => block_on(verbs::rebake::run(context, &args)),
        Verb::Lock(args) => block_on(verbs::lock::run(context, &args)),
        Verb::Diff(args) => block_on(verbs::diff::run(context, &args)),
        Verb::Verify(args) => block_on(verbs::verify::run(context, &args)),
        Verb::Leaks => verbs::leaks::run(context),
        Verb::Test(args) => block_on(verbs::test::run(context, &args)),
        Verb::Why(args) => block_on(verbs::why::run(context, &args)),
        Verb::Images(ImagesVerb::List { recipe }) => {
            block_on(verbs::images::list(context, recipe.as_deref()))
        }
        Verb::Images(ImagesVerb::Show { image }) => block_on(verbs::images::show(context, &image)),
        Verb::Images(ImagesVerb::Promote { image }) => {
            block_on(verbs::images::promote(context, &image))
        }
        Verb::Images(ImagesVerb::Export { image, output }) => {
            block_on(verbs::images::export(context, &image, &output))
        }
        Verb::Roll(verb) => block_on(verbs::roll::run(context, &verb)),
        Verb::Fleet(verb) => block_on(verbs::fleet::run(context, &verb)),
        Verb::Cloud(CloudVerb::Serve { listen, faults }) => {
            block_on(verbs::cloud::serve(context, listen, faults.as_deref()))
        }
        Verb::Cloud(CloudVerb::Status) => block_on(verbs::cloud::status(context)),
        Verb::Cloud(CloudVerb::Gc {
            run,
            layers,
            dry_run,
        }) => block_on(verbs::cloud::gc(context, run.as_deref(), layers, dry_run)),
        Verb::Cloud(CloudVerb::Reset { yes, base }) => verbs::cloud::reset(context, yes, base),
        Verb::Cloud(CloudVerb::Expose { port, remove }) => {
            verbs::cloud_expose::run(context, port, remove)
        }
        Verb::Cloud(CloudVerb::Shell { instance, command }) => {
            verbs::cloud_shell::run(context, &instance, &command)
        }
        Verb::Cloud(CloudVerb::Run { image, command }) => {
            block_on(verbs::cloud_run::run(context, &image, &command))
        }
        Verb::LocalMachine { .. }
        | Verb::LocalSnapshot { .. }
        | Verb::LocalRelay { .. }
        | Verb::LocalEndpoint { .. } => {
            unreachable!("handled before the settings are read")
        }
    }
}

/// Bytes of stack of a thread: code that is not optimized wants more than the usual 2 MiB.
const STACK: usize = 16 << 20;

fn block_on(verb: impl Future<Output = CliResult>) -> CliResult {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(STACK)
        .enable_all()
        .build()
        .map_err(|error| {
            error::CliError::failure("cannot start the async runtime").because(&error)
        })?
        .block_on(verb)
}

/// All files of Rust below `src`, for tests of what is written in them.
#[cfg(test)]
fn sources() -> Vec<std::path::PathBuf> {
    sources_below(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

#[cfg(test)]
fn sources_below(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut dirs = vec![dir.to_owned()];
    let mut files = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|one| one == "rs") {
                files.push(path);
            }
        }
    }
    files
}
