//! Runs the `run` blocks of a job as a runner does: `bash -eo pipefail`, with the files of GITHUB_OUTPUT and the others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::expression::{Status, condition, evaluate, interpolate};

/// A workflow of `.github/workflows`, read as JSON.
pub fn workflow(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(".github/workflows")
        .join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
    serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// A text of a workflow.
pub fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("not a text: {value}"))
}

/// The jobs of a workflow by name.
pub fn jobs(workflow: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let jobs = workflow["jobs"].as_object().expect("a workflow has jobs");
    jobs.iter().map(|(name, job)| (name.as_str(), job))
}

pub fn steps(job: &Value) -> &[Value] {
    job["steps"].as_array().expect("a job has steps")
}

/// Where and as what jobs run.
pub struct Runner {
    /// The checkout.
    pub workspace: PathBuf,
    /// A directory of its own: the home, the files of the steps.
    pub home: PathBuf,
    /// What a runner and the actions before give the steps, and nothing else of this machine.
    pub env: BTreeMap<String, String>,
    /// Steps that were run: workflow, job, step.
    pub executed: Vec<(String, String, String)>,
    /// What all steps appended to the job summary.
    pub summary: String,
}

/// How a job ended.
#[derive(Debug)]
pub struct Ended {
    pub failed: bool,
    /// What the job hands to those that need it.
    pub outputs: Value,
    /// By step: exit code and what it printed, both streams.
    pub steps: BTreeMap<String, (i32, String)>,
}

impl Ended {
    pub fn assert_passed(self) -> Self {
        assert!(!self.failed, "{:#?}", self.steps);
        self
    }
}

impl Runner {
    pub fn new(workspace: &Path, home: &Path) -> Self {
        std::fs::create_dir_all(home).unwrap();
        let bin = Path::new(env!("CARGO_BIN_EXE_piaas-bake"))
            .parent()
            .unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let env = BTreeMap::from([
            ("PATH".to_owned(), format!("{}:{path}", bin.display())),
            ("HOME".to_owned(), home.display().to_string()),
            ("LC_ALL".to_owned(), "C.UTF-8".to_owned()),
            ("CI".to_owned(), "true".to_owned()),
            ("GITHUB_ACTIONS".to_owned(), "true".to_owned()),
            (
                "GITHUB_WORKSPACE".to_owned(),
                workspace.display().to_string(),
            ),
        ]);
        Self {
            workspace: workspace.to_owned(),
            home: home.to_owned(),
            env,
            executed: Vec::new(),
            summary: String::new(),
        }
    }

    /// The jobs that the matrix of a job makes, in order; none if its `if` says no.
    pub fn matrix(file: &str, job: &str, context: &Value) -> Vec<Value> {
        let workflow = workflow(file);
        let job = &workflow["jobs"][job];
        if !condition(text(&job["if"]), context, Status::default()) {
            return Vec::new();
        }
        let matrix = text(&job["strategy"]["matrix"]);
        let inner = matrix
            .strip_prefix("${{")
            .and_then(|rest| rest.strip_suffix("}}"))
            .expect("the matrix is one expression");
        let matrix = evaluate(inner, context, Status::default());
        matrix["include"]
            .as_array()
            .expect("a matrix has `include`")
            .clone()
    }

    /// Runs a job. `stop_after` names a step after which the job is cancelled.
    pub fn run(
        &mut self,
        file: &str,
        name: &str,
        context: &Value,
        stop_after: Option<&str>,
    ) -> Ended {
        let workflow = workflow(file);
        let job = &workflow["jobs"][name];
        assert_eq!(workflow["defaults"]["run"]["shell"], "bash", "{file}");
        let mut context = context.clone();
        context["steps"] = json!({});
        let mut status = Status::default();
        let mut ended = Ended {
            failed: false,
            outputs: json!({}),
            steps: BTreeMap::new(),
        };
        for step in steps(job).iter().filter(|step| step.get("run").is_some()) {
            let title = text(&step["name"]);
            if super::left_out(file, name, title).is_some() {
                continue;
            }
            let asked = step.get("if").map_or("always()", text);
            let go = match step.get("if") {
                Some(_) => condition(asked, &context, status),
                None => !status.failed && !status.cancelled,
            };
            if !go {
                continue;
            }
            let (code, printed) = self.step(step, job, &mut context);
            self.executed
                .push((file.to_owned(), name.to_owned(), title.to_owned()));
            status.failed |= code != 0;
            status.cancelled |= stop_after == Some(title);
            ended.steps.insert(title.to_owned(), (code, printed));
        }
        ended.failed = status.failed;
        for (output, value) in job["outputs"].as_object().into_iter().flatten() {
            // A job that failed hands over what it has.
            if !status.failed {
                ended.outputs[output] = json!(interpolate(text(value), &context));
            }
        }
        ended
    }

    fn step(&mut self, step: &Value, job: &Value, context: &mut Value) -> (i32, String) {
        let file = |name: &str| {
            let path = self.home.join(name);
            std::fs::write(&path, "").unwrap();
            path
        };
        let (script, output, summary) = (file("script.sh"), file("output"), file("summary.md"));
        let (variables, path) = (file("env"), file("path"));
        std::fs::write(&script, text(&step["run"])).unwrap();
        let mut command = Command::new("bash");
        command
            .args(["--noprofile", "--norc", "-eo", "pipefail"])
            .arg(&script)
            .current_dir(&self.workspace)
            .env_clear();
        // A job's variables, then the step's, over those of the runner; what the test sets comes last.
        for source in [&job["env"], &step["env"]] {
            for (key, value) in source.as_object().into_iter().flatten() {
                command.env(key, interpolate(text(value), context));
            }
        }
        command
            .envs(&self.env)
            .env("GITHUB_OUTPUT", &output)
            .env("GITHUB_STEP_SUMMARY", &summary)
            .env("GITHUB_ENV", &variables)
            .env("GITHUB_PATH", &path);
        let ran = command.output().expect("bash is there");
        let printed = [ran.stdout, ran.stderr].concat();
        let printed = String::from_utf8_lossy(&printed).into_owned();
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        self.summary.push_str(&read(&summary));
        assert_eq!(
            read(&variables) + &read(&path),
            "",
            "no step of ours sets these"
        );
        if let Some(id) = step.get("id").map(text) {
            let mut outputs = json!({});
            for line in read(&output).lines() {
                let (key, value) = line
                    .split_once('=')
                    .expect("an output is NAME=VALUE on one line");
                outputs[key] = json!(value);
            }
            context["steps"][id] = json!({ "outputs": outputs });
        }
        (ran.status.code().unwrap_or(-1), printed)
    }
}
