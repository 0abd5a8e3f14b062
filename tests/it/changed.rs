//! `plan --changed-since`: two revisions of a real git repository, told apart by digest.

use std::process::Command;

use crate::support::{Run, Sandbox};

fn recipe(name: &str, from: &str, rest: &str) -> String {
    format!(
        "schema: piaas-bake/v1\nname: {name}\nversion: 1.0.0\ndescription: A test.\nfrom: {from}\n{rest}"
    )
}

const BASE: &str = "{ ssm: /aws/service/debian/release/12/latest/amd64 }";
const ON_BASE: &str = "{ recipe: base, version: ^1 }";
const ON_MIDDLE: &str = "{ recipe: middle, version: ^1 }";

fn git(sandbox: &Sandbox, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@localhost"])
        .args([
            "-c",
            "init.defaultBranch=main",
            "-c",
            "protocol.file.allow=always",
        ])
        .args(args)
        .current_dir(sandbox.path())
        .env("HOME", sandbox.path())
        .env_remove("GIT_DIR")
        .output()
        .expect("git is there");
    let run = Run::from(output);
    assert_eq!(run.code, Some(0), "git {args:?}: {}", run.stderr);
    run.stdout.trim().to_owned()
}

fn commit(sandbox: &Sandbox) -> String {
    git(sandbox, &["add", "--all"]);
    git(
        sandbox,
        &[
            "commit",
            "--quiet",
            "--allow-empty",
            "-m",
            "a title $(touch pwned)\n::error::",
        ],
    );
    git(sandbox, &["rev-parse", "HEAD"])
}

/// A repository: base <- middle <- leaf, and other, which stands alone.
fn repository() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("recipes/base/recipe.yaml", &recipe("base", BASE, ""));
    sandbox.write(
        "recipes/middle/recipe.yaml",
        &recipe(
            "middle",
            ON_BASE,
            "files: [{ path: /etc/m, source: files/m }]\n",
        ),
    );
    sandbox.write("recipes/middle/files/m", "one\n");
    sandbox.write("recipes/leaf/recipe.yaml", &recipe("leaf", ON_MIDDLE, ""));
    sandbox.write("recipes/other/recipe.yaml", &recipe("other", BASE, ""));
    git(&sandbox, &["init", "--quiet", "."]);
    commit(&sandbox);
    sandbox
}

fn changed(sandbox: &Sandbox, rev: &str) -> Vec<(String, String, String)> {
    let run = sandbox
        .run(&["plan", "--changed-since", rev, "--format", "json"])
        .expect_code(0);
    let answer: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    answer["changed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            let why: Vec<String> = one["why"].as_array().unwrap().iter().map(text).collect();
            (text(&one["recipe"]), text(&one["change"]), why.join("; "))
        })
        .collect()
}

fn matrix(sandbox: &Sandbox, rev: &str, more: &[&str]) -> serde_json::Value {
    let mut args = vec!["plan", "--changed-since", rev, "--format", "github-matrix"];
    args.extend(more);
    let run = sandbox.run(&args).expect_code(0);
    assert_eq!(run.stdout.lines().count(), 1, "{:?}", run.stdout);
    serde_json::from_str(&run.stdout).unwrap()
}

fn names(matrix: &serde_json::Value) -> Vec<&str> {
    let include = matrix["include"].as_array().unwrap();
    include
        .iter()
        .map(|one| one["recipe"].as_str().unwrap())
        .collect()
}

#[test]
fn what_does_not_change_the_digest_is_no_change() {
    let sandbox = repository();
    assert_eq!(changed(&sandbox, "HEAD"), []);
    let text = recipe("leaf", ON_MIDDLE, "# a comment\nbuild: { timeout: 2h }\n");
    sandbox.write("recipes/leaf/recipe.yaml", &text);
    sandbox.write("recipes/leaf/notes.txt", "not an input\n");
    assert_eq!(changed(&sandbox, "HEAD"), []);
    assert_eq!(
        matrix(&sandbox, "HEAD", &[]).to_string(),
        r#"{"include":[]}"#
    );
    let run = sandbox
        .run(&["plan", "--changed-since", "HEAD"])
        .expect_code(0);
    assert_eq!(run.stdout, "no recipe changed since HEAD\n");
}

#[test]
fn a_file_of_a_parent_changes_its_children_and_nothing_else() {
    let sandbox = repository();
    sandbox.write("recipes/middle/files/m", "two\n");
    let expected = [
        (
            "middle",
            "changed",
            "content of /etc/m changed; step \"Install files\" changed",
        ),
        ("leaf", "changed", "its parent middle changed"),
    ];
    let found = changed(&sandbox, "HEAD");
    assert_eq!(found.len(), 2, "{found:?}");
    for ((recipe, change, why), (name, kind, reason)) in found.iter().zip(expected) {
        assert_eq!((recipe.as_str(), change.as_str()), (name, kind));
        assert!(reason.starts_with(why.as_str()), "{why}");
    }
    // Committed or not, and from a directory below: the working tree counts.
    commit(&sandbox);
    assert_eq!(changed(&sandbox, "HEAD^").len(), 2);
    assert_eq!(changed(&sandbox, "HEAD"), []);
    let matrix_of = matrix(&sandbox, "HEAD^", &[]);
    assert_eq!(names(&matrix_of), ["middle", "leaf"]);
    assert_eq!(
        matrix_of["include"][0]["digest"].as_str().unwrap().len(),
        64
    );
    assert_eq!(names(&matrix(&sandbox, "HEAD^", &["--leaves"])), ["leaf"]);
    let below = Run::from(
        sandbox
            .command(&["plan", "--changed-since", "HEAD^", "--recipes", "."])
            .current_dir(sandbox.recipes())
            .output()
            .unwrap(),
    )
    .expect_code(0);
    assert!(below.stdout.contains("leaf changed"), "{}", below.stdout);
    // Nothing of the repository was touched.
    assert_eq!(git(&sandbox, &["status", "--porcelain"]), "");
    assert_eq!(git(&sandbox, &["worktree", "list"]).lines().count(), 1);
}

#[test]
fn new_removed_and_broken_recipes_are_told_apart() {
    let sandbox = repository();
    sandbox.write("recipes/other/recipe.yaml", "name: [broken");
    let broken = commit(&sandbox);
    sandbox.write("recipes/other/recipe.yaml", &recipe("other", BASE, ""));
    std::fs::remove_dir_all(sandbox.recipes().join("leaf")).unwrap();
    sandbox.write("recipes/fresh/recipe.yaml", &recipe("fresh", ON_BASE, ""));
    let found = changed(&sandbox, &broken);
    let kinds: Vec<_> = found
        .iter()
        .map(|(name, kind, _)| (name.as_str(), kind.as_str()))
        .collect();
    assert_eq!(
        kinds,
        [("other", "changed"), ("fresh", "new"), ("leaf", "removed")]
    );
    assert!(
        found[0].2.starts_with("it could not be read before: "),
        "{found:?}"
    );
    assert_eq!(names(&matrix(&sandbox, &broken, &[])), ["other", "fresh"]);
    // A branch that has just begun: everything is new.
    let zero = "0".repeat(40);
    assert_eq!(
        names(&matrix(&sandbox, &zero, &["--leaves"])),
        ["other", "fresh", "middle"]
    );
    // What is broken now is refused at its place.
    sandbox.write("recipes/other/recipe.yaml", "name: [broken");
    let refused = sandbox
        .run(&[
            "plan",
            "--changed-since",
            "HEAD",
            "--format",
            "github-matrix",
        ])
        .expect_code(3);
    assert_eq!(refused.stdout, "");
    assert!(
        refused
            .stderr
            .contains("::error title=piaas-bake,file=recipes/other/recipe.yaml,line="),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_recipe_that_needs_values_is_no_job_and_hostile_words_stay_words() {
    let sandbox = repository();
    sandbox.write(
        "recipes/asks/recipe.yaml",
        &recipe(
            "asks",
            BASE,
            "parameters: { word: { type: string } }\nsteps: [{ name: Say, run: \"echo {{ word }}\" }]\n",
        ),
    );
    let step =
        "steps:\n  - { name: \"$(touch pwned)`id` \\\"; ${{ secrets.X }}\", run: \"true\" }\n";
    sandbox.write("recipes/other/recipe.yaml", &recipe("other", BASE, step));
    let summary = sandbox.path().join("summary.md");
    let run = sandbox
        .run(&[
            "plan",
            "--changed-since",
            "HEAD",
            "--format",
            "github-matrix",
            "--summary",
            summary.to_str().unwrap(),
        ])
        .expect_code(0);
    assert_eq!(run.stdout.lines().count(), 1);
    let answer: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(names(&answer), ["other"]);
    let why = answer["include"][0]["why"].as_str().unwrap();
    assert!(
        why.contains("$(touch pwned)`id` \"; ${{ secrets.X }}"),
        "{why}"
    );
    assert!(run.stderr.contains("left out: asks"), "{}", run.stderr);
    assert!(
        changed(&sandbox, "HEAD")
            .iter()
            .any(|(name, ..)| name == "asks")
    );
    let table = std::fs::read_to_string(summary).unwrap();
    assert!(table.contains("| other | changed |"), "{table}");
    assert!(table.contains(r"\`id\`"), "{table}");
    assert!(!sandbox.path().join("pwned").exists());
}

#[test]
fn what_git_cannot_give_is_said_with_a_way_out() {
    let sandbox = repository();
    let complain = |sandbox: &Sandbox, rev: &str, words: &[&str]| {
        let run = sandbox
            .run(&["plan", "--changed-since", rev])
            .expect_code(1);
        assert_eq!(run.stdout, "");
        for word in words {
            assert!(
                run.stderr.contains(word),
                "{word:?} is not in {}",
                run.stderr
            );
        }
    };
    complain(
        &sandbox,
        "no-such",
        &["there is no revision `no-such`", "origin/main"],
    );
    for odd in [
        "HEAD..HEAD",
        "^HEAD",
        "HEAD:recipes",
        "",
        "$(touch pwned)",
        "a\nb",
    ] {
        complain(&sandbox, odd, &["there is no revision"]);
    }
    let dash = sandbox
        .run(&["plan", "--changed-since=--all"])
        .expect_code(1);
    assert!(
        dash.stderr.contains("there is no revision"),
        "{}",
        dash.stderr
    );

    let outside = Sandbox::new();
    outside.write("recipes/base/recipe.yaml", &recipe("base", BASE, ""));
    complain(
        &outside,
        "HEAD",
        &["is not in a git repository", "not a git repository"],
    );

    let first = git(&sandbox, &["rev-parse", "HEAD"]);
    commit(&sandbox);
    let shallow = Sandbox::new();
    let from = format!("file://{}", sandbox.path().display());
    std::fs::remove_dir(shallow.recipes()).unwrap();
    git(
        &shallow,
        &["clone", "--quiet", "--depth", "1", &from, "clone"],
    );
    let run = Run::from(
        shallow
            .command(&["plan", "--changed-since", &first])
            .current_dir(shallow.path().join("clone"))
            .output()
            .unwrap(),
    )
    .expect_code(1);
    assert!(run.stderr.contains("fetch-depth: 0"), "{}", run.stderr);

    let no_git = Run::from(
        sandbox
            .command(&["plan", "--changed-since", "HEAD"])
            .env("PATH", sandbox.path())
            .output()
            .unwrap(),
    )
    .expect_code(1);
    assert!(no_git.stderr.contains("install git"), "{}", no_git.stderr);
}

#[test]
fn a_plan_of_one_recipe_is_no_matrix() {
    let sandbox = repository();
    for args in [
        &["plan", "base", "--format", "github-matrix"][..],
        &["lint", "--format", "github-matrix"],
        &["plan", "base", "--changed-since", "HEAD"],
        &["plan"],
        &["plan", "base", "--leaves"],
    ] {
        let _ = sandbox.run(args).expect_code(2);
    }
}
