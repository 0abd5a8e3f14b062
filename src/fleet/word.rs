//! What is asked of workers, as shell text, and what their answers mean. Pure.

use super::world::{Cordon, Said, State, Word};
use crate::aws::ssm::{Invocation, Verdict};
use crate::worker::status::{self, Status};

/// What a machine says that has no worker agent.
const ABSENT: &str = "piaas-fleet: no worker agent";
/// Of a machine whose SSM agent has never reported.
pub const UNREGISTERED: &str = "its SSM agent has not registered";
/// Refused: a stale generation, or drained already.
const REFUSED: i32 = 4;

fn guarded(command: &str) -> String {
    format!(
        "if command -v piaas-worker >/dev/null 2>&1; then {command}\nelse echo '{ABSENT}'; fi\n"
    )
}

/// Asks how it stands; changes nothing.
#[must_use]
pub fn question() -> String {
    guarded("piaas-worker status")
}

/// Tells it to take no more jobs. Repeating it is harmless.
#[must_use]
pub fn cordon(generation: u64, reason: &str) -> String {
    let reason = crate::aws::commands::quote(reason);
    guarded(&format!(
        "piaas-worker cordon --generation {generation} --reason {reason}"
    ))
}

/// Tells it to take jobs again.
#[must_use]
pub fn uncordon(generation: u64) -> String {
    guarded(&format!("piaas-worker uncordon --generation {generation}"))
}

/// Reads the answer of the worker on `instance`. What cannot be read is silence.
#[must_use]
pub fn read(instance: &str, answer: Option<&Invocation>) -> Word {
    let Some(answer) = answer else {
        return Word::Silent("it has not answered in time".to_owned());
    };
    match parse(instance, &answer.stdout) {
        Ok(said) => Word::Said(said),
        Err(_) if answer.stdout.lines().any(|line| line == ABSENT) => {
            Word::Silent("its image has no worker agent".to_owned())
        }
        Err(why) if answer.verdict == Verdict::Success => Word::Silent(why),
        Err(_) => Word::Silent(format!("the question {}", answer.verdict)),
    }
}

fn parse(instance: &str, stdout: &str) -> Result<Said, String> {
    let status = Status::read(stdout).ok_or("the worker agent gave no status that can be read")?;
    if status.instance.as_ref().is_some_and(|id| id != instance) {
        return Err("the worker agent takes itself for another instance".to_owned());
    }
    Ok(Said {
        state: match status.state {
            status::State::Busy => State::Busy,
            status::State::Idle => State::Idle,
            status::State::Unknown => State::Unknown,
        },
        since: status.since,
        at: status.at,
        why: status.why,
        jobs: status.jobs,
        cordon: status.cordon.map(|cordon| Cordon {
            generation: cordon.generation,
            reason: cordon.reason,
        }),
        drained: status.drained.map(|drained| drained.generation),
    })
}

/// Whether a worker did what it was told: `Err` says why not.
///
/// # Errors
/// Its refusal, or its silence.
pub fn obeyed(instance: &str, answer: Option<&Invocation>) -> Result<(), String> {
    match answer.map(|answer| &answer.verdict) {
        Some(Verdict::Failed(REFUSED)) => match read(instance, answer) {
            Word::Said(said) if said.drained.is_some() => Err("it is drained already".to_owned()),
            _ => Err("it was told otherwise by somebody else meanwhile".to_owned()),
        },
        _ => match read(instance, answer) {
            Word::Said(_) => Ok(()),
            Word::Silent(why) => Err(why),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(verdict: Verdict, stdout: &str) -> Invocation {
        Invocation {
            verdict,
            stdout: stdout.to_owned(),
            stderr: String::new(),
        }
    }

    const IDLE: &str = r#"{"schema":"piaas-worker/v1","state":"idle","since":"2026-01-01T00:00:00Z","why":null,
"jobs":[],"cordon":{"generation":7,"reason":"piaas-bake fleet: x","at":"2026-01-01T00:00:01Z"},"drained":null,
"protected":true,"instance":"i-1","version":"0.1.0","at":"2026-01-01T00:01:30Z"}"#;

    #[test]
    fn an_answer_is_read_and_anything_else_is_silence() {
        let line = IDLE.replace('\n', "");
        let word = read("i-1", Some(&answer(Verdict::Success, &line)));
        let Word::Said(said) = word else {
            panic!("{word:?}")
        };
        assert_eq!(said.state, State::Idle);
        assert_eq!(said.lasts().unwrap().as_secs(), 90);
        assert_eq!(said.cordon.unwrap().generation, 7);
        // The daemon did not answer in time, and says so.
        let unknown = line.replace("\"idle\"", "\"unknown\"");
        let word = read("i-1", Some(&answer(Verdict::Failed(3), &unknown)));
        assert!(matches!(word, Word::Said(said) if said.state == State::Unknown));
        for (id, verdict, text) in [
            ("i-1", Verdict::Success, String::new()),
            ("i-1", Verdict::Success, "{}".into()),
            ("i-1", Verdict::Undeliverable, String::new()),
            ("i-1", Verdict::Success, line.replace("v1", "v2")),
            ("i-1", Verdict::Success, format!("{ABSENT}\n")),
            ("i-2", Verdict::Success, line.clone()),
        ] {
            let word = read(id, Some(&answer(verdict, &text)));
            assert!(matches!(word, Word::Silent(_)), "{text}");
        }
        assert!(matches!(read("i-1", None), Word::Silent(_)));
    }

    #[test]
    fn a_refusal_says_why() {
        let line = IDLE.replace('\n', "");
        assert_eq!(
            obeyed("i-1", Some(&answer(Verdict::Success, &line))),
            Ok(())
        );
        let refused = answer(Verdict::Failed(4), &line);
        assert!(
            obeyed("i-1", Some(&refused))
                .unwrap_err()
                .contains("otherwise")
        );
        let drained = line.replace(
            "\"drained\":null",
            r#""drained":{"generation":7,"at":"2026-01-01T00:00:09Z"}"#,
        );
        let refused = answer(Verdict::Failed(4), &drained);
        assert!(
            obeyed("i-1", Some(&refused))
                .unwrap_err()
                .contains("drained")
        );
    }

    #[test]
    fn a_reason_cannot_break_out_of_its_word() {
        let script = cordon(7, "it's $(reboot)");
        assert!(
            script.contains(r#"--reason "it's "'$(reboot)'"#) || script.contains("'it'"),
            "{script}"
        );
        let words = shlex::split(
            script
                .lines()
                .next()
                .unwrap()
                .split("then ")
                .nth(1)
                .unwrap(),
        );
        assert_eq!(words.unwrap().last().unwrap(), "it's $(reboot)");
    }
}
