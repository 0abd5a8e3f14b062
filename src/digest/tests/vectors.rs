//! Known answers: recipes, the manifests that they have, and their digests, side by side in `vectors.txt`; and another
//! program's word on both.

use std::io::Write as _;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use regex::Regex;
use sha2::Digest as _;

use super::*;
use crate::recipe::model::Source;
use crate::recipe::tests::cases;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/digest/tests/vectors.txt");

/// What is known of one recipe: for each layer its digest and its manifest.
fn answers(case: &cases::Case) -> String {
    let kitchen = Kitchen::new();
    case.write(kitchen.dir());
    line(kitchen.dir(), "a")
        .into_iter()
        .map(|(manifest, digest)| format!("{digest} {}\n", manifest.to_canonical_json()))
        .collect()
}

/// An answer without the digests of scripts, files and what is below: these change with what a bake runs. What is left
/// changes with how a manifest is made.
fn shape(answer: &str) -> String {
    let sha256 = Regex::new("[0-9a-f]{64}").unwrap();
    sha256.replace_all(answer, "#").into_owned()
}

/// `UPDATE_EXPECTED=1 cargo test --lib digest` writes the file anew, if that is allowed.
#[test]
fn known_recipes_have_known_digests() {
    let text = fs::read_to_string(FILE).unwrap();
    let (head, _) = text.split_once("=== ").unwrap();
    let format_then = head
        .lines()
        .find_map(|line| line.strip_prefix("format: "))
        .unwrap();
    let mut now = head.replace(format_then, FORMAT);
    let mut changed = Vec::new();
    for case in cases::read(&text) {
        let said = answers(&case);
        let said = said.trim_end();
        // A case without answers is new.
        let same_shape = case.expected.is_empty() || shape(said) == shape(&case.expected);
        assert!(
            same_shape || format_then != FORMAT,
            "the manifest of \"{}\" is made in another way than before, and its format is still called {FORMAT}.\n\
             An old image's digest would never be met again, and two versions of piaas-bake would disagree about the same \
             recipe without a word. Take the change back; or raise `FORMAT` in src/digest/manifest.rs, write the answers \
             anew with UPDATE_EXPECTED=1, and tell in CHANGELOG.md that all images are baked again.\n\
             then: {}\nnow:  {said}",
            case.title,
            case.expected
        );
        if said != case.expected {
            changed.push(format!("=== {}\n{said}", case.title));
        }
        now.push_str(&format!(
            "=== {}\n{}---\n{said}\n\n",
            case.title, case.input
        ));
    }
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(FILE, now.trim_end().to_owned() + "\n").unwrap();
        return;
    }
    assert!(
        changed.is_empty() && format_then == FORMAT,
        "what is baked has changed (the seal, or a script that comes with piaas-bake), so every image is baked again. If \
         that is meant, write the answers anew with UPDATE_EXPECTED=1 and tell it in CHANGELOG.md:\n{}",
        changed.join("\n")
    );
}

/// The shape of a manifest says nothing about which bytes a sha256 in it is of. It is of those that a machine gets, as
/// `render` writes them.
#[test]
fn each_sha256_is_of_the_bytes_that_are_run_or_installed() {
    let sha256 = |bytes: &[u8]| hex::encode(sha2::Sha256::digest(bytes));
    let mut compared = 0;
    for case in cases::read(&fs::read_to_string(FILE).unwrap()) {
        let kitchen = Kitchen::new();
        case.write(kitchen.dir());
        let resolved = recipe::load(kitchen.dir(), "a", &recipe::Given::default()).unwrap();
        let layers = render::render(&resolved, b"agent").unwrap();
        let out = tempfile::tempdir().unwrap();
        render::write_dir(&layers, "", out.path()).unwrap();
        let of = |path: &str| sha256(&fs::read(out.path().join(path)).unwrap());
        for ((manifest, _), recipe) in chain(&resolved, &layers).iter().zip(&resolved.line) {
            let scripts = [&manifest.provision, &manifest.validate, &manifest.test];
            for script in scripts.into_iter().flatten() {
                assert_eq!(script.sha256.to_string(), of(&script.id), "{}", script.id);
                compared += 1;
            }
            for file in &manifest.files {
                assert_eq!(
                    file.sha256,
                    of(&format!("files/{}", file.sha256)),
                    "{}",
                    file.path
                );
                compared += 1;
            }
            for file in &recipe.files {
                // What is installed is what the recipe names, where that is no template.
                let Source::Raw(path) = &file.source else {
                    continue;
                };
                let wanted = sha256(&fs::read(path).unwrap());
                let of_path = manifest.files.iter().find(|one| one.path == file.path);
                assert!(
                    of_path.is_none_or(|one| one.sha256 == wanted),
                    "{}",
                    file.path
                );
            }
            if let Some(worker) = &manifest.worker {
                assert_eq!(worker.agent.to_string(), sha256(b"agent"));
                let config = fs::read(out.path().join(format!("files/{}", worker.config))).unwrap();
                assert_eq!(worker.config.to_string(), sha256(&config));
                serde_json::from_slice::<serde_json::Value>(&config).unwrap();
            }
            let bundle = out.path().join("builder.bundle");
            let seal = ["seal.sh", "sealed-paths"].map(|name| fs::read(bundle.join(name)).unwrap());
            // A line's seal knows secrets if one of its layers has some, and ends with what they say of their own.
            if layers
                .iter()
                .all(|layer| layer.secrets.is_empty() == manifest.secrets.is_empty())
            {
                let own: String = layers
                    .iter()
                    .flat_map(|layer| layer.sealed.iter().map(|one| one.line()))
                    .collect();
                let seal = seal.concat();
                let frame = seal.strip_suffix(own.as_bytes()).unwrap();
                assert_eq!(manifest.seal.to_string(), sha256(frame));
            }
        }
    }
    assert!(compared > 20, "{compared} compared");
}

/// `sha256(json.dumps(…))` by Python, of manifests as JSON, one a line; `None` if there is no Python.
fn python(manifests: &[String]) -> Option<Vec<String>> {
    const PROGRAM: &str = "import hashlib, json, sys
for line in sys.stdin.buffer.read().split(b'\\n')[:-1]:
    text = json.dumps(json.loads(line), sort_keys=True, separators=(',', ':'), ensure_ascii=False)
    print(hashlib.sha256(text.encode()).hexdigest())
";
    let started = Command::new("python3")
        .args(["-c", PROGRAM])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = started else {
        eprintln!("left out: python3 is not installed");
        return None;
    };
    let mut stdin = child.stdin.take().unwrap();
    let text: String = manifests.iter().map(|line| format!("{line}\n")).collect();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.lines().map(str::to_owned).collect())
}

/// Nothing in a digest is of this machine or this program: another one, in another language, comes to the same.
#[test]
fn python_has_the_same_digests_of_known_recipes() {
    let mut answers = Vec::new();
    for case in cases::read(&fs::read_to_string(FILE).unwrap()) {
        for line in case.expected.lines() {
            let (digest, json) = line.split_once(' ').unwrap();
            answers.push((digest.to_owned(), json.to_owned()));
        }
    }
    assert!(answers.len() > 10);
    let (digests, manifests): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
    if let Some(told) = python(&manifests) {
        assert_eq!(told, digests);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn python_has_the_same_digest_of_any_manifest(
        texts in prop::collection::vec((any::<String>(), "\\PC{0,8}", "[\u{0}-\u{9f}\u{2028}\u{2029}\u{fffe}\u{10ffff}\"\\\\/]{0,12}"), 50)
    ) {
        let (plain, _) = line(kitchen().dir(), "root").remove(0);
        let (mut digests, mut manifests) = (Vec::new(), Vec::new());
        for (one, two, three) in texts {
            let mut manifest = plain.clone();
            manifest.labels = BTreeMap::from([(one.clone(), two.clone()), (three.clone(), one.clone())]);
            manifest.packages = vec![two.clone(), three.clone()];
            manifest.provision[0].title = three.clone();
            manifest.provision[1].env = BTreeMap::from([(two, three), ("É".into(), one)]);
            digests.push(manifest.digest().to_string());
            manifests.push(serde_json::to_string(&manifest).unwrap());
        }
        if let Some(told) = python(&manifests) {
            prop_assert_eq!(told, digests);
        }
    }
}
