//! The workflows of GitHub Actions: their rules, and every `run` block of theirs, executed.
//!
//! Jobs for AWS talk to the local cloud on loopback (`AWS_ENDPOINT_URL`), with machines that are directories, or real
//! ones where the test says so.

mod expression;
mod rolls;
mod runner;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use piaas_bake::aws::Clients;
use piaas_bake::clock::SystemClock;
use piaas_bake::localcloud;
use piaas_bake::localcloud::engine::LocalCloud;
use piaas_bake::localcloud::serve::serve;
use runner::{Runner, jobs, steps, text, workflow};
use serde_json::{Value, json};

use crate::aws;
use crate::bake_flow::cloud::Directories;
use crate::support::{Sandbox, cache_dir, left_on_host, machines_wanted};

const OURS: [&str; 3] = ["recipes.yml", "nightly.yml", "roll.yml"];

/// The steps that tests of this file execute: workflow, job, step.
const EXECUTED: [(&str, &str, &str); 15] = [
    ("recipes.yml", "plan", "Lint"),
    ("recipes.yml", "plan", "Plan"),
    ("recipes.yml", "local", "Prepare the host"),
    ("recipes.yml", "local", "Bake and test"),
    ("recipes.yml", "local", "Clean up"),
    ("recipes.yml", "aws", "Bake and test"),
    ("recipes.yml", "aws", "Clean up"),
    ("nightly.yml", "rebake", "Rebake"),
    ("nightly.yml", "rebake", "Clean up"),
    ("roll.yml", "choose", "Choose"),
    ("roll.yml", "roll", "Roll"),
    ("roll.yml", "roll", "Promote"),
    ("roll.yml", "roll", "Turn back"),
    ("roll.yml", "roll", "Status"),
    // Every job has it; see `left_out`.
    ("*", "*", "Compile"),
];

/// Why a step is not executed here.
fn left_out(_file: &str, _job: &str, step: &str) -> Option<&'static str> {
    (step == "Compile").then_some(
        "it compiles this very program and links it into /usr/local/bin; all other steps run what it makes",
    )
}

/// Asserts that a scenario has executed every step of these jobs.
fn assert_all_executed(runner: &Runner, jobs: &[(&str, &str)]) {
    for (file, job, step) in EXECUTED {
        if jobs.contains(&(file, job)) {
            let this = (file.to_owned(), job.to_owned(), step.to_owned());
            assert!(
                runner.executed.contains(&this),
                "{this:?} was not executed: {:?}",
                runner.executed
            );
        }
    }
}

#[test]
fn every_run_block_is_executed_by_a_test_or_left_out_for_a_reason() {
    let mut found = 0;
    for file in OURS {
        for (name, job) in jobs(&workflow(file)) {
            for step in steps(job).iter().filter(|step| step.get("run").is_some()) {
                let title = text(&step["name"]);
                let listed = EXECUTED.contains(&(file, name, title));
                assert!(
                    listed != left_out(file, name, title).is_some(),
                    "{file}, {name}, \"{title}\": list it as executed, or say why not"
                );
                found += usize::from(listed);
            }
        }
    }
    assert_eq!(found, EXECUTED.len() - 1, "a step that is listed is gone");
}

#[test]
fn the_rules_hold_in_every_workflow() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(".github/workflows");
    let mut files: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        // What GitHub reads there; people read the rest.
        .filter(|file| file.ends_with(".yml") || file.ends_with(".yaml"))
        .collect();
    files.sort();
    for ours in OURS {
        assert!(files.iter().any(|file| file == ours), "{ours} is gone");
    }
    for file in &files {
        let workflow = workflow(file);
        assert_eq!(
            workflow["permissions"],
            json!({}),
            "{file}: nothing is permitted at the top"
        );
        let is_ours = OURS.contains(&file.as_str());
        if is_ours {
            let concurrency = &workflow["concurrency"];
            assert_eq!(
                concurrency["cancel-in-progress"], false,
                "{file}: nothing is cut off"
            );
            assert!(concurrency["group"].is_string(), "{file}");
        }
        for (name, job) in jobs(&workflow) {
            let place = format!("{file}, {name}");
            assert!(job["timeout-minutes"].is_u64(), "{place} has no time limit");
            let allowed = job["permissions"]
                .as_object()
                .expect("a job says what it may");
            let aws = job["env"]["PIAAS_CLOUD"] == "aws";
            for (what, right) in allowed {
                let fine = match what.as_str() {
                    "contents" => right == "read",
                    "id-token" => right == "write" && aws,
                    _ => false,
                };
                assert!(fine, "{place} may {what}: {right}");
            }
            let titles: Vec<&str> = steps(job)
                .iter()
                .filter_map(|step| step["uses"].as_str())
                .collect();
            let credentials = titles
                .iter()
                .any(|uses| uses.starts_with("aws-actions/configure-aws-credentials@"));
            assert_eq!(
                credentials, aws,
                "{place}: credentials where AWS is, and nowhere else"
            );
            for uses in titles {
                let (_, pin) = uses
                    .split_once('@')
                    .unwrap_or_else(|| panic!("{place}: {uses} has no version"));
                assert!(
                    pin.len() == 40 && pin.bytes().all(|byte| byte.is_ascii_hexdigit()),
                    "{place}: {uses} is not pinned by a commit"
                );
            }
            for step in steps(job).iter().filter_map(|step| step["run"].as_str()) {
                assert!(
                    !step.contains("${{"),
                    "{place}: a value is pasted into a script: {step}"
                );
            }
            let changes = |step: &Value| {
                let run = step["run"].as_str().unwrap_or_default();
                [
                    "piaas-bake bake",
                    "piaas-bake \"$@\"",
                    "piaas-bake roll start",
                ]
                .iter()
                .any(|word| run.contains(word))
            };
            if is_ours && steps(job).iter().any(changes) {
                let always = |step: &&Value| step["if"] == "always()";
                let last = steps(job).iter().rfind(always);
                let run = last
                    .and_then(|step| step["run"].as_str())
                    .unwrap_or_default();
                assert!(
                    run.contains("cloud gc") || run.contains("roll status"),
                    "{place} does not clean up, whatever happens"
                );
            }
        }
    }
}

/// A line of two recipes and one that stands alone, of steps that do no harm where a machine is a directory.
const ROOT: &str = "schema: piaas-bake/v1
name: root
version: 1.0.0
description: The root of a line.
from: { ssm: /aws/service/debian/release/12/latest/amd64 }
steps:
  - { name: Say it, run: 'echo root' }
test:
  - { name: It booted, run: 'true' }
";

fn child(step: &str) -> String {
    format!(
        "schema: piaas-bake/v1\nname: child\nversion: 1.0.0\ndescription: The image to roll.\nfrom: {{ recipe: root, version: ^1 }}\nsteps:\n  - {{ name: {step}, run: 'echo child' }}\n"
    )
}

struct Repository {
    sandbox: Sandbox,
}

impl Repository {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        sandbox.write("recipes/root/recipe.yaml", ROOT);
        sandbox.write("recipes/child/recipe.yaml", &child("Say it"));
        let other = ROOT.replace("root", "other").replace("Say it", "Say more");
        sandbox.write("recipes/other/recipe.yaml", &other);
        let this = Self { sandbox };
        this.git(&["init", "--quiet", "."]);
        this.commit();
        this
    }

    fn git(&self, args: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@localhost"])
            .args(args)
            .current_dir(self.path())
            .env("HOME", self.path())
            .output()
            .expect("git is there");
        assert!(output.status.success(), "git {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn commit(&self) -> String {
        std::fs::write(
            self.path().join(".gitignore"),
            "runner\n.gitconfig\nstate\n",
        )
        .unwrap();
        self.git(&["add", "--all"]);
        // A title and a branch that break every tool that pastes them.
        self.git(&["commit", "--quiet", "-m", "$(touch pwned)\n\n::error::x"]);
        self.git(&["rev-parse", "HEAD"])
    }

    fn path(&self) -> &Path {
        self.sandbox.path()
    }

    fn runner(&self) -> Runner {
        Runner::new(self.path(), &self.path().join("runner"))
    }
}

/// What an event and the settings of the repository give to expressions.
fn context(event: &str, more: &Value) -> Value {
    let mut context = json!({
        "github": { "event_name": event, "ref": "refs/heads/$(touch pwned)", "run_id": "1", "event": {} },
        "needs": {},
        "inputs": {},
        "vars": {},
    });
    for (key, value) in more.as_object().expect("contexts by name") {
        if key == "event" {
            context["github"]["event"] = value.clone();
        } else {
            context[key] = value.clone();
        }
    }
    context
}

#[test]
fn a_pull_request_is_linted_and_planned_and_only_what_changed_is_baked() {
    let repository = Repository::new();
    let base = repository.git(&["rev-parse", "HEAD"]);
    let event = json!({ "event": { "pull_request": { "base": { "sha": base } } } });
    let mut runner = repository.runner();

    // Nothing changed: no job.
    let mut planned = context("pull_request", &event);
    let ended = runner
        .run("recipes.yml", "plan", &planned, None)
        .assert_passed();
    assert_eq!(ended.outputs["leaves"], r#"{"include":[]}"#);
    planned["needs"] = json!({ "plan": { "outputs": ended.outputs } });
    assert!(Runner::matrix("recipes.yml", "local", &planned).is_empty());

    // The root changed, by a step with a hostile name: its child is baked, and with it the root.
    let hostile = ROOT.replace("Say it", "\"$(touch pwned)`id`\\n::set-output name=x::y\"");
    repository
        .sandbox
        .write("recipes/root/recipe.yaml", &hostile);
    let refused = runner.run(
        "recipes.yml",
        "plan",
        &context("pull_request", &event),
        None,
    );
    assert!(refused.failed, "a name of two lines is no name");
    // Its annotation stays on one line, and nowhere does a line of it begin as a command.
    let printed = &refused.steps["Lint"].1;
    let line = printed
        .lines()
        .find(|line| line.starts_with("::error "))
        .expect("an annotation");
    assert!(
        line.contains("file=recipes/root/recipe.yaml,line="),
        "{printed}"
    );
    let commands = printed
        .lines()
        .filter(|line| line.trim_start().starts_with("::"));
    assert_eq!(commands.count(), 1, "{printed}");
    let hostile = ROOT.replace("Say it", "\"$(touch pwned)`id` | ${{ secrets.X }}\"");
    repository
        .sandbox
        .write("recipes/root/recipe.yaml", &hostile);
    repository.commit();
    let ended = runner
        .run(
            "recipes.yml",
            "plan",
            &context("pull_request", &event),
            None,
        )
        .assert_passed();
    planned["needs"] = json!({ "plan": { "outputs": ended.outputs } });
    let names = |job: &str, context: &Value| -> Vec<String> {
        let list = Runner::matrix("recipes.yml", job, context);
        list.iter()
            .map(|one| text(&one["recipe"]).to_owned())
            .collect()
    };
    assert_eq!(names("local", &planned), ["child"]);
    assert!(
        Runner::matrix("recipes.yml", "aws", &planned).is_empty(),
        "a pull request is not baked on AWS"
    );
    assert!(
        runner.summary.contains("| root | changed |"),
        "{}",
        runner.summary
    );

    // The same, merged: parents first, on AWS.
    let mut pushed = context("push", &json!({ "event": { "before": base } }));
    let ended = runner
        .run("recipes.yml", "plan", &pushed, None)
        .assert_passed();
    pushed["needs"] = json!({ "plan": { "outputs": ended.outputs } });
    assert_eq!(names("aws", &pushed), ["root", "child"]);
    assert!(Runner::matrix("recipes.yml", "local", &pushed).is_empty());
    assert!(!repository.path().join("pwned").exists(), "a text was run");
    assert_all_executed(&runner, &[("recipes.yml", "plan")]);
}

/// A cloud on loopback, and the variables that lead the AWS SDK to it.
struct Cloud {
    clients: Clients,
    endpoint: String,
    machines: Arc<Directories>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    server: Option<tokio::task::JoinHandle<std::io::Result<()>>>,
    _dir: tempfile::TempDir,
}

impl Cloud {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let machines = Arc::new(Directories::new(&dir.path().join("machines")));
        let clock = SystemClock::shared();
        let cloud =
            LocalCloud::open(&dir.path().join("cloud"), machines.clone(), clock.clone()).unwrap();
        let clients = aws::connect(localcloud::connector(cloud.clone()), clock).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(serve(cloud, listener, async {
            // A dropped sender ends the server too.
            let _ = stopped.await;
        }));
        Self {
            clients,
            endpoint,
            machines,
            stop: Some(stop),
            server: Some(server),
            _dir: dir,
        }
    }

    /// What `aws-actions/configure-aws-credentials` sets, and the way to this cloud.
    fn lead(&self, runner: &mut Runner) {
        for (key, value) in aws::way_to(&self.endpoint) {
            runner.env.insert(key.to_owned(), value.to_owned());
        }
    }

    async fn end(mut self) {
        drop(self.stop.take());
        self.server
            .take()
            .expect("it ends once")
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            self.machines.left(),
            Vec::<String>::new(),
            "machines are left"
        );
    }
}

/// The words of a listing of images: recipe, what names it, in the order of the listing.
async fn named(clients: &Clients) -> Vec<(String, String)> {
    use piaas_bake::bake::images;
    let mut all = Vec::new();
    for image in images::list(clients, None).await.unwrap() {
        let recipe = image.tags["piaas-bake:recipe"].clone();
        let channels = images::channels(clients, &recipe).await.unwrap();
        let names: Vec<&str> = channels
            .iter()
            .filter(|(_, id)| **id == image.id)
            .map(|(channel, _)| channel.as_str())
            .collect();
        all.push((recipe, names.join(" ")));
    }
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_baked_on_aws_and_the_night_makes_candidates_of_what_is_stale_once() {
    let repository = Repository::new();
    let cloud = Cloud::new().await;
    let mut runner = repository.runner();
    cloud.lead(&mut runner);

    // The first push of a branch: everything is new.
    let mut pushed = context("push", &json!({ "event": { "before": "0".repeat(40) } }));
    let ended = runner
        .run("recipes.yml", "plan", &pushed, None)
        .assert_passed();
    pushed["needs"] = json!({ "plan": { "outputs": ended.outputs } });
    let matrix = Runner::matrix("recipes.yml", "aws", &pushed);
    assert_eq!(matrix.len(), 3, "{matrix:?}");
    for one in &matrix {
        pushed["matrix"] = one.clone();
        let ended = runner
            .run("recipes.yml", "aws", &pushed, None)
            .assert_passed();
        let (_, printed) = &ended.steps["Bake and test"];
        assert!(
            printed.contains("::group::provision") && printed.contains("::endgroup::"),
            "{printed}"
        );
        assert!(printed.contains("acting on: AWS account"), "{printed}");
    }
    let latest = |recipe: &str| (recipe.to_owned(), "latest".to_owned());
    assert_eq!(
        named(&cloud.clients).await,
        [latest("child"), latest("other"), latest("root")]
    );
    assert!(
        runner.summary.contains("### child is baked"),
        "{}",
        runner.summary
    );

    // The night: nothing is stale.
    let night = context("schedule", &json!({}));
    let ended = runner
        .run("nightly.yml", "rebake", &night, None)
        .assert_passed();
    assert!(
        ended.steps["Rebake"].1.contains("nothing is stale"),
        "{:?}",
        ended.steps
    );

    // The root changed: it and its child are baked anew, as candidates, and once.
    let changed = ROOT.replace("echo root", "echo another root");
    repository
        .sandbox
        .write("recipes/root/recipe.yaml", &changed);
    let asked = context(
        "workflow_dispatch",
        &json!({ "inputs": { "max_age": "3650d" } }),
    );
    let ended = runner
        .run("nightly.yml", "rebake", &asked, None)
        .assert_passed();
    let printed = &ended.steps["Rebake"].1;
    assert!(
        printed.contains("the recipe changed since its newest image"),
        "{printed}"
    );
    assert!(printed.contains("child@candidate ami-"), "{printed}");
    let again = runner
        .run("nightly.yml", "rebake", &asked, None)
        .assert_passed();
    assert!(
        again.steps["Rebake"].1.contains("nothing is stale"),
        "{:?}",
        again.steps
    );
    let candidate = |recipe: &str| (recipe.to_owned(), "candidate".to_owned());
    assert_eq!(
        named(&cloud.clients).await,
        [
            candidate("child"),
            latest("child"),
            latest("other"),
            candidate("root"),
            latest("root")
        ]
    );

    // An image that is too old by the word of whoever asks; an age that is none is refused.
    let wrong = context(
        "workflow_dispatch",
        &json!({ "inputs": { "max_age": "$(touch pwned)" } }),
    );
    let ended = runner.run("nightly.yml", "rebake", &wrong, None);
    assert!(
        ended.failed && ended.steps.contains_key("Clean up"),
        "{:?}",
        ended.steps
    );
    assert!(!repository.path().join("pwned").exists(), "a text was run");
    assert_all_executed(
        &runner,
        &[
            ("recipes.yml", "plan"),
            ("recipes.yml", "aws"),
            ("nightly.yml", "rebake"),
        ],
    );
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bake_that_fails_fails_its_job_says_why_and_is_cleaned_up() {
    let repository = Repository::new();
    let cloud = Cloud::new().await;
    let mut runner = repository.runner();
    cloud.lead(&mut runner);
    let broken = ROOT.replace(
        "'echo root'",
        "\"echo '##[error]`last` | words'; echo '::error::pasted'; exit 3\"",
    );
    repository
        .sandbox
        .write("recipes/root/recipe.yaml", &broken);
    let context = context("push", &json!({ "matrix": { "recipe": "root" } }));
    let ended = runner.run("recipes.yml", "aws", &context, None);
    let (code, printed) = &ended.steps["Bake and test"];
    assert_eq!(*code, 6, "{printed}");
    assert_eq!(ended.steps["Clean up"].0, 0, "{:?}", ended.steps);
    assert!(
        printed
            .lines()
            .any(|line| line.starts_with("::error title=piaas-bake::the bake failed")),
        "{printed}"
    );
    assert!(!printed.contains("##[error]"), "{printed}");
    assert!(
        !printed
            .lines()
            .any(|line| line.trim_start().starts_with("::error::pasted")),
        "{printed}"
    );

    assert!(
        runner.summary.contains("### root is not baked"),
        "{}",
        runner.summary
    );
    assert!(
        runner.summary.contains("    ##[error]`last` | words"),
        "{}",
        runner.summary
    );
    // The night goes on with what does not depend on it, and fails.
    let ended = runner.run(
        "nightly.yml",
        "rebake",
        &self::context("schedule", &json!({})),
        None,
    );
    let (code, printed) = &ended.steps["Rebake"];
    assert_eq!(*code, 6, "{printed}");
    assert!(printed.contains("other@candidate ami-"), "{printed}");
    assert!(
        printed.contains("child (its parent root failed)"),
        "{printed}"
    );
    assert_eq!(
        named(&cloud.clients).await,
        [("other".to_owned(), "candidate".to_owned())]
    );
    cloud.end().await;
}

#[test]
fn a_pull_request_is_baked_on_real_machines() {
    if !machines_wanted("the bake of a pull request on real machines") {
        return;
    }
    let repository = Repository::new();
    let mut runner = repository.runner();
    let state = repository.path().join("state");
    for (key, value) in [
        ("PIAAS_STATE_DIR", state.clone()),
        ("PIAAS_CACHE_DIR", cache_dir()),
    ] {
        runner
            .env
            .insert(key.to_owned(), value.display().to_string());
    }
    let context = context("pull_request", &json!({ "matrix": { "recipe": "child" } }));
    let ended = runner
        .run("recipes.yml", "local", &context, None)
        .assert_passed();
    let (_, printed) = &ended.steps["Bake and test"];
    assert!(printed.contains("acting on: local cloud"), "{printed}");
    assert!(
        runner.summary.contains("### child is baked"),
        "{}",
        runner.summary
    );
    assert_all_executed(&runner, &[("recipes.yml", "local")]);
    assert_eq!(left_on_host(&state), Vec::<String>::new());
}
