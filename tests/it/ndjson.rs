//! `--format ndjson`: the schema is what the program says, and what is written fits it.

use crate::support::{Sandbox, assert_events_fit_their_schema, assert_is_kept};

/// `PIAAS_UPDATE=1 cargo test ndjson` writes it anew.
#[test]
fn the_schema_beside_the_code_is_the_one_that_is_printed() {
    let sandbox = Sandbox::new();
    let printed = sandbox.run(&["schema", "events"]).expect_code(0).stdout;
    assert_is_kept("src/cli/events.schema.json", &printed, "ndjson");
}

#[test]
fn results_and_errors_are_lines_too() {
    let sandbox = Sandbox::new();
    let failed = sandbox
        .run(&["lint", "nobody", "--format", "ndjson"])
        .expect_code(3);
    let shown = sandbox
        .run(&["config", "show", "--format", "ndjson"])
        .expect_code(0);
    let both = failed.stdout + &shown.stdout;
    assert_eq!(both.lines().count(), 2, "{both}");
    assert_events_fit_their_schema(&both);
    let line: serde_json::Value = serde_json::from_str(both.lines().next().unwrap()).unwrap();
    assert_eq!((&line["v"], &line["event"]), (&1.into(), &"error".into()));
    assert_eq!(line["error"]["exit_code"], 3);
}

#[test]
fn what_never_ends_has_no_one_document() {
    let sandbox = Sandbox::new();
    for verb in [&["fleet", "run"][..], &["fleet", "status", "--watch"]] {
        let args = [verb, &["--group", "g", "--format", "json"]].concat();
        let run = sandbox.run(&args).expect_code(2);
        assert!(run.stderr.contains("--format ndjson"), "{}", run.stderr);
    }
}

#[test]
fn a_command_line_that_cannot_be_used_is_an_error_like_all_others() {
    let sandbox = Sandbox::new();
    let run = sandbox.run(&["--format", "ndjson", "bake", "--nonsense"]);
    let run = run.expect_code(2);
    assert_events_fit_their_schema(&run.stdout);
    let line: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(line["error"]["exit_code"], 2, "{line}");
    let message = line["error"]["message"].as_str().unwrap();
    assert!(message.contains("'--nonsense'"), "{line}");
    assert!(run.stderr.contains("Usage: "), "{}", run.stderr);
    let run = sandbox.run(&["bake", "--format=json"]).expect_code(2);
    let error: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    // What the environment says is no part of the usage.
    assert_eq!(
        error["hints"][0],
        "Usage: piaas-bake bake --format <FORMAT> <RECIPE|FILE>..."
    );
    let run = sandbox.run(&["--format", "github", "bake", "--nonsense"]);
    let run = run.expect_code(2);
    assert!(run.stderr.starts_with("::error "), "{}", run.stderr);
    let run = sandbox.run(&["bake"]).expect_code(2);
    assert!(
        run.stdout.is_empty() && run.stderr.starts_with("error: "),
        "{}",
        run.stderr
    );
    let help = sandbox.run(&["--format", "ndjson", "bake", "--help"]);
    assert!(help.expect_code(0).stdout.contains("Usage: "));
}

#[test]
fn what_is_no_json_is_refused_and_a_schema_is_a_result() {
    let sandbox = Sandbox::new();
    let mut lines = String::new();
    for of in ["recipe", "events"] {
        let run = sandbox.run(&["schema", of, "--format", "ndjson"]);
        lines += &run.expect_code(0).stdout;
    }
    for verb in [&["man"][..], &["completions", "bash"]] {
        let run = sandbox.run(&[verb, &["--format", "ndjson"]].concat());
        lines += &run.expect_code(2).stdout;
        let run = sandbox.run(&[verb, &["--format", "json"]].concat());
        let _: serde_json::Value = serde_json::from_str(&run.expect_code(2).stdout).unwrap();
    }
    let pages = sandbox.run(&["man", "--output", "man1", "--format", "ndjson"]);
    lines += &pages.expect_code(0).stdout;
    assert_eq!(lines.lines().count(), 5, "{lines}");
    assert_events_fit_their_schema(&lines);
}
