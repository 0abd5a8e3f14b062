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
