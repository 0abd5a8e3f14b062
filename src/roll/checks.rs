//! What is asked of a machine, as shell text, and what its answers mean. Pure.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::record::Worker;
use super::world::{Emptiness, WorkerWord};

/// Marks our lines among what the checks print.
const FRAME: &str = "piaas-check";
/// The schema of the worker agent's answers.
const WORKER_SCHEMA: &str = "piaas-worker/v1";

/// Systemd has booted without failed units; the worker agent, if the image has one, answers.
///
/// The agent starts with the machine: it is asked once a second, for two minutes at most.
const BUILT_IN: &str = r#"say() { echo "piaas-check $*"; }
if ! command -v systemctl >/dev/null 2>&1; then say fail the image has no systemctl; exit 0; fi
state=$(systemctl is-system-running --wait 2>/dev/null) || true
if [ "$state" != running ]; then
  units=$(systemctl list-units --state=failed --plain --no-legend 2>/dev/null | cut -d ' ' -f 1 | tr '\n' ' ')
  say fail "the system is ${state:-silent}, failed units: ${units:-none}"; exit 0
fi
if command -v piaas-worker >/dev/null 2>&1; then
  tries=120
  until piaas-worker status >/dev/null 2>&1; do
    tries=$((tries - 1))
    if [ "$tries" -le 0 ]; then say worker unknown; say fail the worker agent does not answer; exit 0; fi
    sleep 1
  done
  say worker present
else
  say worker absent
fi
"#;

/// The script that checks a new machine; the user's checks travel as base64, so no quoting can break out.
#[must_use]
pub fn script(checks: &[String]) -> String {
    let mut text = String::from(BUILT_IN);
    for (index, check) in checks.iter().enumerate() {
        let number = index + 1;
        let packed = STANDARD.encode(check);
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "code=0\nout=$(printf %s '{packed}' | base64 -d | /bin/sh -eu 2>&1) || code=$?\n\
             if [ \"$code\" -ne 0 ]; then printf '%s\\n' \"$out\" | tail -n 5\n\
             say fail check {number} ended with exit code \"$code\"; exit 0; fi\n"
        );
    }
    text.push_str("say pass\n");
    text
}

/// What the checks found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// `None`: all passed.
    pub failure: Option<String>,
    pub worker: Worker,
}

/// Reads what [`script`] printed. Anything but a clear pass is a failure.
#[must_use]
pub fn read(stdout: &str, checks: &[String]) -> Found {
    let mut found = Found {
        failure: Some("the checks gave no result".to_owned()),
        worker: Worker::Unknown,
    };
    let mut said = Vec::new();
    for line in stdout.lines() {
        let Some(word) = line
            .strip_prefix(FRAME)
            .and_then(|rest| rest.strip_prefix(' '))
        else {
            said.push(line);
            continue;
        };
        match word.split_once(' ').unwrap_or((word, "")) {
            ("worker", "present") => found.worker = Worker::Present,
            ("worker", "absent") => found.worker = Worker::Absent,
            ("pass", _) => found.failure = None,
            ("fail", why) => found.failure = Some(failure(why, &said, checks)),
            _ => {}
        }
    }
    found
}

fn failure(why: &str, said: &[&str], checks: &[String]) -> String {
    let number = why
        .strip_prefix("check ")
        .and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
    let check = number.and_then(|number| checks.get(number.checked_sub(1)?));
    match (check, said.last()) {
        (Some(check), Some(last)) => format!("{why} (`{check}`): {last}"),
        (Some(check), None) => format!("{why} (`{check}`)"),
        (None, _) => why.to_owned(),
    }
}

/// The command that tells a worker to take no more jobs, and says how it stands; repeating it is harmless.
#[must_use]
pub fn cordon(generation: u64) -> String {
    format!(
        "if command -v piaas-worker >/dev/null 2>&1; then piaas-worker cordon --generation {generation}\n\
         else echo '{FRAME} worker absent'; fi\n"
    )
}

/// The command that asks workers how they stand, and changes nothing.
pub const STATUS: &str = "if command -v piaas-worker >/dev/null 2>&1; then piaas-worker status\n\
                          else echo 'piaas-check worker absent'; fi\n";

/// The part of a worker's answer that a roll needs.
#[derive(Debug, Deserialize)]
struct Status {
    schema: String,
    state: String,
    since: Option<String>,
    why: Option<String>,
    cordon: Option<Generation>,
    drained: Option<Generation>,
}

#[derive(Debug, Deserialize)]
struct Generation {
    generation: u64,
}

fn status(stdout: &str) -> Option<Status> {
    let line = stdout
        .lines()
        .find(|line| line.trim_start().starts_with('{'))?;
    let status: Status = serde_json::from_str(line).ok()?;
    (status.schema == WORKER_SCHEMA).then_some(status)
}

fn no_worker(stdout: &str) -> bool {
    let mut lines = stdout.lines();
    lines.any(|line| line == format!("{FRAME} worker absent"))
}

/// Reads the answer to [`cordon`]. Only an answer for this generation or a later one counts as drained.
#[must_use]
pub fn emptiness(exit_code: i32, stdout: &str, generation: u64) -> Emptiness {
    if no_worker(stdout) {
        return Emptiness::NoWorker;
    }
    let Some(status) = status(stdout) else {
        return Emptiness::Unknown(format!(
            "the worker agent gave no status (exit code {exit_code})"
        ));
    };
    let drained = status
        .drained
        .is_some_and(|drained| drained.generation >= generation);
    match status.state.as_str() {
        _ if exit_code != 0 => {
            Emptiness::Unknown(format!("the worker agent ended with exit code {exit_code}"))
        }
        "busy" => Emptiness::NotYet("it runs a job".to_owned()),
        _ if drained => Emptiness::Drained,
        "idle" => Emptiness::NotYet("it is idle and winds up".to_owned()),
        _ => Emptiness::Unknown(status.why.unwrap_or_else(|| "its state is unknown".into())),
    }
}

/// Reads the answer to [`STATUS`], for people to see. `None`: no answer.
#[must_use]
pub fn word(stdout: &str) -> Option<WorkerWord> {
    if no_worker(stdout) {
        return Some(WorkerWord {
            state: "none".to_owned(),
            since: None,
            cordoned: false,
        });
    }
    let status = status(stdout)?;
    Some(WorkerWord {
        state: status.state,
        since: status.since,
        cordoned: status.cordon.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(state: &str, drained: Option<u64>) -> String {
        let drained = drained.map_or("null".to_owned(), |generation| {
            format!(r#"{{"generation":{generation},"at":"2026-01-01T00:00:00Z"}}"#)
        });
        format!(
            r#"{{"schema":"piaas-worker/v1","state":"{state}","since":null,"why":"w","cordon":null,"drained":{drained}}}"#
        )
    }

    #[test]
    fn only_a_drained_answer_of_this_generation_is_empty() {
        let cases = [
            (0, answer("idle", Some(7)), Emptiness::Drained),
            (0, answer("idle", Some(8)), Emptiness::Drained),
            (
                0,
                answer("idle", Some(6)),
                Emptiness::NotYet("it is idle and winds up".into()),
            ),
            (
                0,
                answer("busy", Some(7)),
                Emptiness::NotYet("it runs a job".into()),
            ),
            (0, answer("unknown", None), Emptiness::Unknown("w".into())),
            (0, "piaas-check worker absent\n".into(), Emptiness::NoWorker),
        ];
        for (code, text, expected) in cases {
            assert_eq!(emptiness(code, &text, 7), expected, "{text}");
        }
        for (code, text) in [
            (0, String::new()),
            (0, "{}".into()),
            (1, "no".into()),
            (3, answer("idle", Some(7))),
            (0, answer("idle", Some(7)).replace("v1", "v2")),
        ] {
            assert!(
                matches!(emptiness(code, &text, 7), Emptiness::Unknown(_)),
                "{code} {text}"
            );
        }
    }

    #[test]
    fn the_words_of_the_real_agent_are_understood() {
        use crate::worker::agent::{Agent, Intake, Jobs, Moment, Order, Seen, Surroundings};
        let now = Moment::of("2026-01-01T00:00:00Z".parse().unwrap());
        let mut agent = Agent::start(None, Some("i-1".into()), now);
        let mut look = |jobs: Jobs, intake| {
            let look = agent.begin_look();
            if let Some(decision) = agent.end_look(look, Seen { jobs, intake }, now) {
                assert!(agent.keep(decision));
            }
            if agent.kept().cordon.is_none() {
                let decision = agent.cordon(7, None, now).unwrap();
                assert!(agent.keep(decision));
                agent.carried_out(Order::Close);
            }
            agent.status(&Surroundings::default(), now).to_line()
        };
        let busy = look(Jobs::Busy(vec!["job".into()]), Intake::Closing);
        assert_eq!(
            emptiness(0, &busy, 7),
            Emptiness::NotYet("it runs a job".into())
        );
        let unknown = look(Jobs::Unknown("away".into()), Intake::Unknown);
        assert_eq!(emptiness(0, &unknown, 7), Emptiness::Unknown("away".into()));
        let winding = look(Jobs::Idle, Intake::Closed);
        assert!(matches!(emptiness(0, &winding, 7), Emptiness::NotYet(_)));
        let drained = look(Jobs::Idle, Intake::Closed);
        assert_eq!(emptiness(0, &drained, 7), Emptiness::Drained);
        assert!(matches!(emptiness(0, &drained, 8), Emptiness::NotYet(_)));
    }

    #[test]
    fn anything_but_a_clear_pass_is_a_failure() {
        let checks = vec!["test -e /x".to_owned()];
        let good = read(
            "piaas-check worker present\nnoise\npiaas-check pass\n",
            &checks,
        );
        assert_eq!(good.failure, None);
        assert_eq!(good.worker, Worker::Present);
        let bad = read(
            "piaas-check worker absent\nno such file\npiaas-check fail check 1 ended with exit code 3\n",
            &checks,
        );
        assert_eq!(
            bad.failure.as_deref(),
            Some("check 1 ended with exit code 3 (`test -e /x`): no such file")
        );
        assert_eq!(bad.worker, Worker::Absent);
        assert!(read("", &checks).failure.is_some());
        assert!(read("piaas-checkpass\n", &checks).failure.is_some());
    }

    /// The user's checks in a real shell, behind a systemctl and a worker that answer well.
    fn run(checks: &[&str]) -> (Found, String) {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("systemctl", "#!/bin/sh\necho running\n"),
            ("piaas-worker", "#!/bin/sh\nexit 0\n"),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let checks: Vec<String> = checks.iter().map(|check| (*check).to_owned()).collect();
        let output = std::process::Command::new("/bin/sh")
            .arg("-c")
            .arg(script(&checks))
            .env("PATH", format!("{}:/usr/bin:/bin", dir.path().display()))
            .output()
            .unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        (read(&stdout, &checks), stdout)
    }

    #[test]
    fn checks_run_in_a_shell_of_their_own() {
        assert_eq!(run(&["true", "echo fine; exit 0"]).0.failure, None);
        let (found, _) = run(&["true", "echo broken 'x' \"$0\"; exit 9"]);
        let why = found.failure.unwrap();
        assert!(why.starts_with("check 2 ended with exit code 9"), "{why}");
        assert!(why.contains("broken"), "{why}");
        // Not even a check that tries can end the script as passed.
        let (found, out) = run(&["echo 'x'; exit 0; '", "false"]);
        assert!(found.failure.is_some(), "{out}");
    }
}
