//! What shells are offered.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use piaas_bake::clock::SystemClock;
use piaas_bake::journal::{self, Journal, RunHeader};
use piaas_bake::localcloud::scripted::Scripted;
use piaas_bake::localcloud::{BASE_IMAGE, LocalCloud, connector};

use crate::aws;
use crate::support::{BIN, Run, Sandbox, shipped_recipes};

/// What a shell is offered for the last of these words.
fn completed(sandbox: &Sandbox, words: &[&str]) -> Vec<String> {
    let mut command = sandbox.command(&["--", "piaas-bake"]);
    command
        .args(words)
        .env("COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", words.len().to_string())
        .env("_CLAP_COMPLETE_COMP_TYPE", "9")
        .env("_CLAP_COMPLETE_SPACE", "true")
        .env("_CLAP_IFS", "\n")
        .env("PIAAS_RECIPES", shipped_recipes());
    let run = Run::from(command.output().unwrap()).expect_code(0);
    run.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn a_shell_completes_verbs_options_and_recipes() {
    let sandbox = Sandbox::new();
    assert_eq!(completed(&sandbox, &["rend"]), ["render"]);
    assert_eq!(completed(&sandbox, &["bake", "--cand"]), ["--candidate"]);
    let recipes = completed(&sandbox, &["bake", "ci-"]);
    assert_eq!(recipes, ["ci-base", "ci-worker"]);
    // The options on the line count.
    sandbox.write("mine/web/recipe.yaml", "");
    let words = ["--recipes", "mine", "show", ""];
    let offered = completed(&sandbox, &words);
    assert!(offered.contains(&"web".to_owned()), "{offered:?}");
    assert!(!offered.contains(&"ci-base".to_owned()), "{offered:?}");
    // No image was baked: nothing is offered, and nothing goes wrong.
    let images = completed(&sandbox, &["images", "show", "ami-"]);
    assert_eq!(images, [""; 0]);
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = sandbox.run(&["completions", shell]).expect_code(0).stdout;
        assert!(script.contains("piaas-bake"), "{shell}: {script}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_completes_groups_of_the_local_cloud() {
    let sandbox = Sandbox::new();
    let clock = SystemClock::shared();
    let driver = Arc::new(Scripted::new(clock.clone()));
    let cloud = LocalCloud::open(&sandbox.state().join("cloud"), driver, clock.clone()).unwrap();
    let clients = aws::connect(connector(cloud), clock).await;
    let template = aws::template(&clients, "workers", aws::launches(BASE_IMAGE)).await;
    let group = aws::group(&clients, "ci-workers", &template);
    group.min_size(0).max_size(0).send().await.unwrap();
    for words in [
        &["roll", "status", "ci"][..],
        &["roll", "start", "ci"],
        &["fleet", "status", "--group", "ci"],
    ] {
        assert_eq!(completed(&sandbox, words), ["ci-workers"], "{words:?}");
    }
    let state = sandbox.path().join("elsewhere");
    let words = [
        "--state-dir",
        state.to_str().unwrap(),
        "roll",
        "watch",
        "ci",
    ];
    assert_eq!(completed(&sandbox, &words), [""; 0]);
}

/// In a real bash, as a user has it.
#[test]
fn bash_itself_completes() {
    let sandbox = Sandbox::new();
    let script = "source <(piaas-bake completions bash)\n\
                  COMP_WORDS=(piaas-bake lint debian) COMP_CWORD=2 COMP_TYPE=9\n\
                  _clap_complete_piaas_bake piaas-bake debian lint\nprintf '%s\\n' \"${COMPREPLY[@]}\"\n";
    let bin = Path::new(BIN).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("bash")
        .args(["--noprofile", "--norc", "-euc", script])
        .current_dir(sandbox.path())
        .env_clear()
        .env("PATH", format!("{}:{path}", bin.display()))
        .env("HOME", sandbox.path())
        .env("PIAAS_RECIPES", shipped_recipes())
        .output()
        .unwrap();
    let run = Run::from(output).expect_code(0);
    assert_eq!(run.stdout.trim(), "debian-base", "{}", run.stderr);
}

#[test]
fn a_shell_completes_runs_that_died_and_ports_that_are_exposed() {
    let sandbox = Sandbox::new();
    let header = |run: &str| RunHeader {
        format: journal::FORMAT,
        purpose: journal::BAKE.into(),
        run: run.into(),
        recipe: "web".into(),
        version: "1.0.0".into(),
        digest: "ab".repeat(32),
        cloud: "local".into(),
        account: "000000000000".into(),
        region: "us-east-1".into(),
        started: SystemClock::shared().now(),
    };
    let runs = sandbox.state().join("runs");
    drop(Journal::create(&runs, header("20260102T030405-00000001")).unwrap());
    let alive = Journal::create(&runs, header("20260102T030405-00000002")).unwrap();
    let offered = completed(&sandbox, &["cloud", "gc", "--run", "2026"]);
    assert_eq!(offered, ["20260102T030405-00000001"]);
    drop(alive);
    let _ = sandbox.run(&["cloud", "expose", "9989"]).expect_code(0);
    let offered = completed(&sandbox, &["cloud", "expose", "--remove", ""]);
    assert!(offered.contains(&"9989".to_owned()), "{offered:?}");
}
