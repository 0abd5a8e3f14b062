//! Settings and where they come from, the guard of accounts, roles, manual pages, and the reference of the command
//! line.

use std::sync::Arc;

use piaas_bake::clock::SystemClock;
use piaas_bake::localcloud::scripted::Scripted;
use piaas_bake::localcloud::serve::serve;
use piaas_bake::localcloud::{ACCESS_KEY, ACCOUNT_ID, BASE_IMAGE, LocalCloud, SECRET_KEY};
use serde_json::{Value, json};

use crate::support::{Run, Sandbox, assert_is_kept};

/// The settings that `config show` prints, with more environment and options.
fn shown(sandbox: &Sandbox, env: &[(&str, &str)], args: &[&str]) -> Value {
    let mut words = vec!["config", "show", "--format", "json"];
    words.extend(args);
    let mut command = sandbox.command(&words);
    command.envs(env.iter().copied());
    let run = Run::from(command.output().unwrap()).expect_code(0);
    serde_json::from_str(&run.stdout).unwrap()
}

fn setting(shown: &Value, name: &str) -> (Value, Value) {
    let all = shown["settings"].as_array().unwrap();
    let one = all.iter().find(|one| one["name"] == name);
    let one = one.unwrap_or_else(|| panic!("{name} is not shown: {shown}"));
    (one["value"].clone(), one["origin"].clone())
}

#[test]
fn each_setting_says_where_it_comes_from() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "piaas-bake.yaml",
        "# ours\nregion: eu-west-1\nrecipes: infra\nallow_accounts: ['111122223333']\n",
    );
    let file = sandbox.path().join("piaas-bake.yaml");
    let at = |line| json!({ "kind": "file", "file": file, "line": line });
    let env = [("PIAAS_CLOUD", "aws")];
    let found = shown(&sandbox, &env, &["--profile", "ci"]);
    assert_eq!(
        setting(&found, "cloud"),
        (
            json!("aws"),
            json!({ "kind": "environment", "variable": "PIAAS_CLOUD" })
        )
    );
    assert_eq!(setting(&found, "region"), (json!("eu-west-1"), at(2)));
    let recipes = sandbox.path().join("infra");
    assert_eq!(setting(&found, "recipes"), (json!(recipes), at(3)));
    assert_eq!(
        setting(&found, "allow_accounts"),
        (json!("111122223333"), at(4))
    );
    let flag = |flag: &str| json!({ "kind": "flag", "flag": flag });
    assert_eq!(setting(&found, "profile"), (json!("ci"), flag("--profile")));
    assert_eq!(setting(&found, "mirror").1, json!({ "kind": "default" }));
    assert_eq!(found["files"], json!([file]));

    // The command line wins over the environment, on either side of the verb.
    let found = shown(&sandbox, &env, &["--cloud", "local"]);
    assert_eq!(setting(&found, "cloud"), (json!("local"), flag("--cloud")));
    let before = sandbox.run(&["--cloud", "local", "config", "show"]);
    let before = before.expect_code(0);
    assert!(before.stdout.contains("--cloud"), "{}", before.stdout);
    let table = sandbox.run(&["config", "show"]).expect_code(0).stdout;
    assert!(table.contains("piaas-bake.yaml:2"), "{table}");
}

#[test]
fn region_and_profile_of_the_environment_win_over_the_file_on_either_cloud() {
    let sandbox = Sandbox::new();
    sandbox.write("piaas-bake.yaml", "region: us-east-1\nprofile: p1\n");
    let of = |name: &str| json!({ "kind": "environment", "variable": name });
    let env = [
        ("AWS_REGION", "eu-west-1"),
        ("AWS_DEFAULT_REGION", "us-west-2"),
        ("AWS_PROFILE", "other"),
    ];
    for cloud in ["aws", "local"] {
        let found = shown(&sandbox, &env, &["--cloud", cloud]);
        let region = setting(&found, "region");
        assert_eq!(region, (json!("eu-west-1"), of("AWS_REGION")), "{cloud}");
        let profile = setting(&found, "profile");
        assert_eq!(profile, (json!("other"), of("AWS_PROFILE")), "{cloud}");
        let found = shown(&sandbox, &env[1..2], &["--cloud", cloud]);
        let region = setting(&found, "region");
        let expected = (json!("us-west-2"), of("AWS_DEFAULT_REGION"));
        assert_eq!(region, expected, "{cloud}");
        let options = ["--cloud", cloud, "--region", "eu-north-1"];
        assert_eq!(
            setting(&shown(&sandbox, &env, &options), "region").0,
            "eu-north-1"
        );
    }
    // It is where the local cloud acts, too.
    let mut command = sandbox.command(&["images", "list"]);
    command.env("AWS_REGION", "mars-1");
    let run = Run::from(command.output().unwrap());
    assert!(
        run.code != Some(0) && run.stderr.contains("mars-1"),
        "{}",
        run.stderr
    );
}

#[test]
fn what_the_aws_configuration_says_is_shown_where_it_counts() {
    let sandbox = Sandbox::new();
    sandbox.write(
        ".aws/config",
        "[profile p1]\nregion = eu-north-1\nendpoint_url = http://127.0.0.1:9\n[default]\nregion = eu-west-3\n",
    );
    let profile = |name: &str| json!({ "kind": "aws-profile", "profile": name });
    let env = [
        ("AWS_PROFILE", "p1"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:8"),
    ];
    let aws = ["--cloud", "aws"];
    let found = shown(&sandbox, &env[..1], &aws);
    let expected = (json!("eu-north-1"), profile("p1"));
    assert_eq!(setting(&found, "region"), expected);
    let expected = (json!("http://127.0.0.1:9"), profile("p1"));
    assert_eq!(setting(&found, "endpoint_url"), expected);
    let found = shown(&sandbox, &env, &aws);
    let origin = json!({ "kind": "environment", "variable": "AWS_ENDPOINT_URL" });
    let expected = (json!("http://127.0.0.1:8"), origin);
    assert_eq!(setting(&found, "endpoint_url"), expected);
    // The SDK would take an empty name for one.
    let found = shown(&sandbox, &[("AWS_PROFILE", "")], &aws);
    let expected = (json!("eu-west-3"), profile("default"));
    assert_eq!(setting(&found, "region"), expected);

    let nothing = json!({ "kind": "default" });
    let found = shown(&sandbox, &env, &[]);
    let expected = (json!("us-east-1"), nothing.clone());
    assert_eq!(setting(&found, "region"), expected);
    assert_eq!(setting(&found, "endpoint_url"), (Value::Null, nothing));
}

#[test]
fn a_variable_that_is_empty_is_not_set() {
    let sandbox = Sandbox::new();
    let env = [
        "PIAAS_CLOUD",
        "PIAAS_RECIPES",
        "PIAAS_STATE_DIR",
        "PIAAS_ALLOW_ACCOUNTS",
        "PIAAS_WORKER",
        "PIAAS_MIRROR",
        "AWS_REGION",
        "AWS_PROFILE",
    ]
    .map(|name| (name, ""));
    let found = shown(&sandbox, &env, &[]);
    for one in found["settings"].as_array().unwrap() {
        assert_eq!(one["origin"], json!({ "kind": "default" }), "{one}");
    }
    let mut command = sandbox.command(&["config", "show"]);
    command.env("PIAAS_CLOUD", "moon");
    let run = Run::from(command.output().unwrap()).expect_code(2);
    assert!(
        run.stderr.contains("PIAAS_CLOUD is `moon`"),
        "{}",
        run.stderr
    );
    let mut command = sandbox.command(&["images", "list", "--cloud", "aws"]);
    command.env("AWS_REGION", "");
    let run = Run::from(command.output().unwrap()).expect_code(2);
    assert!(
        run.stderr.contains("no AWS region is set"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_bucket_for_bundles_is_checked_before_anything_is_done() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "piaas-bake.yaml",
        "bundle_bucket: my-bundles\nbundle_prefix: /of/bakes/\n",
    );
    let file = sandbox.path().join("piaas-bake.yaml");
    let at = |line| json!({ "kind": "file", "file": file, "line": line });
    let found = shown(&sandbox, &[], &[]);
    let bucket = setting(&found, "bundle_bucket");
    assert_eq!(bucket, (json!("my-bundles"), at(1)));
    let prefix = setting(&found, "bundle_prefix");
    assert_eq!(prefix, (json!("of/bakes"), at(2)));
    let found = shown(&sandbox, &[("PIAAS_BUNDLE_BUCKET", "other")], &[]);
    assert_eq!(setting(&found, "bundle_bucket").0, "other");
    for (text, words) in [
        ("bundle_bucket: s3://x", "without s3://"),
        (
            "bundle_bucket: my-bundles\nbundle_prefix: a b",
            "letters, digits",
        ),
        ("bundle_prefix: x", "needs a bundle_bucket"),
    ] {
        sandbox.write("piaas-bake.yaml", text);
        let run = sandbox.run(&["config", "show"]).expect_code(2);
        assert!(run.stderr.contains(words), "{text}: {}", run.stderr);
    }
}

#[test]
fn an_account_id_that_is_none_is_refused_with_its_place() {
    let sandbox = Sandbox::new();
    // A number is one, with all its digits.
    sandbox.write("piaas-bake.yaml", "allow_accounts: [012345678901]\n");
    let found = shown(&sandbox, &[], &[]);
    assert_eq!(setting(&found, "allow_accounts").0, "012345678901");
    sandbox.write("piaas-bake.yaml", "allow_accounts: ['1234']\n");
    let run = sandbox.run(&["config", "show"]).expect_code(2);
    assert!(
        run.stderr.contains("12 digits") && run.stderr.contains("line 1"),
        "{}",
        run.stderr
    );
    let run = sandbox.run(&["config", "show", "--allow-account", "12"]);
    let run = run.expect_code(2);
    assert!(run.stderr.contains("12 digits"), "{}", run.stderr);
}

#[test]
fn a_secret_of_the_environment_is_not_shown() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["config", "variables"]);
    command.env("AWS_SECRET_ACCESS_KEY", "hunter2");
    let run = Run::from(command.output().unwrap()).expect_code(0);
    assert!(!run.stdout.contains("hunter2"), "{}", run.stdout);
    assert!(run.stdout.contains("(set)"), "{}", run.stdout);
    let state = sandbox.state().display().to_string();
    assert!(run.stdout.contains(&state), "{}", run.stdout);
}

/// Where a local cloud with scripted machines answers.
async fn endpoint(sandbox: &Sandbox) -> String {
    let clock = SystemClock::shared();
    let driver = Arc::new(Scripted::new(clock.clone()));
    let cloud = LocalCloud::open(&sandbox.path().join("served"), driver, clock).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(serve(cloud, listener, std::future::pending()));
    endpoint
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_of_a_profile_is_taken_and_acts() {
    let sandbox = Sandbox::new();
    let endpoint = endpoint(&sandbox).await;
    let keys = format!("aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n");
    sandbox.write(
        ".aws/config",
        &format!(
            "[profile src]\n{keys}\
             [profile deploy]\nrole_arn = arn:aws:iam::{ACCOUNT_ID}:role/ci/deploy\nrole_session_name = night\n\
             source_profile = src\nregion = us-east-1\n\
             [profile other]\nrole_arn = arn:aws:iam::123456789012:role/deploy\nsource_profile = src\n\
             region = us-east-1\n"
        ),
    );
    let run = async |profile: &str, words: &[&str], code: i32| {
        let mut command = sandbox.command(words);
        command
            .args(["--cloud", "aws", "--profile", profile])
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_ENDPOINT_URL", &endpoint);
        let output = tokio::task::spawn_blocking(move || command.output());
        let run = Run::from(output.await.unwrap().unwrap());
        run.expect_code(code).stderr
    };
    let arn = format!("arn:aws:sts::{ACCOUNT_ID}:assumed-role/deploy/night");
    let _ = run("deploy", &["images", "list"], 0).await;
    let start = ["roll", "start", "nobody", "--image", BASE_IMAGE];
    let told = run("deploy", &start, 1).await;
    let line = format!("acting on: AWS account {ACCOUNT_ID} in us-east-1 at {endpoint} as {arn}\n");
    assert!(told.starts_with(&line), "{told}");
    let guarded = ["images", "list", "--allow-account", "111122223333"];
    let told = run("deploy", &guarded, 5).await;
    assert!(
        told.contains(&format!("these credentials ({arn})")),
        "{told}"
    );

    let told = run("other", &["images", "list"], 5).await;
    assert!(
        told.contains(&format!(
            "caused by: AccessDenied: User: arn:aws:iam::{ACCOUNT_ID}:user/local is not authorized to perform: \
             sts:AssumeRole on resource: arn:aws:iam::123456789012:role/deploy\n"
        )),
        "{told}"
    );
    assert!(told.contains("hint: look at the profile other"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_of_another_account_get_no_further() {
    let sandbox = Sandbox::new();
    let endpoint = endpoint(&sandbox).await;
    let list = async |accounts: &[&str]| {
        let mut args = vec!["images", "list", "--cloud", "aws", "--region", "us-east-1"];
        for account in accounts {
            args.extend(["--allow-account", account]);
        }
        let mut command = sandbox.command(&args);
        command
            .env("AWS_ENDPOINT_URL", &endpoint)
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        let output = tokio::task::spawn_blocking(move || command.output());
        Run::from(output.await.unwrap().unwrap())
    };
    let _ = list(&[]).await.expect_code(0);
    let _ = list(&["111122223333", ACCOUNT_ID]).await.expect_code(0);
    let refused = list(&["111122223333"]).await.expect_code(5);
    assert!(
        refused.stderr.contains(ACCOUNT_ID) && refused.stderr.contains("only 111122223333"),
        "{}",
        refused.stderr
    );
}

/// Answers every request with this status and body.
fn answering(status: &'static str, body: &'static str) -> String {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 65536]);
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
        }
    });
    format!("http://{address}")
}

#[test]
fn credentials_that_are_refused_say_what_to_look_at() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "aws-config",
        "[profile src]\naws_access_key_id = AKIAX\naws_secret_access_key = x\n\
         [profile deploy]\nrole_arn = arn:aws:iam::123456789012:role/deploy\nsource_profile = src\n",
    );
    let sts = answering(
        "403 Forbidden",
        "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>src may not assume deploy</Message>\
         </Error><RequestId>r-1</RequestId></ErrorResponse>",
    );
    let list = |words: &[&str]| {
        let mut args = vec!["images", "list", "--cloud", "aws", "--region", "us-east-1"];
        args.extend(words);
        let mut command = sandbox.command(&args);
        command
            .env("AWS_CONFIG_FILE", sandbox.path().join("aws-config"))
            .env("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_ENDPOINT_URL", &sts)
            .env_remove("AWS_ACCESS_KEY_ID");
        Run::from(command.output().unwrap()).expect_code(5).stderr
    };
    let cases: [(&[&str], [&str; 3]); 3] = [
        (
            &["--profile", "deploy"],
            [
                "AccessDenied",
                "hint: look at the profile deploy",
                "sts get-caller-identity --region us-east-1 --profile deploy",
            ],
        ),
        (
            &["--profile", "nowhere"],
            [
                "`nowhere`",
                "hint: look at the profile nowhere",
                "caused by:",
            ],
        ),
        (
            &[],
            ["no credentials", "hint: choose a profile", "caused by:"],
        ),
    ];
    for (words, said) in cases {
        let told = list(words);
        for one in said {
            assert!(told.contains(one), "{words:?}: no {one} in {told}");
        }
        for dump in ["DispatchFailure", "{", "Some("] {
            assert!(!told.contains(dump), "{words:?}: {told}");
        }
    }
}

#[test]
fn an_address_where_nobody_listens_is_named_soon() {
    let sandbox = Sandbox::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let mut command =
        sandbox.command(&["images", "list", "--cloud", "aws", "--region", "us-east-1"]);
    command
        .env("AWS_ENDPOINT_URL", &address)
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    let begun = std::time::Instant::now();
    let told = Run::from(command.output().unwrap()).expect_code(5).stderr;
    assert!(begun.elapsed().as_secs() < 15, "{:?}", begun.elapsed());
    assert!(
        told.contains(&format!("{address} is not reachable")),
        "{told}"
    );
    let notice = format!(
        "no answer from {address} (Connection refused (os error 111)); trying again, 3 times at most\n"
    );
    assert!(told.starts_with(&notice), "{told}");
    assert_eq!(told.matches("no answer from").count(), 1, "{told}");
}

/// The verbs that help lists, below these words.
fn verbs(sandbox: &Sandbox, words: &[String]) -> Vec<String> {
    let mut args: Vec<&str> = words.iter().map(String::as_str).collect();
    args.push("--help");
    let help = sandbox.run(&args).expect_code(0).stdout;
    let commands = help.split("\nCommands:\n").nth(1).unwrap_or_default();
    let commands = commands.lines().take_while(|line| !line.is_empty());
    commands
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .map(str::to_owned)
        .collect()
}

/// Every verb, in the order of the help, parents first.
fn all_verbs(sandbox: &Sandbox, words: &[String], out: &mut Vec<Vec<String>>) {
    out.push(words.to_vec());
    for verb in verbs(sandbox, words) {
        let below = [words, &[verb]].concat();
        all_verbs(sandbox, &below, out);
    }
}

#[test]
fn every_verb_has_a_page_in_the_manual() {
    let sandbox = Sandbox::new();
    let dir = sandbox.path().join("man");
    let _ = sandbox
        .run(&["man", "--output", dir.to_str().unwrap()])
        .expect_code(0);
    let mut all = Vec::new();
    all_verbs(&sandbox, &[], &mut all);
    assert!(all.len() > 25, "{all:?}");
    for words in all {
        let page = [&["piaas-bake".to_owned()], words.as_slice()].concat();
        let page = dir.join(format!("{}.1", page.join("-")));
        let text = std::fs::read_to_string(&page);
        let text = text.unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        assert!(text.contains(".SH SYNOPSIS"), "{}", page.display());
    }
    let page = sandbox.run(&["man"]).expect_code(0).stdout;
    assert!(page.contains(".SH SYNOPSIS"), "{page}");
}

/// `PIAAS_UPDATE=1 cargo test reference` writes it anew.
#[test]
fn the_reference_of_the_command_line_is_what_the_program_says() {
    let sandbox = Sandbox::new();
    let mut all = Vec::new();
    all_verbs(&sandbox, &[], &mut all);
    let mut text = String::from(
        "# The command line\n\nWhat `--help` says of every verb; a test keeps this file as it is.\n",
    );
    for words in &all {
        let mut args: Vec<&str> = words.iter().map(String::as_str).collect();
        let title = [&["piaas-bake"], args.as_slice()].concat().join(" ");
        args.push("--help");
        let help = sandbox.run(&args).expect_code(0).stdout;
        // The options of every verb stand once, with the first.
        let help = match help.split_once(GLOBAL) {
            Some((own, _)) if !words.is_empty() => own.to_owned(),
            _ => help,
        };
        text += &format!("\n## {title}\n\n```text\n{}\n```\n", help.trim_end());
    }
    assert_is_kept("src/cli/reference.md", &text, "reference");
}

/// The heading of the options that every verb has; they stand last.
const GLOBAL: &str = "\nOptions of every verb:\n";

#[test]
fn the_options_of_a_verb_stand_before_those_of_every_verb() {
    let sandbox = Sandbox::new();
    for help in ["--help", "-h"] {
        let help = sandbox.run(&["bake", help]).expect_code(0).stdout;
        let (own, global) = help.split_once(GLOBAL).unwrap();
        assert!(own.contains("--jobs") && !own.contains("--cloud"), "{help}");
        assert!(
            global.contains("--cloud") && !global.contains("--jobs"),
            "{help}"
        );
    }
}
