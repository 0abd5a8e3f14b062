mod bad_input;
pub(crate) mod cases;
mod parameters;
mod schema;
mod sections;
mod trees;

use std::fs;
use std::path::Path;

use super::*;
use model::{BaseRef, Value};

/// All that can be said about a recipe without a cloud, as the verb `lint` does it.
fn lint(dir: &Path, name: &str) -> Result<(), Diagnostics> {
    crate::render::lint(merge_for_lint(dir, name)?).map(|_| ())
}

/// A directory of recipes; each text is completed with what every recipe needs.
pub(crate) struct Kitchen(pub tempfile::TempDir);

impl Kitchen {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn dir(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn put(&self, path: &str, bytes: impl AsRef<[u8]>) -> &Self {
        let path = self.dir().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        self
    }

    /// A recipe with the given lines after its head, on an AMI.
    pub(crate) fn recipe(&self, name: &str, rest: &str) -> &Self {
        self.on(name, "{ ami: ami-0123456789abcdef0 }", rest)
    }

    pub(crate) fn on(&self, name: &str, from: &str, rest: &str) -> &Self {
        let head = format!(
            "schema: piaas-bake/v1\nname: {name}\nversion: 1.2.3\ndescription: A test.\nfrom: {from}\n"
        );
        self.put(&format!("{name}/recipe.yaml"), head + rest)
    }

    /// What lint says, without the directory.
    fn complaint(&self, name: &str) -> String {
        self.said(lint(self.dir(), name))
    }

    fn said(&self, judged: Result<(), Diagnostics>) -> String {
        let found = judged.expect_err("something is wrong with it");
        for diagnostic in &found.0 {
            assert!(
                diagnostic
                    .help
                    .as_ref()
                    .is_some_and(|help| !help.is_empty()),
                "{diagnostic}"
            );
        }
        found
            .to_string()
            .replace(&format!("{}/", self.dir().display()), "")
            .replace(&self.dir().display().to_string(), "RECIPES")
    }
}

/// Lints a recipe with these lines after its head (5 lines) and looks for the texts.
#[track_caller]
fn refused(rest: &str, expected: &[&str]) {
    let kitchen = Kitchen::new();
    let complaint = kitchen.recipe("a", rest).complaint("a");
    for text in expected {
        assert!(
            complaint.contains(text),
            "expected `{text}` in:\n{complaint}"
        );
    }
}

#[test]
fn a_whole_diagnostic() {
    let kitchen = Kitchen::new();
    kitchen.recipe("a", "pakages: [git]\n");
    assert_eq!(
        kitchen.complaint("a"),
        "error: unknown key `pakages`\n --> a/recipe.yaml:6:1\n  |\n6 | pakages: [git]\n  | ^\n  = help: did you mean `packages`?\n"
    );
}

#[test]
fn several_mistakes_are_reported_at_once() {
    refused(
        "packages: git\nfiles:\n  - path: etc/x\n    content: x\n    mode: 644\nsteps:\n  - name: x\n    run: x\n    timeout: 10\nimage: { size: 8GB }\n",
        &[
            "a/recipe.yaml:6:11",
            "expected a list, found text",
            "a/recipe.yaml:8:11",
            "`etc/x` is not a place for a file",
            "a/recipe.yaml:10:11",
            "is not a file mode",
            "such as \"0644\"",
            "a/recipe.yaml:14:14",
            "`10` is not a duration",
            "such as 90s, 10m",
            "a/recipe.yaml:15:16",
            "`8GB` is not a size",
            "write 8GiB",
        ],
    );
}

#[test]
fn yaml_that_is_not_for_recipes() {
    refused(
        "packages: []\npackages: []\n",
        &["7:1", "duplicate key `packages`", "already on line 6"],
    );
    refused("steps:\n\t- name: x\n", &["a/recipe.yaml:7:", "spaces"]);
    refused("steps: &a []\n", &["anchors"]);
    refused("steps: !x []\n", &["tags"]);
    refused("steps: [\n", &["not YAML"]);
    refused("---\nx: 1\n", &["second document"]);
    refused(
        &format!("steps: {}{}\n", "[".repeat(40), "]".repeat(40)),
        &["nested too deep"],
    );
    refused("1: x\n", &["6:1", "key `1` is not text"]);
    let kitchen = Kitchen::new();
    kitchen.put("a/recipe.yaml", "");
    assert!(kitchen.complaint("a").contains("the file is empty"));
    kitchen.put("a/recipe.yaml", b"schema: piaas-bake/v1\nname: \xff\n");
    assert!(
        kitchen.complaint("a").contains("a/recipe.yaml:2:7"),
        "{}",
        kitchen.complaint("a")
    );
    kitchen.put("a/recipe.yaml", "x".repeat(1 << 20) + "x");
    assert!(kitchen.complaint("a").contains("larger than 1048576 bytes"));
    kitchen.put("a/recipe.yaml", "a: &a [x]\nb: [*a, *a]\n");
    assert!(kitchen.complaint("a").contains("anchors"));
    kitchen.put("a/recipe.yaml", "just text\n");
    assert!(
        kitchen
            .complaint("a")
            .contains("expected a map, found text")
    );
}

/// The parser speaks of a line after the last one, and takes a carriage return for the end of a line.
#[test]
fn an_error_at_the_end_has_a_place_that_is_there() {
    let kitchen = Kitchen::new();
    for (text, place) in [
        ("name: a\n\"b\"", "a/recipe.yaml:2:4"),
        ("name: a\r\"b\"", "a/recipe.yaml:1:12"),
        ("name: [", "a/recipe.yaml:1:8"),
    ] {
        kitchen.put("a/recipe.yaml", text);
        let complaint = kitchen.complaint("a");
        assert!(
            complaint.contains(&format!("{place}\n")),
            "{text:?}: {complaint}"
        );
    }
}

/// A control character that YAML allows (here a carriage return that ends no line) does not reach the terminal.
#[test]
fn what_a_line_holds_does_not_steer_the_terminal() {
    let kitchen = Kitchen::new();
    kitchen.put(
        "a/recipe.yaml",
        "schema: piaas-bake/v1\nname: a\nversion: 1.0.0\ndescription: a\nfrom: { ami: ami-0123456789abcdef0 }\n\
         parameters: { \"n\\x1b\": \"x\r y\" }\n",
    );
    let complaint = kitchen.complaint("a");
    assert!(complaint.contains("is not a parameter name"), "{complaint}");
    assert!(!complaint.contains(['\r', '\x1b']), "{complaint:?}");
}

#[test]
fn heads() {
    let kitchen = Kitchen::new();
    kitchen.put("a/recipe.yaml", "schema: piaas-bake/v2\nname: b\nversion: 1.0\ndescription: ''\nfrom: { ami: x, ssm: /x }\n");
    let complaint = kitchen.complaint("a");
    for text in [
        "`piaas-bake/v2` is not a schema",
        "named `b`, its directory `a`",
        "`1.0` is not a semantic version",
        "`` is not one line",
        "5:17",
        "`ssm` cannot stand beside `ami`",
        "`x` is not an AMI id",
    ] {
        assert!(
            complaint.contains(text),
            "expected `{text}` in:\n{complaint}"
        );
    }
    kitchen.put("a/recipe.yaml", "schema: piaas-bake/v1\n");
    let complaint = kitchen.complaint("a");
    for key in ["name", "version", "description", "from"] {
        assert!(
            complaint.contains(&format!("`{key}` is missing")),
            "{complaint}"
        );
    }
}

#[test]
fn files_stay_inside_the_recipe() {
    let kitchen = Kitchen::new();
    kitchen.put("secret", "x").put("a/files/motd", "x");
    std::os::unix::fs::symlink("../secret", kitchen.dir().join("a/link")).unwrap();
    let source = |source: &str| {
        kitchen.recipe(
            "a",
            &format!("files:\n  - {{ path: /x, source: {source} }}\n"),
        );
        kitchen.complaint("a")
    };
    assert!(source("../secret").contains("`../secret` leads outside the recipe"));
    assert!(source("/etc/passwd").contains("leads outside"));
    assert!(source("link").contains("a link that leads outside"));
    assert!(source("files").contains("not a regular file"));
    let complaint = source("files/mtod");
    assert!(
        complaint.contains("does not exist") && complaint.contains("did you mean `motd`?"),
        "{complaint}"
    );
    assert!(complaint.contains("a/recipe.yaml:7:25"), "{complaint}");
}

#[test]
fn lines() {
    let kitchen = Kitchen::new();
    kitchen
        .on("a", "{ recipe: b }", "")
        .on("b", "{ recipe: c }", "")
        .on("c", "{ recipe: a }", "");
    assert!(
        kitchen
            .complaint("a")
            .contains("in a circle: a -> b -> c -> a")
    );
    kitchen.on("c", "{ recipe: bb }", "");
    let complaint = kitchen.complaint("a");
    assert!(
        complaint.contains("no recipe `bb`") && complaint.contains("c/recipe.yaml:5:17"),
        "{complaint}"
    );
    kitchen
        .recipe("c", "")
        .on("b", "{ recipe: c, version: ^2 }", "");
    let complaint = kitchen.complaint("b");
    assert!(
        complaint.contains("no version in range: `c` is at 1.2.3, not in `^2`"),
        "{complaint}"
    );
    assert!(complaint.contains("b/recipe.yaml:5:29"), "{complaint}");
    assert!(kitchen.complaint("x").contains("there is no recipe `x`"));
    let complaint = kitchen.recipe("Bad_Name", "").complaint("Bad_Name");
    assert!(
        complaint.contains("`Bad_Name` is not a recipe name")
            && complaint.contains("rename the directory")
            && !complaint.contains("did you mean"),
        "{complaint}"
    );
    fs::remove_dir_all(kitchen.dir().join("Bad_Name")).unwrap();
    assert_eq!(names(kitchen.dir()).unwrap(), ["a", "b", "c"]);
    assert!(lint(kitchen.dir(), "../a").is_err());
}

#[test]
fn a_recipe_that_cannot_be_read_is_one_all_the_same() {
    let kitchen = Kitchen::new();
    kitchen
        .recipe("sound", "")
        .put("g/recipe.yml", "")
        .put("none/motd", "");
    for (name, target) in [
        ("loop", "recipe.yaml"),
        ("gone", "nowhere"),
        ("device", "/dev/zero"),
    ] {
        std::fs::create_dir(kitchen.dir().join(name)).unwrap();
        std::os::unix::fs::symlink(target, kitchen.dir().join(name).join(FILE)).unwrap();
    }
    std::fs::create_dir_all(kitchen.dir().join("directory").join(FILE)).unwrap();
    std::fs::create_dir(kitchen.dir().join("fifo")).unwrap();
    let fifo = kitchen.dir().join("fifo").join(FILE);
    let made = std::process::Command::new("mkfifo").arg(fifo).status();
    assert!(made.unwrap().success());
    assert_eq!(
        names(kitchen.dir()).unwrap(),
        ["device", "directory", "fifo", "g", "gone", "loop", "sound"]
    );
    for (name, why) in [
        ("loop", "Too many levels of symbolic links"),
        ("gone", "No such file"),
        ("device", "it is not a regular file"),
        ("directory", "it is not a regular file"),
        ("fifo", "it is not a regular file"),
        ("g", "rename it to `recipe.yaml`"),
    ] {
        let complaint = kitchen.complaint(name);
        assert!(complaint.contains(why), "{name}: {complaint}");
        assert!(
            complaint.contains(&format!("{name}/recipe.y")),
            "{complaint}"
        );
    }
}

#[test]
fn the_line_is_merged_root_first_and_the_child_has_the_last_word() {
    let kitchen = Kitchen::new();
    kitchen.recipe(
        "root",
        "parameters:\n  port: { type: integer, default: 1 }\n  host: { type: string }\nimage: { size: 10GiB, architecture: arm64 }\nbuild: { instance_type: t4g.small, subnet: subnet-1, timeout: 2h }\n",
    );
    kitchen.on(
        "child",
        "{ recipe: root, version: ^1 }",
        "parameters: { port: 2, host: h }\nimage: { size: 20GiB }\nbuild: { subnet: null }\n",
    );
    let resolved = load(
        kitchen.dir(),
        "child",
        &Given {
            sets: vec![("host".into(), "$(x)".into())],
            ..Given::default()
        },
    )
    .unwrap();
    assert_eq!(
        resolved.base,
        BaseRef::Ami {
            id: "ami-0123456789abcdef0".into()
        }
    );
    assert_eq!(
        resolved
            .line
            .iter()
            .map(|recipe| recipe.name.as_str())
            .collect::<Vec<_>>(),
        ["root", "child"]
    );
    assert_eq!(
        resolved
            .line
            .iter()
            .map(|recipe| recipe.image.size_gib)
            .collect::<Vec<_>>(),
        [10, 20]
    );
    assert_eq!(resolved.parameters["port"], Value::Integer(2));
    assert_eq!(resolved.parameters["host"], Value::String("$(x)".into()));
    assert_eq!(
        (
            resolved.image.size_gib,
            resolved.image.architecture.as_str()
        ),
        (20, "arm64")
    );
    assert_eq!(
        (
            resolved.build.instance_types.as_slice(),
            resolved.build.subnets.as_slice()
        ),
        (["t4g.small".to_owned()].as_slice(), [].as_slice())
    );
    assert_eq!(resolved.build.timeout.as_secs(), 7200);

    let missing = load(kitchen.dir(), "root", &Given::default())
        .unwrap_err()
        .to_string();
    assert!(
        missing.contains("`host` has no value") && missing.contains("--set host="),
        "{missing}"
    );
    let sets = vec![
        ("port".into(), "x".into()),
        ("prot".into(), "1".into()),
        ("host".into(), String::new()),
    ];
    let wrong = load(
        kitchen.dir(),
        "root",
        &Given {
            sets,
            ..Given::default()
        },
    )
    .unwrap_err()
    .to_string();
    assert!(
        wrong.contains("does not fit the type integer") && wrong.contains("did you mean `port`?"),
        "{wrong}"
    );
}

#[test]
fn parameters() {
    refused(
        "parameters: { x: 1 }\n",
        &["6:18", "no parent declares the parameter `x`"],
    );
    refused(
        "parameters: { x: { type: text } }\n",
        &["not a type of parameters"],
    );
    refused(
        "parameters: { x: { type: integer, default: \"1\" } }\n",
        &["the default is text, the type is integer"],
    );
    refused("parameters: { X: 1 }\n", &["not a parameter name"]);
    refused("parameters: { x: 1.5 }\n", &["a number with a fraction"]);
    refused(
        "parameters: { x: { type: string, default: a } }\n",
        &["no template uses the parameter `x`"],
    );
    let kitchen = Kitchen::new();
    kitchen.recipe("root", "parameters: { n: { type: integer, default: 1 } }\n");
    kitchen.on("a", "{ recipe: root }", "parameters: { n: many }\n");
    assert!(
        kitchen
            .complaint("a")
            .contains("`n` is a parameter of type integer, not string")
    );
    kitchen.on(
        "a",
        "{ recipe: root }",
        "parameters: { n: { type: string, default: x } }\n",
    );
    assert!(
        kitchen
            .complaint("a")
            .contains("redefined as string; a parent declares it as integer")
    );
}

#[test]
fn templates_are_linted_at_their_place() {
    let step = |line: &str| {
        format!(
            "parameters: {{ who: {{ type: string, default: me }} }}\nsteps:\n  - name: x\n    run: |\n      true\n      {line}\n"
        )
    };
    refused(
        &step("echo {{ whom }} {{ who }}"),
        &[
            "a/recipe.yaml:11:12",
            "`whom` is not defined",
            "did you mean `who`?",
        ],
    );
    refused(
        &step("echo {{ who }} {{ who | uper }}"),
        &["a/recipe.yaml:11:31", "unknown filter `uper`"],
    );
    refused(
        &step("echo {{ who }} {{ who | }}"),
        &["a/recipe.yaml:11:31", "expected identifier"],
    );
    refused(
        &step("echo \"{{ who }}\""),
        &["a/recipe.yaml:11:13", "inside quotes"],
    );
    refused(
        &step("echo {{ who | safe }}"),
        &["a/recipe.yaml:11:", "every value is quoted by itself"],
    );
    refused(
        &step("{% set x %}{{ who }}{% endset %}"),
        &["a/recipe.yaml:11:7", "cannot use `{% set x %}`"],
    );
    refused(
        &step("{% if false %}{{ nope }}{% endif %}{{ who }}"),
        &["`nope` is not defined"],
    );
    refused(
        "steps:\n  - name: x\n    run: echo\n    env: { A: \"{{ b }}\" }\n",
        &["a/recipe.yaml:9:16", "`b` is not defined"],
    );
    refused(
        "steps:\n  - name: x\n    run: echo\n    env: { PIAAS_X: y, 1a: z }\n",
        &["`PIAAS_X` is reserved", "`1a` is not the name"],
    );
    refused(
        "parameters: { who: { type: string, default: me } }\nsteps:\n  - name: x\n    run: |\n      #!/usr/bin/python3\n      print({{ who }})\n",
        &["but `/usr/bin/python3` runs this", "env:"],
    );
    let kitchen = Kitchen::new();
    kitchen
        .put("a/s.sh", "echo\r\n")
        .recipe("a", "steps:\n  - { name: x, script: s.sh }\n");
    let complaint = kitchen.complaint("a");
    assert!(
        complaint.contains("a/s.sh:1:5") && complaint.contains("CRLF"),
        "{complaint}"
    );
    kitchen
        .put("a/s.sh.tera", "echo\n {{ x }}\n")
        .recipe("a", "steps:\n  - { name: x, template: s.sh.tera }\n");
    assert!(kitchen.complaint("a").contains("a/s.sh.tera:2:2"));
}

#[test]
fn a_new_recipe_lints_clean_and_nothing_is_overwritten() {
    let kitchen = Kitchen::new();
    let from = "/aws/service/debian/release/12/latest/amd64";
    assert_eq!(
        init(kitchen.dir(), "hello", from).unwrap(),
        [
            kitchen.dir().join("hello/recipe.yaml"),
            kitchen.dir().join("recipe.schema.json")
        ]
    );
    lint(kitchen.dir(), "hello").unwrap();
    init(kitchen.dir(), "hello-child", "hello").unwrap();
    assert!(
        init(kitchen.dir(), "hello", from)
            .unwrap_err()
            .to_string()
            .contains("is already there")
    );
    // What a process has left that died before the file was there is in nobody's way; what people have there is.
    kitchen.put("cut-off/.recipe.yaml.new", "name: cut");
    init(kitchen.dir(), "cut-off", "hello").unwrap();
    let left = std::fs::read_dir(kitchen.dir().join("cut-off")).unwrap();
    assert_eq!(left.count(), 1);
    kitchen.put("ours/files/motd", "hello");
    assert!(
        init(kitchen.dir(), "ours", from)
            .unwrap_err()
            .to_string()
            .contains("is already there")
    );
    assert!(init(kitchen.dir(), "Hello", from).is_err());
    assert!(
        init(kitchen.dir(), "x", "helo")
            .unwrap_err()
            .to_string()
            .contains("did you mean `hello`?")
    );
    // It declares a parameter of its parent anew, which is allowed; its file replaces the parent's.
    lint(kitchen.dir(), "hello-child").unwrap();
}

const COMMANDS: &str = "  status: a\n  stop: b\n  stopped: c\n  start: d\n";

#[test]
fn a_worker_section_is_inherited_and_replaced_as_a_whole() {
    let kitchen = Kitchen::new();
    kitchen
        .recipe(
            "a",
            "worker: { adapter: buildbot, unit: buildbot-worker@ci.service }\n",
        )
        .on("b", "{ recipe: a, version: ^1 }", "")
        .on(
            "c",
            "{ recipe: b, version: ^1 }",
            &format!("worker:\n  adapter: command\n{COMMANDS}  timeout: 5s\n"),
        );
    let resolved = load(kitchen.dir(), "c", &Given::default()).unwrap();
    assert!(resolved.installs_worker());
    let [a, b, c] = &resolved.line[..] else {
        panic!("three recipes")
    };
    assert!(
        matches!(&a.worker, Some(model::WorkerSpec::Buildbot(config))
        if config.unit == "buildbot-worker@ci.service" && config.report.starts_with("/run"))
    );
    // What the parent installs is in the child's image, and is not installed again.
    assert!(b.worker.is_none());
    assert!(
        matches!(&c.worker, Some(model::WorkerSpec::Command(commands))
        if commands.stopped.text == "c" && commands.timeout.as_secs() == 5)
    );
    kitchen.recipe("d", "");
    assert!(
        !load(kitchen.dir(), "d", &Given::default())
            .unwrap()
            .installs_worker()
    );
}

#[test]
fn what_is_wrong_with_a_worker_section_has_its_place_and_a_way_out() {
    refused(
        "worker: { adapter: jenkins }\n",
        &[
            "6:20",
            "`jenkins` is not an adapter",
            "choose from: buildbot, command",
        ],
    );
    refused("worker: { unit: x.service }\n", &["`adapter` is missing"]);
    refused("worker: ~\n", &["cannot be taken away"]);
    refused("worker: buildbot\n", &["6:9", "expected a map"]);
    refused(
        "worker:\n  adapter: buildbot\n  unti: x.service\n",
        &["8:3", "unknown key `unti`", "did you mean `unit`?"],
    );
    refused(
        "worker: { adapter: buildbot, unit: buildbot-worker@.service }\n",
        &["is not the name of a service"],
    );
    refused(
        "worker: { adapter: buildbot, unit: a.service, report: /tmp/x }\n",
        &["is not an absolute path below /run"],
    );
    refused(
        "worker: { adapter: buildbot, unit: a.service, status: x }\n",
        &["unknown key `status`"],
    );
    refused(
        "worker:\n  adapter: command\n  status: a\n  stop: ' '\n",
        &["9:9", "is not a command", "`stopped`", "`start`"],
    );
    refused(
        &format!("worker:\n  adapter: command\n{COMMANDS}  timeout: 31s\n"),
        &["12:12", "at most 30 s"],
    );
    refused(
        &format!(
            "worker:\n  adapter: command\n{}",
            COMMANDS.replace("stop: b", "stop: echo \"{{ nobody }}\"")
        ),
        &["a/recipe.yaml:9:", "nobody"],
    );
}
