//! Values of every kind through real shells: each arrives as it was given, or is refused.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;

use super::*;

/// The shells of this host that scripts are made for.
fn shells() -> Vec<&'static [&'static str]> {
    let all: [&[&str]; 4] = [&["/bin/sh"], &["dash"], &["bash"], &["busybox", "sh"]];
    let there = |shell: &&[&str]| {
        let status = Command::new(shell[0])
            .args(&shell[1..])
            .args(["-c", ":"])
            .stderr(Stdio::null())
            .status();
        let there = status.is_ok_and(|status| status.success());
        if !there {
            eprintln!("left out: there is no {}", shell.join(" "));
        }
        there
    };
    all.into_iter().filter(there).collect()
}

/// What each shell prints of a script in a file, which has no limit of length as an argument has.
#[track_caller]
fn every_shell_prints(script: &str, expected: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(script.as_bytes()).unwrap();
    for shell in shells() {
        let output = Command::new(shell[0])
            .args(&shell[1..])
            .arg("-eu")
            .arg(file.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let shown: String = script.chars().take(400).collect();
        assert!(
            output.status.success(),
            "{shell:?}: {shown}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            output.stdout == expected,
            "{shell:?} has another value: {shown}"
        );
    }
}

const SHOW: &str = "show() { for word do printf '%s\\0' \"$word\"; done; }
x={{ value }}
show {{ value }} \"$x\" \"<$(printf %s. {{ value }})>\" {{ items }} ${x:+{{ value }}}
case {{ value }} in {{ value }}) show \"$(case $x in {{ value }}) printf %s {{ value }}. ;; esac)\" ;; esac
";

fn shown(value: &str, items: &[String]) -> (String, Vec<u8>) {
    let parameters = [
        ("value", string(value)),
        ("items", Value::List(items.to_vec())),
    ];
    let script = text(SHOW, Dialect::Script, &parameters).unwrap();
    let mut expected = vec![value.to_owned(), value.to_owned(), format!("<{value}.>")];
    expected.extend(items.iter().cloned());
    // `:+` of an empty value is no word at all.
    if !value.is_empty() {
        expected.push(value.to_owned());
    }
    expected.push(format!("{value}."));
    let expected: String = expected.iter().map(|word| format!("{word}\0")).collect();
    (script, expected.into_bytes())
}

fn hostile() -> impl Strategy<Value = String> {
    let nasty = prop::sample::select(vec![
        "'",
        "\"",
        "$(id)",
        "`id`",
        "\n",
        ";",
        "&",
        "|",
        "\\",
        "{{ x }}",
        "{% raw %}",
        "-n",
        "--",
        "$HOME",
        "*",
        "~",
        "#",
        " ",
        "\t",
        "é",
        "\u{2028}",
        "\u{1f600}",
        "!",
        "<<E",
        "\r",
        "\u{7f}",
        "\u{1}",
        "'\\''",
        "if",
        "5>",
        "\u{1b}[31m",
        "\u{7}",
        "\u{c}",
        "\u{80}",
        "\u{a0}",
        "\u{ff}",
        "\u{fffd}",
        "${x:-y}",
        "$((1))",
        "<(id)",
        "\\\n",
        "\nE\n",
        "%s",
    ]);
    prop_oneof![
        // Every byte below 0x20 but NUL, and the characters that Latin-1 has for the bytes from 0x7f.
        "[\u{1}-\u{1f}\u{7f}-\u{ff}]{1,12}",
        prop::collection::vec(nasty, 0..8).prop_map(|parts| parts.concat()),
        "[^\u{0}]{0,20}"
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_values_arrive_through_real_shells(value in hostile(), items in prop::collection::vec(hostile(), 0..4)) {
        let (script, expected) = shown(&value, &items);
        every_shell_prints(&script, &expected);
    }
}

#[test]
fn every_character_of_one_byte_arrives() {
    let each: Vec<String> = ('\u{1}'..='\u{ff}').map(String::from).collect();
    let (script, expected) = shown(&each.concat(), &each);
    every_shell_prints(&script, &expected);
}

#[test]
fn a_value_of_a_megabyte_arrives() {
    let part = "it's \"$(id)\" `x` \\ \n é * ~ {{ x }} ";
    let value = part.repeat((1 << 20) / part.len() + 1);
    assert!(value.len() > 1 << 20);
    let parameters = [("value", string(&value))];
    let script = text("printf %s {{ value }}\n", Dialect::Script, &parameters).unwrap();
    every_shell_prints(&script, value.as_bytes());
}

/// A text that YAML takes as it is: most control characters must not stand in a file.
fn yaml(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|c| format!("\\U{:08x}", u32::from(c)))
        .collect();
    format!("\"{escaped}\"")
}

/// A program that is started with a longer variable is not started at all.
#[test]
fn a_variable_that_no_program_can_be_given_is_refused() {
    let kitchen = Kitchen::new();
    kitchen.recipe(
        "a",
        "parameters: { who: { type: string } }\nsteps:\n  - { name: x, run: 'true', env: { WHO: \"{{ who }}\" } }\n",
    );
    // With the name, a `=` and a NUL: 128 KiB.
    let most = 128 * 1024 - "WHO=".len() - 1;
    let with = |length: usize| {
        let sets = vec![("who".to_owned(), "x".repeat(length))];
        let given = recipe::Given {
            sets,
            ..recipe::Given::default()
        };
        render(&recipe::load(kitchen.dir(), "a", &given).unwrap(), b"agent")
    };
    let layers = with(most).unwrap();
    let out = kitchen.dir().join("out");
    write_dir(&layers, "", &out).unwrap();
    let step = out.join("a/step-001-x");
    let run = format!(
        ". '{0}.env'; env | wc -c | grep -qx '[0-9]\\{{6,\\}}' && printf yes",
        step.display()
    );
    every_shell_prints(&run, b"yes");
    let said = with(most + 1).unwrap_err().to_string();
    assert!(
        said.contains("`WHO` takes 131073 bytes") && said.contains("a/recipe.yaml:8:42"),
        "{said}"
    );
}

const LAYER: &str = "parameters: { who: { type: string }, many: { type: list } }
files:
  - { path: /bin/start, template: files/start.sh.tera, mode: \"0755\" }
  - { path: /etc/plain, content: \"<{{ who }}>\" }
steps:
  - name: Show it
    run: printf '%s\\0' \"$A\" \"$B\" {{ who }} {{ many }}
    env: { A: \"{{ who }}\", B: \"<{% for one in many %}{{ one }},{% endfor %}>\" }
";

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// As a machine runs a step: the environment is read from its file, then the script from its.
    #[test]
    fn environments_templates_and_files_hold_hostile_values(who in hostile(), many in prop::collection::vec(hostile(), 1..3)) {
        let kitchen = Kitchen::new();
        kitchen.recipe("a", LAYER).put("a/files/start.sh.tera", "#!/bin/sh\nprintf '%s\\0' {{ who }} {{ many }}\n");
        let list: Vec<_> = many.iter().map(|one| yaml(one)).collect();
        let values = format!("who: {}\nmany: [{}]\n", yaml(&who), list.join(", "));
        let file = kitchen.dir().join("values.yaml");
        fs::write(&file, values).unwrap();
        let given = recipe::Given { values: vec![file], ..recipe::Given::default() };
        let resolved = recipe::load(kitchen.dir(), "a", &given).unwrap();
        let layers = render(&resolved, b"agent").unwrap();
        let out = kitchen.dir().join("out");
        write_dir(&layers, "", &out).unwrap();
        let layer = &layers[0];
        prop_assert_eq!(&layer.payloads[&layer.files[1].sha256], &format!("<{who}>").into_bytes());

        let step = out.join("a/step-002-show-it");
        let start = out.join("files").join(&layer.files[0].sha256);
        fs::set_permissions(&start, fs::Permissions::from_mode(0o755)).unwrap();
        let words: String = many.iter().map(|word| format!("{word}\0")).collect();
        let list: String = many.iter().map(|word| format!("{word},")).collect();
        let expected = format!("{who}\0<{list}>\0{who}\0{words}{who}\0{words}");
        let run = format!(". '{0}.env'\n. '{0}'\n. '{1}'\n", step.display(), start.display());
        every_shell_prints(&run, expected.as_bytes());
    }
}

/// A NUL cannot be in a word of a shell, a file's text or an environment; every way in says so, and where.
#[test]
fn a_nul_is_refused_on_every_way_in() {
    const USE: &str = "steps: [{ name: x, run: 'echo {{ who }} {{ many }}' }]\n";
    let kitchen = Kitchen::new();
    let declared =
        "parameters: { who: { type: string, default: x }, many: { type: list, default: [] } }\n";
    kitchen.recipe("parent", &format!("{declared}{USE}"));
    let complaint = |name: &str, given: &recipe::Given| {
        recipe::load(kitchen.dir(), name, given)
            .unwrap_err()
            .to_string()
    };
    let none = recipe::Given::default();
    let refused = |said: &str, place: &str| {
        assert!(said.contains("NUL"), "{said}");
        assert!(said.contains(place), "{place} is not in: {said}");
    };
    for (option, value) in [("who", "a\0b"), ("many", "a,b\0")] {
        let sets = vec![(option.to_owned(), value.to_owned())];
        let given = recipe::Given {
            sets,
            ..recipe::Given::default()
        };
        refused(&complaint("parent", &given), &format!("--set {option}: "));
    }
    let values = kitchen.dir().join("values.yaml");
    for (text, place) in [
        ("who: \"a\\0b\"\n", "values.yaml:1:6"),
        ("many:\n  - a\n  - \"\\0\"\n", "values.yaml:3:5"),
    ] {
        fs::write(&values, text).unwrap();
        let given = recipe::Given {
            values: vec![values.clone()],
            ..recipe::Given::default()
        };
        refused(&complaint("parent", &given), place);
    }
    kitchen.on(
        "child",
        "{ recipe: parent }",
        "parameters: { who: \"a\\0b\" }\n",
    );
    refused(&complaint("child", &none), "child/recipe.yaml:6:20");
    kitchen.on(
        "child",
        "{ recipe: parent }",
        "parameters: { many: [a, \"\\0\"] }\n",
    );
    refused(&complaint("child", &none), "child/recipe.yaml:6:25");
    kitchen.recipe(
        "a",
        &format!("parameters: {{ who: {{ type: string, default: \"\\0\" }} }}\n{USE}"),
    );
    refused(&complaint("a", &none), "a/recipe.yaml:6:45");
    // And in what a recipe writes itself.
    kitchen.recipe("a", "steps:\n  - name: x\n    run: \"echo \\0\"\n");
    refused(&complaint("a", &none), "a/recipe.yaml:8:10");
    kitchen.recipe(
        "a",
        "steps:\n  - { name: x, run: x, env: { A: \"\\0\" } }\n",
    );
    refused(&complaint("a", &none), "a/recipe.yaml:7:34");
    kitchen.recipe("a", "files: [{ path: /x, content: \"\\0\" }]\n");
    refused(&complaint("a", &none), "a/recipe.yaml:6:30");
    kitchen.put("a/x.sh.tera", "echo \0\n");
    kitchen.recipe("a", "steps: [{ name: x, template: x.sh.tera }]\n");
    let said = recipe::load(kitchen.dir(), "a", &none)
        .and_then(|resolved| render(&resolved, b""))
        .unwrap_err()
        .to_string();
    refused(&said, "x.sh.tera:1:6");
}
