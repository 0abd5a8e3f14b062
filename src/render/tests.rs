mod downloads;
mod hostile;
mod limits;
mod locked;
mod secrets;
mod trees;
mod when;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use super::*;
use crate::recipe;
use crate::recipe::diagnostic::Diagnostics;
use crate::recipe::model::Value;
use crate::recipe::tests::Kitchen;
use origin::Origin;
use tags::Dialect;
use template::Renderer;

fn text(
    template: &str,
    dialect: Dialect,
    parameters: &[(&str, Value)],
) -> Result<String, Diagnostics> {
    let parameters: BTreeMap<_, _> = parameters
        .iter()
        .map(|(name, value)| ((*name).into(), value.clone()))
        .collect();
    let mut found = Diagnostics::default();
    let text = Renderer::new(&parameters).render(
        template,
        Origin::File(Path::new("t")),
        dialect,
        &mut found,
    );
    text.ok_or(found)
}

/// What is said about a template that is refused.
#[track_caller]
fn refusal(template: &str, dialect: Dialect, parameters: &[(&str, Value)]) -> String {
    text(template, dialect, parameters).unwrap_err().to_string()
}

fn string(text: &str) -> Value {
    Value::String(text.into())
}

fn list(items: &[&str]) -> Value {
    Value::List(items.iter().map(|item| (*item).into()).collect())
}

/// The bytes that a script prints under the real shell.
fn run(script: &str) -> Vec<u8> {
    let output = Command::new("/bin/sh")
        .args(["-eu", "-c", script])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{script}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

#[test]
fn every_type_is_words_in_a_script_and_plain_elsewhere() {
    let parameters = [
        ("s", string("a 'b'")),
        ("n", Value::Integer(-5)),
        ("b", Value::Boolean(true)),
        ("l", list(&["x y", "", "it's"])),
        ("e", list(&[])),
    ];
    let script = |template: &str| text(template, Dialect::Script, &parameters).unwrap();
    assert_eq!(
        script("{{ s }} {{ n }} {{ b }}"),
        r"'a '\''b'\''' '-5' 'true'"
    );
    assert_eq!(
        script("x {{ l }} y {{- e -}} z"),
        r"x 'x y' '' 'it'\''s' yz"
    );
    assert_eq!(
        script("{% for i in l %}{{ i }};{% endfor %}"),
        r"'x y';'';'it'\''s';"
    );
    assert_eq!(script("{{ l | join(sep=\", \") }}"), r"'x y, , it'\''s'");
    assert_eq!(
        script("{% if n == -5 and b %}{{ s ~ n }}{% endif %}"),
        r"'a '\''b'\''-5'"
    );
    assert_eq!(
        script("{{ \"a b\" }} ${#x} {% raw %}{{ s }}{% endraw %}"),
        "'a b' ${#x} {{ s }}"
    );
    assert_eq!(
        script("{{ s | upper }} {{ l | first }} {{ l | sort }}"),
        r"'A '\''B'\''' 'x y' '' 'it'\''s' 'x y'"
    );
    let plain = text(
        "{{ s }} {{ n }} {{ b }} {# gone #}{% for i in l %}<{{ i }}>{% endfor %}",
        Dialect::Plain,
        &parameters,
    );
    assert_eq!(plain.unwrap(), "a 'b' -5 true <x y><><it's>");
}

#[test]
fn a_value_is_never_read_as_a_template() {
    let hostile = [("s", string("{{ t }}{% raw %}")), ("t", string("secret"))];
    assert_eq!(
        text("{{ s }}", Dialect::Plain, &hostile).unwrap(),
        "{{ t }}{% raw %}"
    );
}

#[test]
fn what_would_undo_quoting_is_refused() {
    let one = [("s", string("x")), ("l", list(&["x"]))];
    for bad in [
        "echo \"{{ s }}\"",
        "{{ s | safe }}",
        "{{ s | escape_html }}",
        "{{ s | newlines_to_br }}",
        "{% set y %}{{ s }}{% endset %}",
        "{% filter upper %}{{ s }}{% endfilter %}",
        "{% include \"x\" %}",
        "# {{ s }}",
        "{{ nope }}",
        "{{ s.t }}",
        "{{ s",
        "{% if %}",
    ] {
        assert!(text(bad, Dialect::Script, &one).is_err(), "{bad}");
    }
}

const LAYER: &str = "parameters:
  who: { type: string, default: \"it's $(me)\" }
packages: [git, g++]
files:
  - { path: /etc/plain, content: \"{{ who }}\\n\", mode: \"0600\" }
  - { path: \"/etc/with space's\", source: files/raw }
  - { path: /usr/local/bin/start, template: files/start.sh.tera, mode: \"0755\", owner: daemon, group: daemon }
steps:
  - name: First
    run: |
      printf %s {{ who }}
    env: { WHO: \"{{ who }}!\" }
    timeout: 1m
    retries: 2
    reboot: true
  - { name: Second, script: scripts/raw.sh }
validate:
  - { name: Check, run: test -e /etc/plain }
test:
  - { name: Check, run: test -e /etc/plain }
";

fn layer() -> (Kitchen, Layer) {
    let kitchen = Kitchen::new();
    kitchen
        .put("a/files/raw", b"\xff{{ who }}")
        .put("a/files/start.sh.tera", "#!/bin/sh\necho {{ who }}\n");
    kitchen
        .put("a/scripts/raw.sh", "echo \"{{ not rendered }}\"\n")
        .recipe("a", LAYER);
    recipe::load_for_lint(kitchen.dir(), "a").unwrap();
    let resolved = recipe::load(kitchen.dir(), "a", &recipe::Given::default()).unwrap();
    let layer = render(&resolved, b"agent").unwrap().remove(0);
    (kitchen, layer)
}

#[test]
fn a_recipe_becomes_scripts_and_payloads() {
    let (_kitchen, layer) = layer();
    let ids: Vec<_> = layer
        .provision
        .iter()
        .chain(&layer.validate)
        .chain(&layer.test)
        .map(|s| s.id.as_str())
        .collect();
    assert_eq!(
        ids,
        [
            "a/step-001-packages",
            "a/step-002-files",
            "a/step-003-first",
            "a/step-004-second",
            "a/validate-001-check",
            "a/test-001-check"
        ]
    );
    let first = &layer.provision[2];
    assert_eq!(first.text, "printf %s 'it'\\''s $(me)'\n");
    assert_eq!(first.env["WHO"], "it's $(me)!");
    assert_eq!(
        (first.timeout.as_secs(), first.retries, first.reboot),
        (60, 2, true)
    );
    assert_eq!(layer.provision[3].text, "echo \"{{ not rendered }}\"\n");
    let contents: Vec<_> = layer
        .files
        .iter()
        .map(|file| layer.payloads[&file.sha256].as_ref())
        .collect();
    assert_eq!(
        contents,
        [
            b"it's $(me)\n".as_slice(),
            b"\xff{{ who }}",
            b"#!/bin/sh\necho 'it'\\''s $(me)'\n"
        ]
    );
    assert!(
        layer.provision[0].text.contains("install -- 'git' 'g++'"),
        "{}",
        layer.provision[0].text
    );
    let place = format!(
        "place '{}' 'daemon' 'daemon' '0755' '/usr/local/bin/start'\n",
        layer.files[2].sha256
    );
    assert!(
        layer.provision[1].text.ends_with(&place),
        "{}",
        layer.provision[1].text
    );
}

#[test]
fn the_layer_can_be_written_out_and_its_own_scripts_please_shellcheck() {
    let (kitchen, layer) = layer();
    let out = kitchen.dir().join("out");
    let written = write_dir(&[layer], "", &out).unwrap();
    assert!(written.contains(&out.join("a/step-003-first.env")));
    assert!(
        written
            .iter()
            .all(|path| path.starts_with(&out) && path.is_file())
    );
    for own in ["a/step-001-packages", "a/step-002-files"] {
        assert_pleases_shellcheck(&fs::read_to_string(out.join(own)).unwrap());
    }
}

/// Where shellcheck is installed, it finds nothing in the text of a script.
fn assert_pleases_shellcheck(text: &str) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("script");
    fs::write(&file, text).unwrap();
    match Command::new("shellcheck")
        .arg("--shell=sh")
        .arg(&file)
        .output()
    {
        Ok(output) => assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        ),
        Err(_) => eprintln!("left out: shellcheck is not installed"),
    }
}

#[test]
fn the_scripts_of_a_line_have_the_source_date_of_its_lock() {
    let kitchen = Kitchen::new();
    kitchen.recipe("root", "").on(
        "child",
        "{ recipe: root }",
        "test: [{ name: Check, run: date }]\n",
    );
    let date = |lock: &str, out: &str| {
        kitchen.put("root/recipe.lock", lock);
        let resolved = recipe::load(kitchen.dir(), "child", &recipe::Given::default()).unwrap();
        let out = kitchen.dir().join(out);
        write_dir(&render(&resolved, b"agent").unwrap(), "", &out).unwrap();
        ["builder", "tester"].map(|machine| {
            fs::read_to_string(out.join(format!("{machine}.bundle/source-date"))).unwrap()
        })
    };
    let lock = "lock: 1\nrecipe: root\nasked: []\nindexes: []\npackages: []\n";
    assert_eq!(date(lock, "old"), ["1686355200\n"; 2]);
    let pinned = format!("{lock}source_date: 2020-01-01T00:00:00Z\n");
    assert_eq!(date(&pinned, "pinned"), ["1577836800\n"; 2]);
}

#[test]
fn the_files_script_installs_and_repeats() {
    let kitchen = Kitchen::new();
    let target = kitchen.dir().join("root/etc/deep/it's here");
    kitchen.recipe(
        "a",
        &format!(
            "files:\n  - {{ path: \"{}\", content: hello, mode: \"0640\" }}\n",
            target.display()
        ),
    );
    let mut layers = render(
        &recipe::load(kitchen.dir(), "a", &recipe::Given::default()).unwrap(),
        b"agent",
    )
    .unwrap();
    let out = kitchen.dir().join("bundle");
    write_dir(&layers, "", &out).unwrap();
    let user = String::from_utf8(run("id -un")).unwrap();
    let group = String::from_utf8(run("id -gn")).unwrap();
    // Files belong to root, which this test may not be.
    let script = layers.remove(0).provision.remove(0).text;
    let script = script.replace(
        " 'root' 'root' ",
        &format!(" '{}' '{}' ", user.trim(), group.trim()),
    );
    for _ in 0..2 {
        let status = Command::new("/bin/sh")
            .args(["-c", &script])
            .env("PIAAS_BUNDLE", &out)
            .status()
            .unwrap();
        assert!(status.success());
        assert_eq!(fs::read_to_string(&target).unwrap(), "hello");
    }
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        fs::metadata(&target).unwrap().permissions().mode() & 0o7777,
        0o640
    );
    assert_eq!(
        fs::metadata(target.parent().unwrap())
            .unwrap()
            .permissions()
            .mode()
            & 0o7777,
        0o755
    );
}

const WORKER: &str = "parameters: { who: { type: string, default: \"it's me\" } }
worker:
  adapter: command
  status: pgrep -u {{ who }} job && exit 1; exit 0
  stop: touch /var/lib/stop
  stopped: test -e /var/lib/stop
  start: rm -f /var/lib/stop
steps: [{ name: First, run: \"true\" }]
";

/// The payload that the layer's script installs at `path`.
fn installed(layer: &Layer, path: &str) -> String {
    let line = layer.provision[0]
        .text
        .lines()
        .find(|line| line.starts_with("place '") && line.ends_with(&format!(" '{path}'")))
        .unwrap_or_else(|| panic!("{path} is not installed:\n{}", layer.provision[0].text));
    let sha256 = line.split('\'').nth(1).unwrap();
    String::from_utf8(layer.payloads[sha256].to_vec()).unwrap()
}

#[test]
fn the_worker_agent_is_installed_before_the_steps_with_what_it_is_told() {
    let kitchen = Kitchen::new();
    kitchen.recipe("a", WORKER);
    let resolved = recipe::load(kitchen.dir(), "a", &recipe::Given::default()).unwrap();
    let layer = render(&resolved, b"the binary").unwrap().remove(0);
    let ids: Vec<_> = layer.provision.iter().map(|s| s.id.as_str()).collect();
    assert_eq!(ids, ["a/step-001-worker", "a/step-002-first"]);
    assert_eq!(
        installed(&layer, "/usr/local/bin/piaas-worker"),
        "the binary"
    );
    let config = kitchen.dir().join("worker.json");
    fs::write(&config, installed(&layer, crate::worker::config::PATH)).unwrap();
    let crate::worker::config::Config::Command(told) =
        crate::worker::config::Config::read(&config).unwrap()
    else {
        panic!("another adapter")
    };
    assert_eq!(
        (told.status.as_str(), told.timeout),
        ("pgrep -u 'it'\\''s me' job && exit 1; exit 0", 10)
    );
    let other = render(&resolved, b"another binary").unwrap().remove(0);
    assert_ne!(layer.worker, other.worker);
}

#[test]
fn a_buildbot_worker_is_held_back_by_its_unit() {
    let kitchen = Kitchen::new();
    kitchen.recipe("a", "worker: { adapter: buildbot, unit: b@ci.service }\n");
    let resolved = recipe::load(kitchen.dir(), "a", &recipe::Given::default()).unwrap();
    let layer = render(&resolved, b"agent").unwrap().remove(0);
    let unit = installed(
        &layer,
        "/etc/systemd/system/b@ci.service.d/50-piaas-worker.conf",
    );
    // The adapter refuses a unit that does not look for this very file.
    let hold = Path::new(crate::worker::store::DIR).join("hold");
    assert!(unit.contains(&format!(
        "ExecCondition=+/usr/bin/test ! -e {}\n",
        hold.display()
    )));
    assert_pleases_shellcheck(&layer.provision[0].text);
}
