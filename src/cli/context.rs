//! What every verb is given: settings, styles, and a connection once it asks for one.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::args::{CloudName, Format, GlobalArgs, OutputFormat};
use super::config::{self, Origin, Settings};
use super::error::{CliError, CliResult};
use super::style::Style;
use super::view::progress::Progress;
use super::{exit, output, worker_agent};
use crate::aws::{self, Account, Clients, Commands, ConnectError, Connection, Kind};
use crate::clock::{SharedClock, SystemClock};
use crate::localcloud::base::BaseError;
use crate::localcloud::faults::Faults;
use crate::localcloud::nspawn::NspawnDriver;
use crate::localcloud::{self, LocalCloud, doctor};
use crate::recipe::Diagnostics;
use crate::recipe::model::Resolved;
use crate::render;
use crate::render::script::Layer;

/// Settings that say where to act: commands that messages name carry their options.
const OF_CONNECTION: [&str; 5] = ["cloud", "recipes", "state_dir", "region", "profile"];

/// What a verb works with.
#[derive(Clone)]
pub struct Context {
    pub settings: Settings,
    /// Who reads the results.
    pub format: Format,
    /// The log is one of GitHub Actions.
    pub github: bool,
    /// A matrix is asked for.
    pub matrix: bool,
    /// File that the job summary is appended to.
    pub summary: Option<PathBuf>,
    /// For stdout.
    pub out: Style,
    /// For stderr.
    pub err: Style,
    pub clock: SharedClock,
    /// The region that was connected to.
    region: OnceLock<String>,
}

/// A cloud to act on, and who acts.
pub struct Connected {
    pub clients: Clients,
    pub account: Account,
    /// The local cloud itself, for what AWS has no call for.
    pub local: Option<Arc<LocalCloud>>,
}

impl Context {
    /// Resolves the settings.
    ///
    /// # Errors
    /// A config file that cannot be used.
    pub fn new(args: &GlobalArgs) -> Result<Self, CliError> {
        Ok(Self {
            settings: Settings::resolve(args)?,
            format: args.format.reader(),
            github: args.format == OutputFormat::Github,
            matrix: args.format == OutputFormat::GithubMatrix,
            summary: args.summary.clone().or_else(|| {
                let file = config::variable("GITHUB_STEP_SUMMARY").map(PathBuf::from);
                file.filter(|_| args.format == OutputFormat::Github)
            }),
            out: Style::for_stdout(args.color),
            err: Style::for_stderr(args.color),
            clock: SystemClock::shared(),
            region: OnceLock::new(),
        })
    }

    /// The same for a local cloud in another directory, for which there is no bucket.
    #[must_use]
    pub fn in_state_dir(&self, dir: &Path) -> Self {
        let mut other = self.clone();
        other.summary = None;
        let settings = &mut other.settings;
        settings.state_dir = dir.to_path_buf();
        settings.bundles = None;
        for shown in &mut settings.shown {
            if shown.name == "state_dir" {
                shown.value = Some(dir.display().to_string());
                shown.origin = Origin::Flag {
                    flag: "--state-dir",
                };
            }
        }
        other
    }

    /// Completes the commands that messages name, with the options that this call was given.
    #[must_use]
    pub fn commands(&self) -> Commands {
        let settings = &self.settings;
        let mut own = Vec::new();
        for shown in &settings.shown {
            if let Origin::Flag { flag } = shown.origin
                && OF_CONNECTION.contains(&shown.name)
                && let Some(value) = &shown.value
            {
                own.push((flag, value.as_str()));
            }
        }
        let region = self.region.get().or(settings.region.as_ref());
        match settings.cloud {
            CloudName::Local => Commands::local(
                &own,
                region.map_or(localcloud::DEFAULT_REGION, String::as_str),
            ),
            CloudName::Aws => {
                let region = region.map(String::as_str);
                Commands::aws(&own, region, settings.chosen_profile())
            }
        }
    }

    /// Where journals and logs of runs are.
    #[must_use]
    pub fn runs(&self) -> PathBuf {
        self.settings.state_dir.join("runs")
    }

    /// A view of long work on stderr; silent where stdout is for machines and stderr is not looked at.
    #[must_use]
    pub fn progress(&self) -> Progress {
        if self.github {
            Progress::grouped(self.err, self.clock.clone())
        } else {
            Progress::new(self.err, self.clock.clone())
        }
    }

    /// Appends a text of Markdown to the job summary, if there is one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn summarize(&self, markdown: &str) -> Result<(), CliError> {
        use std::io::Write as _;
        let Some(path) = &self.summary else {
            return Ok(());
        };
        std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .and_then(|mut file| file.write_all(markdown.as_bytes()))
            .map_err(|error| io("write", path, &error))
    }

    /// Refuses machine formats for a text that is neither JSON nor a part of one.
    ///
    /// # Errors
    /// JSON is asked for (exit code 2).
    pub fn no_json(&self, what: &str) -> Result<(), CliError> {
        match self.format {
            Format::Human => Ok(()),
            Format::Json => {
                Err(CliError::new(exit::USAGE, format!("{what} is no JSON"))
                    .hint("leave --format out"))
            }
        }
    }

    /// The end of a verb whose document says for itself what failed: machines get no second one.
    ///
    /// # Errors
    /// The error itself, where people read.
    pub fn failed_after_its_document(&self, error: CliError) -> CliResult {
        let error = error.complete(&self.commands());
        if self.format == Format::Human {
            return Err(error);
        }
        output::note(error.render(self.err).trim_end());
        Ok(error.code)
    }

    /// Connects to look: nothing is made on this host or in the cloud.
    ///
    /// # Errors
    /// Nothing to connect to, or the cloud refuses (exit code 5).
    pub async fn connect(&self) -> Result<Connected, CliError> {
        self.connect_telling(output::note).await
    }

    /// As [`Self::connect`]; `tell` hears that it takes a while.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_telling(&self, tell: fn(&str)) -> Result<Connected, CliError> {
        let local = match self.settings.cloud {
            CloudName::Aws => None,
            CloudName::Local => Some(self.open_local()?),
        };
        let region = self.settings.region.clone();
        let connection = match &local {
            None => Connection::Aws {
                region,
                profile: self.settings.profile.clone(),
            },
            Some(cloud) => Connection::Local {
                http_client: localcloud::connector(Arc::clone(cloud)),
                region: region.unwrap_or_else(|| localcloud::DEFAULT_REGION.to_owned()),
                access_key: localcloud::ACCESS_KEY,
                secret_key: localcloud::SECRET_KEY,
                machine_endpoint: localcloud::MACHINE_ENDPOINT,
            },
        };
        let mut clients = Clients::connect(connection, self.clock.clone())
            .await
            .map_err(|error| match error {
                ConnectError::NoRegion => CliError::new(exit::USAGE, "no AWS region is set").hint(
                    "pass --region REGION, set AWS_REGION, or set a region in your AWS profile",
                ),
                error => CliError::failure("cannot connect to AWS").because(&error),
            })?;
        // Another call of this process has connected to the same one.
        let _same = self.region.set(clients.region.clone());
        clients.commands = self.commands();
        let account = clients
            .account(tell)
            .await
            .map_err(|error| self.not_known(&clients, &error))?;
        if local.is_none() {
            self.check_account(&account)?;
        }
        Ok(Connected {
            clients,
            account,
            local,
        })
    }

    /// Connects to act: checks this host, says where it is about to act, and makes the base image of the local cloud if
    /// it is not there yet.
    ///
    /// # Errors
    /// As [`Self::connect`], and a host that cannot run machines.
    pub async fn connect_to_act(&self) -> Result<Connected, CliError> {
        let connected = self.connect_to_host(true).await?;
        if connected.local.is_some() {
            self.make_base().await?;
        }
        Ok(connected)
    }

    /// As [`Self::connect_to_act`], without the base image; `with_mirror` says whether it could not do without the
    /// mirror.
    ///
    /// # Errors
    /// As [`Self::connect_to_act`].
    pub async fn connect_to_host(&self, with_mirror: bool) -> Result<Connected, CliError> {
        if self.settings.cloud == CloudName::Local {
            self.check_host(with_mirror)?;
        }
        let connected = self.connect().await?;
        self.say_where(&connected);
        Ok(connected)
    }

    /// Says where the next change will be.
    pub fn say_where(&self, connected: &Connected) {
        let account = &connected.account;
        let place = match self.settings.cloud {
            CloudName::Local => format!(
                "local cloud in {} (region {})",
                self.settings.cloud_dir().display(),
                connected.clients.region
            ),
            CloudName::Aws => {
                let clients = &connected.clients;
                let endpoint = clients.endpoint.as_ref();
                let endpoint = endpoint.map_or_else(String::new, |url| format!(" at {url}"));
                let Account { id, arn } = account;
                format!("AWS account {id} in {}{endpoint} as {arn}", clients.region)
            }
        };
        output::note(&format!("acting on: {place}"));
    }

    /// Nobody can tell who calls: what to look at.
    fn not_known(&self, clients: &Clients, error: &aws::Error) -> CliError {
        let edge = cloud(error);
        match (error.kind, self.settings.chosen_profile()) {
            (Kind::Transport, _) if clients.endpoint.is_some() => edge.hint(
                "is it up? the address is of AWS_ENDPOINT_URL, or of endpoint_url in the AWS profile",
            ),
            (Kind::Unauthorized, Some(profile)) if clients.cloud == "aws" => edge
                .hint(format!(
                    "look at the profile {profile} in ~/.aws/config: its keys, its role, and who may assume that"
                ))
                .hint("the AWS CLI should say who it is: aws sts get-caller-identity"),
            (Kind::Unauthorized, None) if clients.cloud == "aws" => edge
                .hint("choose a profile with --profile NAME or AWS_PROFILE, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
                .hint("the AWS CLI should say who it is: aws sts get-caller-identity"),
            _ => edge,
        }
    }

    /// Credentials of another account than those that are meant get no further.
    fn check_account(&self, account: &Account) -> Result<(), CliError> {
        let allowed = &self.settings.allow_accounts;
        if allowed.is_empty() || allowed.iter().any(|one| one.0 == account.id) {
            return Ok(());
        }
        let allowed: Vec<&str> = allowed.iter().map(|one| one.0.as_str()).collect();
        Err(CliError::new(
            exit::CLOUD_REFUSED,
            format!(
                "these credentials ({}) are of AWS account {}, and only {} may be acted on",
                account.arn,
                account.id,
                allowed.join(", ")
            ),
        )
        .hint("choose others with --profile NAME or AWS_PROFILE")
        .hint("`piaas-bake config show` says where the list of accounts comes from"))
    }

    /// Renders a recipe, with the agent of its worker.
    ///
    /// # Errors
    /// An invalid recipe (exit code 3), or no agent for it.
    pub fn render(&self, resolved: &Resolved) -> Result<Vec<Layer>, CliError> {
        let agent = worker_agent::load(&self.settings, resolved)?;
        render::render(resolved, &agent).map_err(|found| invalid(&found))
    }

    /// Opens the local cloud's records. Nothing runs because of it.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open_local(&self) -> Result<Arc<LocalCloud>, CliError> {
        self.open_local_with(None)
    }

    /// As [`Self::open_local`], with a script of faults.
    ///
    /// # Errors
    /// As [`Self::open_local`].
    pub fn open_local_with(
        &self,
        faults: Option<Arc<Faults>>,
    ) -> Result<Arc<LocalCloud>, CliError> {
        let dir = self.settings.cloud_dir();
        let driver = Arc::new(self.driver()?);
        LocalCloud::open_with(&dir, driver, self.clock.clone(), faults).map_err(|error| {
            CliError::failure(format!("cannot open the local cloud in {}", dir.display()))
                .because(&error)
                .hint("check the directory's permissions, or pass --state-dir DIR")
        })
    }

    fn driver(&self) -> Result<NspawnDriver, CliError> {
        let exe = std::env::current_exe().map_err(|error| {
            CliError::failure("cannot find this program's own file").because(&error)
        })?;
        Ok(NspawnDriver::new(
            self.settings.cloud_dir(),
            self.settings.base_dir(),
            exe,
        ))
    }

    fn check_host(&self, with_mirror: bool) -> Result<(), CliError> {
        let mut config = self.doctor_config();
        config.mirror = config.mirror.filter(|_| with_mirror);
        let checks = doctor::checks(&config);
        let failed: Vec<_> = checks
            .iter()
            .filter(|check| check.required && !check.passed())
            .collect();
        let Some(first) = failed.first() else {
            return Ok(());
        };
        let mut error = CliError::failure(format!(
            "this host cannot run the local cloud: {}",
            first.message
        ));
        for check in &failed[1..] {
            error.causes.push(format!("also: {}", check.message));
        }
        for check in &failed {
            error.hints.extend(check.way_out.clone());
        }
        if failed.iter().any(|check| check.fixable()) {
            error = error.hint("`piaas-bake doctor --fix` mends it");
        }
        Err(error)
    }

    /// What the checks of this host need to know.
    #[must_use]
    pub fn doctor_config(&self) -> doctor::Config {
        doctor::Config {
            state_dir: self.settings.state_dir.clone(),
            base_dir: self.settings.base_dir(),
            mirror: Some(self.settings.mirror.clone()),
        }
    }

    /// Makes the base image of the local cloud if it is not there yet.
    ///
    /// # Errors
    /// The mirror does not give it.
    pub async fn make_base(&self) -> Result<(), CliError> {
        let (base, mirror) = (self.settings.base_dir(), self.settings.mirror.clone());
        if localcloud::base::is_made(&base) {
            return Ok(());
        }
        let title = format!("Debian base image from {mirror} (once, about a minute)");
        let made = self.show_base(&title, move |progress| {
            localcloud::base::ensure(&base, &mirror, progress)
        });
        made.await?.map_err(|error| {
            CliError::failure("cannot make the base image")
                .because(&error)
                .hint("check the mirror with `piaas-bake doctor`, or set PIAAS_MIRROR")
        })
    }

    /// Shows how a base image is made.
    ///
    /// # Errors
    /// What makes it panicked.
    pub async fn show_base<T: Send + 'static>(
        &self,
        title: &str,
        make: impl FnOnce(&dyn Fn(&str)) -> Result<T, BaseError> + Send + 'static,
    ) -> Result<Result<T, BaseError>, CliError> {
        let mut progress = self.progress();
        progress.begin(title);
        let started = std::time::Instant::now();
        let (sender, mut lines) = tokio::sync::mpsc::unbounded_channel::<String>();
        let made = tokio::task::spawn_blocking(move || {
            make(&|line| {
                // The view is gone only when the program ends.
                let _ = sender.send(line.to_owned());
            })
        });
        while let Some(line) = lines.recv().await {
            progress.output(&line);
        }
        let result = made.await.map_err(|error| {
            CliError::new(exit::BUG, "the base image maker panicked").because(&error)
        })?;
        match &result {
            Ok(_) => progress.done(title, started.elapsed()),
            Err(_) => progress.failed(title),
        }
        Ok(result)
    }
}

/// A call to the cloud that failed, for the edge.
#[must_use]
pub fn cloud(error: &crate::aws::Error) -> CliError {
    let code = if error.is_refusal() {
        exit::CLOUD_REFUSED
    } else {
        exit::FAILURE
    };
    let mut edge = CliError::new(code, error.sentence());
    edge.causes = error.causes.to_vec();
    edge
}

/// Says which sections of a recipe no verb acts on yet.
pub fn say_without_effect(resolved: &Resolved) {
    for section in resolved.without_effect() {
        output::note(&format!(
            "note: {}: `{section}` is checked and shown; this version does not act on it yet",
            resolved.name
        ));
    }
}

/// Findings in recipes, for the edge.
#[must_use]
pub fn invalid(found: &Diagnostics) -> CliError {
    let what = match found.0.len() {
        1 => "1 problem".to_owned(),
        count => format!("{count} problems"),
    };
    CliError::new(
        exit::RECIPE_INVALID,
        format!("the recipe is invalid: {what}"),
    )
    .with_detail(found.to_string())
    .with_findings(&found.0)
}

/// A file-system error with its path, for the edge.
#[must_use]
pub fn io(action: &str, path: &Path, error: &std::io::Error) -> CliError {
    CliError::failure(format!("cannot {action} {}", path.display())).because(error)
}
